"""``selfprompt demo``: a page whose numbers are those of its run, made again without touching anything else."""

import json
import re
import statistics
from contextlib import redirect_stdout
from html import unescape
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from selfprompt import load
from selfprompt.benchmarks import runner
from selfprompt.cli import demo
from selfprompt.cli.main import main
from selfprompt.data import suites
from selfprompt.data.dataset import Dataset
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.suites.task import SuiteTask
from selfprompt.reports.demo_page import folded, predict_words

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_suite(photos):
    """A suite with one task of four classes, so that a demo takes seconds."""
    read = read_dataset(photos)
    shifted = Dataset("shifted", read.classes, test=read.test)
    task = SuiteTask("embedded", "objects", read, "a {} <thing>.", {"shifted & odd": shifted}, "Drawn by <us>.")
    others = suites.load_task
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "list_tasks", lambda suite: ("objects",))
        for module in (suites, runner):
            patch.setattr(module, "load_task", lambda name, *_: task if name == "embedded/objects" else others(name))
        yield task


@pytest.fixture(scope="module")
def out(small_suite, tmp_path_factory) -> Path:
    """Output folder of two demos, the second of which replaced the first; it also contains a file of the user."""
    folder = tmp_path_factory.mktemp("demo") / "it's here"
    (folder / "sep").mkdir(parents=True)
    (folder / "sep" / "mine.txt").write_text("keep")
    (folder / demo.RECORD).write_text("{}")
    (folder / demo.PAGE).write_text("an old page")
    with redirect_stdout(StringIO()) as told:
        assert main(["demo", "--fast", "--shots", "3", "--seed", "2", "--out", str(folder)]) == 0
    assert "\\n" not in told.getvalue(), "line breaks are lines"
    return folder


@pytest.fixture(scope="module")
def page(out) -> str:
    """The page's words."""
    text = (out / demo.PAGE).read_text(encoding="utf-8")
    return unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)))


def test_every_accuracy_on_the_page_is_of_the_run(out, page):
    record = json.loads((out / demo.RECORD).read_text())
    auto, halves = record["auto"], [*record["before"].values(), *record["after"].values()]
    floors = [auto[name] for name in ("zero_shot", "ridge") if auto[name]]
    measured = [auto["tuned"], *floors, *halves, *record["bench"].values()]
    known = {value for m in measured for value in (m["accuracy"], m["macro"], *m["interval"])}
    known |= {row["accuracy"] for row in auto["selection"]["candidates"]}
    known |= {auto["selection"]["estimate"]["accuracy"], *auto["selection"]["estimate"]["interval"]}
    known |= {100 / len(auto["tuned"]["confusion"]), *map(harmonic, (record["before"], record["after"]))}
    shown = set(re.findall(r"\d+\.\d %", page))
    assert record["finished"]
    assert len(shown) > 5
    assert shown <= {f"{value:.1f} %" for value in known}
    assert shown >= {f"{m['accuracy']:.1f} %" for m in measured}


def harmonic(halves) -> float:
    return statistics.harmonic_mean([halves["base"]["accuracy"], halves["new"]["accuracy"]])


def test_the_page_says_that_it_is_a_demo(page):
    assert "toys" in page
    assert "--fast cut training short" in page
    assert "--backbone open_clip/ViT-B-16/openai" in page
    assert "Drawn by <us>." in page
    assert "(shifted & odd)" in page


def test_the_commands_on_the_page_are_those_that_ran(out, page):
    commands = json.loads((out / demo.RECORD).read_text())["commands"]
    assert list(commands) == ["auto", "sep", "bench", "report"]
    words = " ".join(page.replace("\\\n", " ").split())
    assert not [command for command in commands.values() if " ".join(command.split()) not in words]


def test_what_the_page_refers_to_exists(out):
    for name in (demo.AUTO, demo.SEP):
        assert load(out / name).classes
    page = (out / demo.PAGE).read_text(encoding="utf-8")
    links = [unescape(target) for target in re.findall(r'href="([^"#]+)"', page)]
    assert links == ["classifier/report.html", "bench.html"]
    assert all((out / target).is_file() for target in links)
    with Image.open(out / demo.PICTURE) as picture:
        assert picture.width > 500
    assert sorted(path.suffix for path in (out / demo.UNSEEN).iterdir()) == [".png", ".png"]  # one of each new class


def test_only_files_of_the_demo_are_replaced(out, page):
    assert (out / "sep" / "mine.txt").read_text() == "keep"
    assert "an old page" not in page


@pytest.mark.parametrize("name", [demo.PAGE, "sep"])
def test_a_folder_of_somebody_else_is_left_alone(run, small_suite, tmp_path, name):
    (tmp_path / name).mkdir()
    said = run("demo", "--fast", "--out", tmp_path)
    assert said.status == 1
    assert f"contains {name}, which no demo wrote" in said.err
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_wrong_arguments_are_reported_before_anything_is_done(run, tmp_path):
    assert "--shots must be at least 1, got 0" in run("demo", "--shots", 0, "--out", tmp_path / "a").err
    (tmp_path / "file").write_text("")
    assert "is a file" in run("demo", "--out", tmp_path / "file").err
    assert "embedded/animals" in run("demo", "--task", "animls", "--out", tmp_path / "a").err
    assert not (tmp_path / "a").exists()


def test_a_command_that_fails_ends_the_demo(run, small_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "CLIP", "embedded/clop")
    said = run("demo", "--fast", "--out", tmp_path)
    assert said.status == 1
    assert "embedded/clop" in said.err
    assert not (tmp_path / demo.PAGE).exists()
    monkeypatch.undo()
    assert json.loads((tmp_path / demo.RECORD).read_text())["finished"] is False


def test_class_names_with_commas_stay_whole():
    assert predict_words(Path("o"), [Path("1.png")], ["a", "b, c"])[-1] == 'a,"b, c"'


def test_long_commands_are_folded_between_options():
    command = "selfprompt train x " + " ".join(f"--option{n} value" for n in range(20))
    lines = folded(command).split(" \\\n")
    assert len(lines) > 3
    assert max(map(len, lines)) <= 100
    assert " ".join(line.strip() for line in lines) == command
