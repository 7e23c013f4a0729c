"""2SFS's lists of training images: what is taken from them, and what is refused."""

import json

import pytest

from selfprompt.benchmarks.split_files import find_split_file, read_split_file
from selfprompt.data.suites import load_task
from tests.data.roots import draw_split, write_coop, write_text

PETS = ("abyssinian", "beagle", "boxer")
PLACE = "oxford_pets/split_fewshot/shot_2-seed_1_train.jsonl"


def line(image, label, **changed):
    values = {"_impath": f"oxford_pets/images/{image}", "_label": label, "_domain": -1, "_classname": PETS[label % 3]}
    return json.dumps(values | changed)


def lines():
    return [line(f"{label}/train-{number}.jpg", label) for label in range(3) for number in (3, 0)]


@pytest.fixture
def root(tmp_path):
    write_coop(tmp_path, "oxford_pets", draw_split(PETS, (4, 1, 2)))
    return tmp_path


def read(root, content):
    write_text(root / "splits" / PLACE, content)
    file = find_split_file(root / "splits", ("oxford_pets",), 2, 1)
    return read_split_file(file, load_task("coop/oxford_pets", root).dataset, root)


def test_images_in_their_order_one_of_them_twice(root):
    repeated = [*lines(), line("2/train-0.jpg", 2)]
    items = read(root, "\n".join([*repeated, ""]))
    assert [item.label for item in items] == [0, 0, 1, 1, 2, 2, 2]
    assert items[0].source == root / "oxford_pets/images/0/train-3.jpg"
    assert items[-1] == items[-2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 7 must be a JSON object"),
        ("[1]", "line 7 must have _impath, a text, and _label, a number"),
        (line("0/train-1.jpg", 0, _label="0"), "line 7 must have _impath"),
        (line("0/train-1.jpg", 0, _label=True), "line 7 must have _impath"),
        (line("0/train-1.jpg", 0, _impath=3), "line 7 must have _impath"),
        ("[" * 5000, "line 7 must be a JSON object"),
        (line("0/none.jpg", 0), "none.jpg is missing"),
        (line("0/test-1.jpg", 0), "test-1.jpg is not in the training split"),
        (line("0/val-0.jpg", 0), "val-0.jpg is not in the training split"),
        (line("0/train-1.jpg", 1), "has the label 0 in the data set, got 1"),
        (line("", 0, _impath="../secret.jpg"), "line 7: an image's path must lie below"),
        (line("", 0, _impath="/etc/passwd"), "line 7: an image's path must lie below"),
    ],
)
def test_wrong_lines_are_named(root, bad, message):
    with pytest.raises(ValueError, match=r"train\.jsonl") as caught:
        read(root, "\n".join([*lines(), bad]))
    assert message in str(caught.value)


def test_a_class_without_images(root):
    with pytest.raises(ValueError, match="lists no image of 'boxer'"):
        read(root, "\n".join(lines()[:4]))


def test_a_missing_list_is_named(root):
    with pytest.raises(ValueError, match=r"oxford_pets/split_fewshot/shot_2-seed_9_train.jsonl is missing"):
        find_split_file(root, ("oxford_pets", "pets"), 2, 9)


def test_a_list_that_changes_after_the_plan(root):
    place = write_text(root / "splits" / PLACE, "\n".join(lines()))
    file = find_split_file(root / "splits", ("oxford_pets",), 2, 1)
    place.write_text("\n".join(reversed(lines())))
    with pytest.raises(ValueError, match="changed while the benchmark ran"):
        read_split_file(file, load_task("coop/oxford_pets", root).dataset, root)


def test_the_command_line(root, run):
    write_text(root / PLACE, "\n".join(lines()))
    words = ["bench", "strict", "--suite", "coop", "--root", root, "--datasets", "oxford_pets", "--methods", "zs-lp"]
    words += ["--backbone", "embedded/clip", "--splits", root, "--shots", 2]
    done = run(*words, "--seeds", "1..2", "--out", root / "out")
    assert done.status
    assert "shot_2-seed_2_train.jsonl is missing" in done.err
    done = run(*words, "--seeds", 1, "--out", root / "out")
    assert done.status == 0, done.out + done.err
    (file,) = root.rglob("result.json")
    result, split = json.loads(file.read_text()), json.loads((file.parent / "split.json").read_text())
    assert result["supports"] == "files"
    listed = [f"oxford_pets/images/{label}/train-{number}.jpg" for label in (0, 1) for number in (3, 0)]
    assert [path for path, _ in split["train"]] == listed
    done = run(*words, "--seeds", 1, "--supports", "marginal")
    assert "--supports both say which images" in done.err
