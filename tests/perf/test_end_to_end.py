"""The command that measures commands from files to answers runs, on a CLIP of one block and three images."""

import pytest

from perf.end_to_end import RATIOS, Time, measure, same_answers, table

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.mark.slow
def test_measures_every_goal(capsys) -> None:
    times = measure(TINY, images=3, batch=2, rounds=1)
    assert all(min(spent.clock, spent.processor) > 0 for (spent,) in times.values())
    assert "the same class for 3 of 3 images" in capsys.readouterr().out


def test_the_table_has_the_median_of_the_ratios_of_rounds() -> None:
    seconds = {"plain script": (4.0, 9.0, 6.0), "predict": (2.0, 3.0, 2.0)}
    names = {name for _, above, below, _ in RATIOS for name in (above, below)}
    times = {name: [Time(2 * value, value) for value in seconds.get(name, (1.0, 1.0, 1.0))] for name in names}
    row = next(line for line in table(times).splitlines() if line.startswith("| predict "))
    assert row == "| predict | plain / predict | 12.0 / 4.0 | 3.00 [2.00, 3.00] | 6.0 / 2.0 | 3.00 [2.00, 3.00] |"


def test_answers_are_compared_by_path() -> None:
    ours = "image,rank,label,score\nb.jpg,1,cat,0.9\na.jpg,1,dog,0.8\n"
    assert same_answers("a.jpg\tdog\nb.jpg\tdog\n", ours) == (1, 2)
