"""The experiments behind documented figures run, on a part small enough for a test."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import betabinom

from experiments import (
    benchmark_resolution,
    embedded_rates,
    export_speed,
    folder_rates,
    holdout_intervals,
    interval_coverage,
    more_photos,
    paired_intervals,
    planted_errors,
    prediction_rates,
    sep_batches,
    serving_load,
    unknown_images,
)

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, module, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_rates(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setitem(embedded_rates.RATES, "coop", (0.02, 0.2))
    out = tmp_path / "rates.json"
    run(monkeypatch, embedded_rates, "--methods", "coop", "--datasets", "icons", "--shots", 1, "--out", out)
    done = json.loads(out.read_text())
    assert [entry["rate"] for entry in done] == [0.02, 0.2]
    assert all(0 <= entry["accuracy"] <= 100 for entry in done)
    best = max(done, key=lambda entry: entry["accuracy"])
    assert f"**{best['rate']:g}: {best['accuracy']:.1f}**" in capsys.readouterr().out


def test_folder_rates(monkeypatch, capsys, tmp_path: Path) -> None:
    out = tmp_path / "rates.json"
    run(monkeypatch, folder_rates, "--methods", "linear", "--tasks", "icons", "--shots", 1, "--out", out)
    (row,) = json.loads(out.read_text())
    assert row["factor"] >= 1
    rule = row["published"] if row["learnt"] >= 80 else row["searched"]
    numbers = " | ".join(f"{value:.1f}" for value in (row["learnt"], row["published"], row["searched"], rule))
    assert f"| linear | 1 | 1 | {numbers} |" in capsys.readouterr().out


def test_holdout_intervals(monkeypatch, capsys) -> None:
    run(monkeypatch, holdout_intervals, "--folders", 20)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == len(holdout_intervals.SETTINGS)
    assert all(float(allowed) >= float(plain) for *_, allowed, plain in rows)
    assert min(float(row[3]) for row in rows) >= 75  # of 20 folders, where one miss is 5 %


def test_paired_intervals(monkeypatch, capsys) -> None:
    monkeypatch.setattr(paired_intervals, "SETTINGS", (paired_intervals.Setting(60, 10, 10),))
    run(monkeypatch, paired_intervals, "--grids", 30)
    (row,) = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    anew, once, drawings = map(float, row[3:])
    assert anew < once < drawings
    assert drawings >= 80  # of 30 grids, where one miss is 3 %


def test_batches(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(sep_batches, "SIZES", (64,))
    out = tmp_path / "batches.json"
    words = ("--datasets", "icons", "--methods", "sep", "--seeds", 1, "--shots", 1, "--out", out)
    run(monkeypatch, sep_batches, *words)
    ordered, shuffled = json.loads(out.read_text())
    assert (ordered["order"], shuffled["order"]) == ("by class", "shuffled")
    assert ordered["accuracy"] == shuffled["accuracy"] > 5, "sep judges each image alone"
    assert f"| sep | shuffled | {shuffled['accuracy']:.1f} |" in capsys.readouterr().out


def test_most_intervals_of_auto_hold_the_true_accuracy(monkeypatch, capsys) -> None:
    outcomes = [interval_coverage.simulate(seed) for seed in range(5)]
    assert sum(outcome.covered for outcome in outcomes) >= 3
    assert all(0 < outcome.accuracy < 100 for outcome in outcomes)
    monkeypatch.setattr(interval_coverage, "simulate", lambda seed: outcomes[seed])
    run(monkeypatch, interval_coverage, "--folders", 5)
    assert "of 5 intervals hold the true accuracy" in capsys.readouterr().out


def test_planted_errors(monkeypatch, capsys) -> None:
    run(monkeypatch, planted_errors, "--datasets", "digits", "--images", 5, "--seeds", 1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["digits", "all"]
    assert rows[2][1:] == rows[3][1:]
    assert int(rows[2][5]) == 10
    assert 70 <= int(rows[2][6]) <= 100


def test_estimates_of_more_photos_hold(monkeypatch, capsys) -> None:
    monkeypatch.setattr(more_photos, "TEST", 2000)
    outcomes = [more_photos.simulate(seed) for seed in range(3)]
    monkeypatch.setattr(more_photos, "simulate", lambda seed: outcomes[seed])
    run(monkeypatch, more_photos, "--folders", 3)
    held = [int(line.split(":")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    known = [sum(len(getattr(outcome, kind)) for outcome in outcomes) for kind in ("curve", "gains")]
    assert held[0] >= 0.8 * known[0]
    assert held[1] >= 0.7 * known[1]


def test_unknown_images(monkeypatch, capsys) -> None:
    run(monkeypatch, unknown_images, "--datasets", "animals,food", "--methods", "ridge", "--shots", "8")
    out = capsys.readouterr().out
    assert "8 shots, 2 classifiers" in out
    assert "| largest logit |" in out
    assert "| exact promises | " in out
    assert "| ridge |" in out


@pytest.mark.parametrize(("split", "trainable", "tested"), [("alike", 50, 42), ("others", 16, 30)])
def test_images_drawn_for_training_are_not_tested(split, trainable, tested) -> None:
    images = unknown_images.list_images("icons", split)
    data, chosen = images.draw(8, seed=1)
    assert Counter(images.labels[images.trainable].tolist()) == dict.fromkeys(range(20), trainable)
    assert Counter(item.label for item in data.train) == dict.fromkeys(range(20), 8)
    assert Counter(images.labels[chosen].tolist()) == dict.fromkeys(range(20), tested)
    items = [item for item, test in zip(images.dataset.test, chosen.tolist(), strict=True) if test]
    assert not {item.source for item in items} & {item.source for item in data.train}


def test_shares_under_exact_promises_have_the_spread_of_random_orders() -> None:
    known = betabinom(25, 3, 37)
    expected = known.mean() / 25, known.var() / 25**2
    assert unknown_images.share_of_places(3, images=39, tested=25) == pytest.approx(expected)


def test_serving_load(monkeypatch, capsys) -> None:
    run(monkeypatch, serving_load, "--clients", 3, "--seconds", 2)
    out = capsys.readouterr().out
    assert "3 clients, 2 s: " in out
    assert " right\n" in out, "no other outcome"
    assert "exit status of the server: 0" in out


def test_prediction_rates(monkeypatch, capsys) -> None:
    pytest.importorskip("pyarrow")
    run(monkeypatch, prediction_rates, "--images", 12, "--batch", 4, "--device", "cpu", "--workers", 1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == ["read", "embedded/clip"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[1:])


def test_export_speed(capsys) -> None:
    export_speed.main(["--backbone", "embedded/mae", "--images", "3", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["fp32"] * 3 + ["int8"] * 3
    assert all(float(line.split()[-3]) > 0 for line in lines)


def test_benchmark_resolution(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark_resolution, "REPLICATES", 100)
    out = tmp_path / "right.json"
    words = ("--datasets", "icons", "--methods", "zero-shot,coop", "--out", out)
    run(monkeypatch, benchmark_resolution, *words, "--seeds", 1)
    first = capsys.readouterr().out.partition("The test images")[2]
    assert "160 images, 20 drawings" in first
    assert "600 images, 93 drawings" in first
    assert first.count("| coop - zero-shot | ") == 2
    monkeypatch.setattr(benchmark_resolution, "tune", None)
    run(monkeypatch, benchmark_resolution, *words, "--seeds", 1)
    assert capsys.readouterr().out.partition("The test images")[2] == first, "it resumes"


def test_what_is_resampled_widens_an_interval_of_the_resolution() -> None:
    rng, drawings = np.random.default_rng(0), np.repeat(np.arange(100), 5)
    correlated = np.stack([np.zeros(500), (rng.random(100) < 0.5).repeat(5)]).astype(bool)[:, None]
    independent = np.stack([np.zeros(500), rng.random(500) < 0.5]).astype(bool)[:, None]
    found = {}
    for name, right in (("correlated", correlated), ("independent", independent)):
        half = benchmark_resolution.Half(right, drawings, np.zeros(500, dtype=bool))
        found[name] = benchmark_resolution.compare([[half, half]], ["none", "half"])["none", "half"]
        assert found[name].widths["nothing"] == pytest.approx(0)
        assert found[name].difference == pytest.approx(found[name].discordance)
    # of the mean of two halves of 500 images or 100 drawings, each right with probability 1/2
    images, whole = 196 * np.sqrt(0.25 / 1000), 196 * np.sqrt(0.25 / 200)
    assert found["correlated"].widths["views"] == pytest.approx(0)
    assert found["correlated"].widths["images"] == pytest.approx(images, rel=0.1)
    assert found["correlated"].widths["drawings"] == pytest.approx(whole, rel=0.1)
    assert found["independent"].widths["drawings"] == pytest.approx(images, rel=0.15)
    assert found["independent"].views_for(images / 2, 5) == pytest.approx(4 * 5 * 0.8, rel=0.15)
