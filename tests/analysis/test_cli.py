"""``selfprompt analyze`` on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

TINY = ("--shots", "2", "--workers", "0")


def text_of(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


def test_a_tiny_run_from_training_to_the_page(photos, tmp_path, run) -> None:
    out = tmp_path / "vpt"
    vpt = ("--method", "vpt-deep", "--backbone", "embedded/mae", "--options.prompts", "3", "--epochs", "2")
    done = run("train", photos, *vpt, *TINY, "--keep_every", "1", "--out", out)
    assert done.status == 0, done.err
    assert sorted(path.name for path in (out / "epochs").iterdir()) == [f"000{n}.safetensors" for n in range(3)]
    before = (out / "prompts.safetensors").read_bytes()
    done = run("analyze", out, "--count", "2")
    assert done.status == 0, done.err
    assert "No nearest words: the method has no learned text prompts." in done.out
    assert "No selected patches: vpt does not select any." in done.out
    names = {"information.png", "attention.png", "attention-shares.png", "map.png", "index.html"}
    assert {path.name for path in (out / "analysis").iterdir()} == names
    for name in names - {"index.html"}:
        with Image.open(out / "analysis" / name) as picture:
            assert min(picture.size) > 100
    page = text_of(out / "analysis" / "index.html")
    assert ", on 2 images" in page
    assert "By finished epochs, one line per block." in page
    assert 'src="http' not in page
    assert (out / "prompts.safetensors").read_bytes() == before

    result = json.loads((out / "result.json").read_text())
    assert "data" not in json.loads((out / "config.json").read_text())["results"], "where the images are stays here"
    (out / "result.json").write_text(json.dumps({**result, "data": str(tmp_path / "gone")}))
    done = run("analyze", out)
    assert (done.status, done.out.count("Wrote")) == (1, 0)
    assert "are no longer at" in done.err
    assert "gone. Give --images." in done.err


def test_sep_shows_words_and_selected_patches(photos, tmp_path, run) -> None:
    out = tmp_path / "sep"
    done = run("train", photos, "--method", "sep", "--backbone", "embedded/clip", *TINY, "--epochs", "1", "--out", out)
    assert done.status == 0, done.err
    done = run("analyze", out, "--images", photos, "--count", "2", "--words", "2", "--out", tmp_path / "look")
    assert done.status == 0, done.err
    page = text_of(tmp_path / "look" / "index.html")
    assert (tmp_path / "look" / "selection.png").is_file()
    assert "nearest 2" in page
    assert "nearest 3" not in page
    assert "train with <code>--keep-every 1</code>" in page


def test_coop_needs_no_images(coop, tmp_path, run) -> None:
    done = run("analyze", coop, "--out", tmp_path)
    assert done.status == 0, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert "No attention to prompts: the method has no image prompts." in done.out
    assert "Nearest words of text prompts" in text_of(tmp_path / "index.html")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 1, "linear has no prompts to analyse."),
        (("--count", "0"), 2, "--count must be at least 1, got 0."),
    ],
)
def test_errors_are_one_sentence(linear, tmp_path, run, arguments, status, said) -> None:
    done = run("analyze", linear, "--out", tmp_path, *arguments)
    assert done.status == status
    assert said in done.err
    assert not list(tmp_path.iterdir())
