"""The page of a result: what it says about numbers that were worked out by hand, and as a command writes it."""

import json
import re
from html import unescape

import pytest
from PIL import Image

from selfprompt.data.dataset import Item
from selfprompt.inference.judged_images import JudgedImage, least_sure, most_wrong
from selfprompt.reports.result_page import ResultPage, write_result_page
from selfprompt.reports.verdict import compare_floors, expectation, judge

EVIL = "<script>cat</script>"


def metrics(correct, interval, total=100):
    """Metrics of two classes with the same number of images."""
    half = total // 2
    return {
        "accuracy": 100 * correct / total,
        "correct": correct,
        "total": total,
        "interval": list(interval),
        "macro": 100 * correct / total,
        "per_class": {EVIL: 100 * (correct - half) / half, "dog": 100.0},
        "calibration_error": 0.05,
        "confusion": [[correct - half, total - correct], [0, half]],
        "reliability": [[0.95, 0.9, 80], [0.7, 0.75, 20]],
    }


def results(**changed):
    """Results of SEP with both floors."""
    return {
        "method": "sep",
        "classes": [EVIL, "dog"],
        "tuned": metrics(90, (82.6, 94.5)),
        "ridge": metrics(80, (71.1, 86.7)),
        "zero_shot": metrics(60, (50.2, 69.1)),
        "against": {
            "ridge": {"tuned_only": 15, "floor_only": 5, "p": 0.041},
            "zero_shot": {"tuned_only": 35, "floor_only": 5, "p": 1e-6},
        },
        "history": [{"epoch": n, "loss": 1 / n, "train_accuracy": 0.5} for n in (1, 2)],
        "notes": ["Held out 25 %."],
    } | changed


def paired(tuned_only, floor_only, p):
    return {"ridge": {"tuned_only": tuned_only, "floor_only": floor_only, "p": p}}


@pytest.mark.parametrize(
    ("changed", "sentence", "kind"),
    [
        ({}, "Clearly better than zero-shot and ridge regression", "good"),
        ({"against": paired(6, 5, 1.0)}, "better than zero-shot, but not clearly better than ridge regression", "open"),
        ({"against": paired(5, 15, 0.041)}, "Worse than ridge regression: train with --method ridge instead", "bad"),
        ({"ridge": None, "zero_shot": None}, "Clearly better than guessing, which is right for 50.0 %", "open"),
        ({"tuned": metrics(55, (45.2, 64.4))}, "Not clearly better than guessing", "bad"),
        ({"tuned": None}, "unknown: there are no test images", "open"),
        ({"tuned": None, "selection": {"estimate": {}}}, "unknown", "open"),
        ({"method": "ridge", "zero_shot": None, "tuned": metrics(80, (71, 87))}, "better than guessing", "open"),
    ],
)
def test_the_verdict_is_one_sentence(changed, sentence, kind):
    said = judge(results(**changed))
    assert sentence in said[0]
    assert said[1] == kind


def test_without_a_paired_test_the_intervals_decide():
    floors = compare_floors(results(against=None))
    assert [(one.method, one.outcome, one.test) for one in floors] == [
        ("zero-shot", "better", ""),
        ("ridge", "level", ""),
    ]


def test_what_to_expect_is_said_with_its_range():
    said = expectation(results())
    assert said.startswith("Of 100 new images of this kind, expect about 90 to be classified right;")
    assert said.endswith("with 95 % confidence between 83 and 94.")
    assert "more labelled images" in expectation(results(tuned=metrics(80, (71.1, 86.7))))
    assert expectation(results(tuned=None)) == ""


def judged(path, truth, *top):
    return JudgedImage(Item(path, 0), truth, tuple(top), top[0][0] != truth)


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return [
        judged(tmp_path / "a.png", EVIL, ("dog", 0.9), (EVIL, 0.1)),
        judged(tmp_path / "b.png", EVIL, ("dog", 0.6), (EVIL, 0.4)),
        judged(tmp_path / "c.png", "dog", ("dog", 0.55), (EVIL, 0.45)),
    ]


def test_the_most_wrong_and_the_least_sure_images_come_first(images):
    assert most_wrong(images, 5) == images[:2]
    assert most_wrong(images, 1) == images[:1]
    assert least_sure(images, 2) == [images[2], images[1]]


@pytest.fixture
def page(tmp_path):
    """Write a page and return its source and its words."""

    def write(shown, *pictures, **more):
        path = tmp_path / "report.html"
        write_result_page(path, ResultPage("A <title>", shown, [("seed", "1")], *pictures, **more))
        source = path.read_text(encoding="utf-8")
        words = unescape(re.sub(r"<[^>]*>", " ", source[source.index("<body>") :]))
        return source, " ".join(words.split())

    return write


def test_the_page_shows_everything_that_was_measured(page, images):
    source, words = page(results(warnings=["It did not converge."]), images[:2], images[2:], usage="selfprompt predict")
    assert "<script>" not in source
    for said in (
        "90.0 % of 100 test images are right; 95 % interval 82.6 - 94.5 %",
        "It did not converge.",
        "15 are right only with sep and 5 only with ridge regression (McNemar's p = 0.041).",
        f"{EVIL} 40 of 50",
        f"{EVIL} dog 10 of 50",
        f"{EVIL} 40 10 dog 50",
        "✗ dog 90 % is <script>cat</script> · a.png",
        "dog 55 % or <script>cat</script> 45 % c.png",
        "probabilities are 0.0 points too low on average",
        "95 % 90 % 80",
        "selfprompt predict",
        "Held out 25 %.",
    ):
        assert said in words
    first_screen = words[: words.index("seed")]
    assert "Clearly better than zero-shot and ridge regression" in first_screen
    assert source.count("image/svg+xml") == 2, "calibration, training"


def test_a_page_without_test_images_shows_the_estimate(page):
    selection = {
        "chosen": "ridge",
        "candidates": [{"name": "ridge", "accuracy": 80.0, "standard_error": 2.0, "seconds": 1, "note": ""}],
        "estimate": {"accuracy": 79.0, "interval": [70.0, 86.0], "images": 60},
    }
    _, words = page(results(tuned=None, selection=selection, history=[]))
    assert "79.0 % expected on new images; 95 % interval 70.0 - 86.0 %" in words
    assert "ridge 80.0 % 2.0 1 s chosen" in words
    assert "Confident mistakes" not in words


def test_a_page_says_so_if_nothing_was_measured(page):
    _, words = page({"method": "sep", "classes": ["a", "b"], "tuned": None})
    assert "? accuracy on new images" in words
    assert "unknown: there are no test images" in words


def test_many_classes_do_not_make_a_page_long(page):
    count = 200
    confusion = [[int(row == column or column == 0) for column in range(count)] for row in range(count)]
    tuned = metrics(90, (82.6, 94.5)) | {"confusion": confusion}
    source, words = page(results(tuned=tuned, classes=[f"class {n}" for n in range(count)]))
    assert "The 60 lowest of 200 classes." in words
    assert "The 15 most frequent of 199 pairs." in words
    assert "Confusion matrix" not in words
    assert len(source) < 400_000


@pytest.mark.slow
def test_train_and_eval_write_a_page(run, photos, tmp_path):
    out, page = tmp_path / "out", tmp_path / "eval.html"
    options = ("--method", "linear", "--backbone", "embedded/mae", "--epochs", 2, "--workers", 0)
    assert run("train", photos, "--out", out, *options, "--html").status == 0
    tuned = json.loads((out / "result.json").read_text())["tuned"]
    written = (out / "report.html").read_text(encoding="utf-8")
    assert f"{tuned['accuracy']:.1f} %" in written
    assert f"selfprompt train {photos} --out {out} --method linear" in unescape(re.sub(r"</?span>", "", written))
    assert "green apple" in written
    wrong = written[written.index("Confident mistakes</h2>") : written.index("Least certain images</h2>")]
    assert wrong.count("<img") == tuned["total"] - tuned["correct"]
    assert run("eval", out, photos, "--html", page).status == 0
    assert f"{tuned['accuracy']:.1f} %" in page.read_text(encoding="utf-8")
    other = run("eval", out, photos, "--split", "all", "--html", page)
    assert other.status == 0
    assert "on the test images of then" in page.read_text(encoding="utf-8")
    assert "of 32 images are right" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_without_test_images_has_a_page_too(run, photos, tmp_path):
    options = ("--method", "simpleshot", "--backbone", "embedded/mae", "--holdout", 0, "--html")
    assert run("train", photos, "--out", tmp_path / "out", *options).status == 0
    assert "unknown: there are no test images" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
