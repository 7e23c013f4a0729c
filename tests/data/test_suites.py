"""The embedded suite, tasks by name, and ``selfprompt data``."""

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from pretraining.sets import SETS
from pretraining.tasks import PLANS
from pretraining.views import Look, view
from selfprompt.cli.main import main
from selfprompt.data.dataset import ArchivedFile, Item
from selfprompt.data.fewshot import draw_few_shot, select_base_new
from selfprompt.data.loading.image_files import BadImageError
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.suites import SUITES, embedded, list_tasks, load_task
from selfprompt.data.suites.contact_sheet import draw_contact_sheet
from selfprompt.data.suites.task import SuiteTask
from tests.data.images import write_classes

ROOT = Path(__file__).parents[2]
CHECKSUMS = {
    "animals": ("86369deccc2377c0", "382055dc692043b6"),
    "food": ("0ddb1c105e5b7aa8", "9e6b6e0f69cb3763"),
    "travel": ("e956c5e2d757f10e", "dcea644d5d0d31e3"),
    "objects": ("ef514f9fa66c6a26", "084a6b955d84aa34"),
    "faces": ("399483311f568ec5", "8ffc03374bd4bc40"),
    "flags": ("0218c04634c66121", "48d6c2a85e38ae4c"),
    "icons": ("90fa526cd9ec5431", "18388e0155acca84"),
}
"""Start of the SHA-256 of each task's two archives: documented figures hold for these images only."""


@pytest.fixture(scope="module", params=embedded.TASKS)
def task(request: pytest.FixtureRequest) -> SuiteTask:
    return load_task(f"embedded/{request.param}")


def folder_of(item: object) -> str:
    return Path(str(item)).parent.name.replace("_", " ")


def test_tasks_have_the_published_form(task: SuiteTask) -> None:
    dataset = task.dataset
    assert 20 <= len(dataset.classes) <= 50
    assert list(dataset.classes) == sorted(set(dataset.classes))
    for split, count in (("train", 16), ("val", 4), ("test", 8)):
        assert Counter(item.label for item in dataset.select(split)) == dict.fromkeys(
            range(len(dataset.classes)), count
        )
    assert len(task.domains) >= 2
    assert task.template.count("{}") == 1
    assert "THIRD_PARTY.md" in task.source


def test_labels_name_the_folder_that_an_image_is_in(task: SuiteTask) -> None:
    for dataset in (task.dataset, *task.domains.values()):
        items = dataset.select("all")
        assert items
        assert all(folder_of(item.source) == dataset.classes[item.label] for item in items)


def test_shifted_domains_have_two_images_of_each_of_their_classes(task: SuiteTask) -> None:
    for dataset in task.domains.values():
        assert not dataset.train
        assert not dataset.val
        assert set(dataset.classes) <= set(task.dataset.classes)
        assert len(dataset.classes) >= 10
        assert Counter(item.label for item in dataset.test) == dict.fromkeys(range(len(dataset.classes)), 2)


def test_no_picture_occurs_twice(task: SuiteTask) -> None:
    items = [item for dataset in (task.dataset, *task.domains.values()) for item in dataset.select("all")]
    assert all(isinstance(item.source, ArchivedFile) for item in items)
    assert len({item.source.read_bytes() for item in items}) == len(items)


def test_pictures_are_small_and_not_empty(task: SuiteTask) -> None:
    for item in (*task.dataset.test[::16], *(dataset.test[0] for dataset in task.domains.values())):
        image = item.load()
        assert (image.size, image.mode) == ((64, 64), "RGB")
        assert np.asarray(image).std() > 5


def test_the_halves_and_the_shots_are_as_published(task: SuiteTask) -> None:
    train, val = draw_few_shot(task.dataset.train, task.dataset.val, 8, seed=1)
    classes = len(task.dataset.classes)
    assert (len(train), len(val)) == (8 * classes, 4 * classes)
    base, new = select_base_new(task.dataset, "base"), select_base_new(task.dataset, "new")
    assert base.classes + new.classes == task.dataset.classes


def test_the_index_lists_every_file_and_only_sets_that_no_backbone_was_trained_on(task: SuiteTask) -> None:
    folder = embedded.FOLDER / task.name
    index = embedded.read_index(folder)
    with ZipFile(folder / embedded.ARCHIVE_NAME) as archive:
        assert [row[0] for row in sorted(index["images"])] == sorted(archive.namelist())
        assert archive.testzip() is None
    assert {row[3] for row in index["images"]} == set(index["sets"])
    known = {drawn.name: drawn for drawn in SETS}
    for name, about in index["sets"].items():
        assert known[name].role == "held-out"
        assert known[name].licence == about["licence"]
    parts = {(row[3], row[2]) for row in index["images"]}
    assert not {name for name, part in parts if part in ("train", "val")} & {
        name for name, part in parts if part == "test"
    }


def test_the_index_follows_the_plan(task: SuiteTask) -> None:
    plan = next(plan for plan in PLANS if plan.name == task.name)
    assert task.dataset.classes == plan.classes
    assert task.template == plan.template
    assert tuple(task.domains) == tuple(plan.domains)
    assert plan.shared in task.dataset.notes


def test_the_suite_is_small() -> None:
    files = [path for path in embedded.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10.5e6
    assert len(files) == 3 * len(embedded.TASKS), "thousands of single files burden a clone"
    assert len(embedded.TASKS) >= 6


def test_third_party_names_every_set_with_its_licence_and_use() -> None:
    rows = {
        match[1]: match[0]
        for line in (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
        if (match := re.match(r"\| \[.*?\| `(.*?)` \|.*", line))
    }
    used = {name for task in embedded.TASKS for name in embedded.read_index(embedded.FOLDER / task)["sets"]}
    for drawn in SETS:
        assert f"[{drawn.licence}]" in rows[drawn.npm], drawn.name
        assert ("weights" in rows[drawn.npm]) == (drawn.role == "pretrain"), drawn.name
        assert ("samples" in rows[drawn.npm]) == (drawn.name in used), drawn.name
    versions = json.loads((ROOT / "pretraining" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert all(f"| {versions[drawn.npm]} |" in rows[drawn.npm] for drawn in SETS)


def test_a_view_depends_on_its_seed_only() -> None:
    drawing = np.zeros((128, 128, 4), dtype=np.uint8)
    drawing[30:90, 40:80] = (200, 30, 30, 255)
    one, same, other = (
        np.asarray(view(drawing, Look(), False, np.random.default_rng(seed)).convert("RGB")) for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()


# --- further test images ---


def set_of(item: Item) -> str:
    """Return the set that a further test image is drawn from."""
    return Path(str(item.source)).stem.rpartition("-")[0]


def test_the_archives_are_those_of_the_documented_figures(task: SuiteTask) -> None:
    folder = embedded.FOLDER / task.name
    archives = (folder / embedded.ARCHIVE_NAME, folder / f"{embedded.MORE_TEST}.zip")
    assert tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in archives) == CHECKSUMS[task.name]


def test_each_class_has_the_same_number_of_further_test_images(task: SuiteTask) -> None:
    assert Counter(item.label for item in task.more_test) == dict.fromkeys(range(len(task.dataset.classes)), 22)
    assert all(folder_of(item.source) == task.dataset.classes[item.label] for item in task.more_test)
    assert all(item.load().size == (64, 64) for item in task.more_test[::50])


def test_the_sets_of_a_class_have_equally_many_test_images(task: SuiteTask) -> None:
    plan = next(plan for plan in PLANS if plan.name == task.name)
    (first,) = plan.test
    for label in range(len(task.dataset.classes)):
        counts = Counter(set_of(item) for item in task.more_test if item.label == label)
        counts[first] += 8
        assert len(counts) >= 2
        assert max(counts[name] for name in counts if name != first) - min(counts.values()) <= 1


def test_no_drawing_of_a_further_test_image_was_trained_on(task: SuiteTask) -> None:
    index = embedded.read_index(embedded.FOLDER / task.name)
    trained = {row[3] for row in index["images"] if row[2] in ("train", "val")}
    first = {row[3] for row in index["images"] if row[2] == "test"}
    known = {drawn.name: drawn for drawn in SETS}
    used = {set_of(item) for item in task.more_test}
    assert used <= index["sets"].keys(), "the index states their licences"
    assert not used & trained
    assert {known[name].role for name in used} == {"held-out"}
    assert not {known[name].family for name in used - first} & {known[name].family for name in trained}


def test_no_further_test_image_is_a_copy_of_another_image(task: SuiteTask) -> None:
    sources = [item.source for item in (*task.dataset.select("all"), *task.more_test)]
    sources += [item.source for domain in task.domains.values() for item in domain.test]
    contents = [source.read_bytes() for source in sources if isinstance(source, ArchivedFile)]
    assert len(set(contents)) == len(sources)


def test_further_test_images_are_listed_only_when_asked_for(tmp_path: Path) -> None:
    shutil.copytree(embedded.FOLDER / "icons", tmp_path / "icons")
    archive = tmp_path / "icons" / f"{embedded.MORE_TEST}.zip"
    archive.unlink()
    task = embedded.load_embedded_task("icons", tmp_path)
    with pytest.raises(ValueError, match=r"more_test\.zip cannot be read: .*Install the package again"):
        _ = task.more_test
    shutil.copy(embedded.FOLDER / "flags" / archive.name, archive)
    with pytest.raises(ValueError, match=r"more_test\.zip has images of other classes"):
        _ = task.more_test


def test_a_published_task_has_no_further_test_images() -> None:
    assert SuiteTask("coop", "food101", load_task("embedded/icons").dataset).more_test == ()


# --- by name ---


def test_a_task_is_a_data_set_by_its_name() -> None:
    dataset = read_dataset("embedded/flags")
    assert dataset == load_task("embedded/flags").dataset
    assert dataset.name == "embedded/flags"


def test_a_folder_takes_precedence_over_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "embedded" / "flags", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path)
    assert read_dataset("embedded/flags").classes == ("a", "b")


def test_classes_of_a_task_can_be_renamed() -> None:
    plain = read_dataset("embedded/flags")
    renamed = read_dataset("embedded/flags", classes={"Japan": "Nippon"})
    assert renamed.classes == tuple("Nippon" if name == "Japan" else name for name in plain.classes)
    assert renamed.test == plain.test


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded/animls", "Unknown task 'embedded/animls'. Did you mean embedded/animals?"),
        ("embedded/zzz", "Tasks of embedded: animals, food"),
        ("embeded/animals", "Unknown suite 'embeded'. Did you mean embedded?"),
        ("animals", "A task is named SUITE/TASK, such as embedded/animals, got 'animals'."),
    ],
)
def test_an_unknown_task_is_an_error_with_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_task(name)


def test_read_dataset_suggests_a_misspelt_task() -> None:
    with pytest.raises(ValueError, match="Did you mean embedded/animals"):
        read_dataset("embedded/animls")
    with pytest.raises(ValueError, match=r"embeded/animals does not exist.*Did you mean embedded/animals\?"):
        read_dataset("embeded/animals")


def test_missing_files_of_a_suite_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: the images of the embedded suite are missing"):
        embedded.load_embedded_task("animals", tmp_path)
    index = embedded.read_index(embedded.FOLDER / "animals")
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"misses \d+ of its images, the first is .*ant"):
        embedded.load_embedded_task("animals", tmp_path)


def test_loose_files_are_read_like_an_archive(tmp_path: Path) -> None:
    packed = load_task("embedded/icons")
    shutil.copytree(embedded.FOLDER / "icons", tmp_path / "icons")
    with ZipFile(tmp_path / "icons" / embedded.ARCHIVE_NAME) as archive:
        archive.extractall(tmp_path / "icons")
    (tmp_path / "icons" / embedded.ARCHIVE_NAME).unlink()
    loose = embedded.load_embedded_task("icons", tmp_path)
    for one, other in zip(packed.dataset.test[::20], loose.dataset.test[::20], strict=True):
        assert one.label == other.label
        assert one.load().tobytes() == other.load().tobytes()
        assert Path(str(one.source)).relative_to(embedded.FOLDER) == Path(str(other.source)).relative_to(tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    shutil.copytree(embedded.FOLDER / "icons", tmp_path / "icons")
    archive = tmp_path / "icons" / embedded.ARCHIVE_NAME
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"images\.zip cannot be read: .*Install the package again"):
        embedded.load_embedded_task("icons", tmp_path)
    with ZipFile(embedded.FOLDER / "icons" / embedded.ARCHIVE_NAME) as whole:
        start = whole.start_dir
    archive.write_bytes(b"\0" * start + content[start:])  # the list of its members stands at the end
    item = embedded.load_embedded_task("icons", tmp_path).dataset.test[0]
    with pytest.raises(BadImageError, match="icons/test/"):
        item.load()


def test_every_suite_lists_its_tasks() -> None:
    assert list_tasks("embedded") == embedded.TASKS
    assert all(list_tasks(suite) for suite in SUITES)
    with pytest.raises(ValueError, match="Suites: embedded, coop, vtab, fgvc"):
        list_tasks("nothing")


# --- the command line ---


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a terminal in which no table is folded, whatever terminal runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")


def test_the_list_shows_all_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for expected in ("embedded/animals", "coop/oxford_pets", "vtab/caltech101", "fgvc/cub", "CC-BY-4.0"):
        assert expected in shown


def test_the_list_of_one_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "embedded"]) == 0
    shown = capsys.readouterr().out
    assert "448 / 112 / 224" in shown
    assert "coop/" not in shown
    assert main(["data", "list", "embeded"]) == 2
    assert "Did you mean embedded?" in capsys.readouterr().err


def test_a_picture_of_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "faces.png"
    assert main(["data", "show", "embedded/faces", "--out", str(out), "--rows", "5"]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.height < 400
        assert len(picture.getcolors(2**20) or []) > 500  # full of pictures


def test_a_sheet_has_a_row_for_each_class(task: SuiteTask) -> None:
    few, many = draw_contact_sheet(task, 2), draw_contact_sheet(task, 3)
    assert few.width == many.width
    assert many.height - few.height == 66


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "An action is needed"),
        (["lst"], "unknown action 'lst'. Did you mean list?"),
        (["show", "embedded/flags", "--out", "flags.jpg"], "--out must end in .png"),
        (["show", "embedded/flags", "--rows", "0"], "--rows must be at least 1"),
        (["show", "embedded/flgs"], "Did you mean embedded/flags?"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
