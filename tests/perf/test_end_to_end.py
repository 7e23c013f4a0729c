"""The command that measures commands from files to answers, on a CLIP of one block and three images."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from perf import end_to_end, plain_predict
from perf.end_to_end import RATIOS, Time, measure, run, same_answers, table
from selfprompt.cli.main import main

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def test_every_contender_does_its_work_and_the_answers_agree(monkeypatch, capsys) -> None:
    def run_here(command: Sequence[str], log: Path) -> tuple[Time, str]:
        capsys.readouterr()
        if "selfprompt" in command:
            assert main(command[3:]) == 0
        elif "-c" in command:
            monkeypatch.setattr(sys, "argv", list(command[2:]))
            exec(command[2], {})
        else:
            plain_predict.main(command[2], command[3], int(command[4]))
        return Time(1.0, 1.0), capsys.readouterr().out

    monkeypatch.setattr(plain_predict, "WORKERS", 0)
    monkeypatch.setattr(end_to_end, "run", run_here)
    times = measure(TINY, images=3, batch=2, rounds=1)
    assert "the same class for 3 of 3 images" in capsys.readouterr().out
    assert set(times) == {name for _, above, below, _ in RATIOS for name in (above, below)}


def test_the_contenders_take_turns(monkeypatch) -> None:
    order = []
    monkeypatch.setattr(end_to_end, "write_inputs", lambda *_: {"plain script": "first", "predict": "second"})
    monkeypatch.setattr(end_to_end, "run", lambda command, log: (order.append(command), ""))
    assert {len(spent) for spent in measure(TINY, 1, 1, rounds=3).values()} == {3}
    assert order == ["first", "second", "second", "first", "first", "second"]


def test_a_child_process_is_timed_and_its_failure_told(tmp_path: Path) -> None:
    spent, printed = run([sys.executable, "-c", "print(6 * 7)"], tmp_path / "log")
    assert min(spent.clock, spent.processor) > 0
    assert printed == "42\n"
    with pytest.raises(RuntimeError, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log")


def test_the_table_has_the_median_of_the_ratios_of_rounds() -> None:
    seconds = {"plain script": (4.0, 9.0, 6.0), "predict": (2.0, 3.0, 2.0)}
    names = {name for _, above, below, _ in RATIOS for name in (above, below)}
    times = {name: [Time(2 * value, value) for value in seconds.get(name, (1.0, 1.0, 1.0))] for name in names}
    row = next(line for line in table(times).splitlines() if line.startswith("| predict "))
    assert row == "| predict | plain / predict | 12.0 / 4.0 | 3.00 [2.00, 3.00] | 6.0 / 2.0 | 3.00 [2.00, 3.00] |"


def test_answers_are_compared_by_path() -> None:
    ours = "image,rank,label,score\nb.jpg,1,cat,0.9\na.jpg,1,dog,0.8\n"
    assert same_answers("a.jpg\tdog\nb.jpg\tdog\n", ours) == (1, 2)
