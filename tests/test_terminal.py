"""Output to a terminal: untrusted names cannot control it, and are shown literally."""

import io
import re
import sys
import warnings

import pytest

from selfprompt.cli.console import Console, Output, table
from selfprompt.cli.main import main
from selfprompt.utils.wording import printable

NAMES = {
    "escape": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "one-byte escape": ("a\x9b2Jb", r"a\x9b2Jb"),
    "title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "line break": ("a\nselfprompt: all is well", r"a\nselfprompt: all is well"),
    "return": ("good\rbad", r"good\rbad"),
    "tab": ("a\tb", r"a\tb"),
    "backspace": ("a\x08b", r"a\x08b"),
    "delete": ("a\x7fb", r"a\x7fb"),
    "null": ("a\0b", r"a\x00b"),
    "override": ("cod\u202egpj.exe", r"cod\u202egpj.exe"),
    "isolate": ("\u2066a\u2069", r"\u2066a\u2069"),
    "zero width": ("c\u200bat\ufeff", r"c\u200bat\ufeff"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "tag": ("a\U000e0041", r"a\U000e0041"),
    "no Unicode": ("a\udcff", r"a\udcff"),
}
PLAIN = (
    "caf\xe9",
    "cafe\u0301",
    "猫, klein",
    "حصان",
    "👍🏽",
    "[red]a[/red]",
    "a\\x1b",
    "C:\\new",
    "a\u3000b",
    "a\xa0b",
)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A name, and what is to be seen of it."""
    return NAMES[request.param]


@pytest.fixture
def terminal() -> Console:
    """A wide terminal that keeps what it gets, without colours."""
    return Console(file=io.StringIO(), force_terminal=True, width=200, no_color=True, highlight=False, emoji=False)


def got(terminal: Console) -> str:
    file = terminal.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_names_are_spelled_out(name: tuple[str, str]) -> None:
    assert printable(name[0]) == name[1]
    assert printable(name[1]) == name[1]


@pytest.mark.parametrize("text", PLAIN)
def test_visible_characters_are_kept(text: str) -> None:
    assert printable(text) == text


def test_a_line_is_a_line(name: tuple[str, str], terminal: Console) -> None:
    Output(terminal).message(f"skipped {name[0]}: broken")
    assert got(terminal) == f"skipped {name[1]}: broken\n"


def test_tables_hold_names(name: tuple[str, str], terminal: Console) -> None:
    terminal.print(table(f"about {name[0]}", ["class", "accuracy"], [[name[0], "50.0 %"], ["x", "1.0 %"]]))
    *_, row, other, _ = got(terminal).splitlines()
    assert name[1] in row
    assert len(row) == len(other), "columns stand below each other"
    sent = re.sub(r"\x1b\[\d*m|\n", "", got(terminal))  # without rich's own styles
    assert sent.isprintable()


def test_bars_hold_names(name: tuple[str, str], terminal: Console) -> None:
    with Output(terminal).stage(f"unpacking [bold]{name[0].replace(chr(10), ' ')}") as progress:
        progress(1, 2)
    assert f"unpacking [bold]{name[1]}".replace(r"\n", " ") in got(terminal)


def test_errors_hold_names(name: tuple[str, str], run) -> None:
    word = name[0].replace("\0", "")
    done = run("report", f"./{word}")
    assert done.status == 1
    assert printable(word) in done.err
    assert done.err.count("\n") == 1
    assert done.err[:-1].isprintable()
    assert printable(f"unknown command {word!r}") in run(word).err


def test_warnings_hold_names(name: tuple[str, str], run, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(options: object) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn(f"{name[0]} is dark", stacklevel=1)
        return 0

    monkeypatch.setattr("selfprompt.cli.backbones.backbones", command)
    shown = warnings.showwarning
    assert run("backbones").err == f"selfprompt: warning: {name[1]} is dark\n"
    assert warnings.showwarning is shown


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_predictions_hold_names(form: str, run, linear, photos, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "cod\u202egpj.exe\x9b2J\n.png"
    image.write_bytes((photos / "blue" / "0.png").read_bytes())
    assert "\u202e" in run("predict", linear, image, "--format", form).out or form == "table", "a file gets the name"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(len(str(image)) + 100))  # so that a table need not fold the path
    shown = run("predict", linear, image, "--format", form).out
    assert r"cod\u202egpj.exe\x9b2J\n.png" in shown.replace("\n", "")
    assert "\u202e" not in shown
    assert form not in ("csv", "jsonl") or len(shown.splitlines()) == 1 + (form == "csv")


def test_sentences_are_broken_between_words_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["trian"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).startswith("selfprompt: unknown command 'trian'. Did you mean 'train'? Commands: train,")
    monkeypatch.delenv("COLUMNS")
    console = Console(file=io.StringIO(), force_terminal=True, width=20, highlight=False)
    console.print_text("Left out 3 files that are no images.")
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines == ["Left out 3 files", "that are no images."]


def test_a_long_word_stays_whole_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=20, highlight=False)
    console.print_text("Saved to /a/very-long/folder-of/results now.")
    assert console.file.getvalue().split() == ["Saved", "to", "/a/very-long/folder-of/results", "now."]
