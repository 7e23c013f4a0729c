"""The command from end to end on the embedded backbones, its files, its errors, and what its rows say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perf import measurement as measuring
from perf.__main__ import main
from perf.arithmetic import SIDE, Rate
from perf.cases import WORKLOADS, Case, Size, Target, select_cases
from perf.command import remarks, results_table
from perf.measurement import BUILDERS, TimeBudget, measure_case, targets_met, with_targets
from perf.names import class_names
from perf.plain_sep import PlainFusion
from perf.plots import ratio_bars
from perf.setup import Contenders, NoiseImages, PerfSetup
from perf.timing import Clock, Lap
from selfprompt.cli.console import make_console

TINY = {
    "sep-step": Size(4, 2),
    "sep-authors-step": Size(4, 2),
    "sep-text": Size(4),
    "sep-images": Size(4, 2),
    "sep-evaluation": Size(4, 2),
    "coop-text": Size(4),
    "coop-step": Size(2, 2),
    "coop-epoch": Size(2, 2, 4),
    "linear-epoch": Size(2, 2, 4),
    "spt-step": Size(4, 2),
    "spt-average": Size(4, 2),
    "prototypes": Size(images=4),
    "predict": Size(3, 2, 4),
}
ONCE = TimeBudget(1, 0.0)


def case_of(name: str, size: Size, target: Target | None = None) -> Case:
    return Case(select_cases([name])[0].workload, size, target or Target())


@pytest.fixture(scope="module")
def perf_setup() -> PerfSetup:
    return PerfSetup()


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDE, "cpu", 64)


@pytest.mark.parametrize("name", TINY)
def test_both_contenders_compute_the_same(perf_setup: PerfSetup, name: str) -> None:
    contenders = BUILDERS[name](perf_setup, TINY[name])
    assert max(contenders.compare().values()) <= 1e-4
    contenders.plain_at(TINY[name].classes or TINY[name].images)()
    contenders.ours()


def test_every_case_can_be_built() -> None:
    assert set(BUILDERS) == {workload.name for workload in WORKLOADS}
    assert set(TINY) | {"kmeans"} == set(BUILDERS)


def test_many_classes_are_compared_in_chunks(perf_setup: PerfSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.clip_cases.CHUNK", 3)
    assert max(BUILDERS["sep-step"](perf_setup, Size(7, 2)).compare().values()) <= 1e-4
    assert max(BUILDERS["coop-text"](perf_setup, Size(7)).compare().values()) <= 1e-4


@pytest.mark.slow
def test_kmeans_start_is_nearly_as_good_as_full_kmeans(perf_setup: PerfSetup) -> None:
    differences = BUILDERS["kmeans"](perf_setup, Size(images=16)).compare()
    assert 0 <= differences["inertia"] <= 0.05


def test_compare_sees_a_changed_result(perf_setup: PerfSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = BUILDERS["sep-images"](perf_setup, Size(4, 2))
    monkeypatch.setattr(PlainFusion, "forward", lambda self, tokens, prompts: tokens)
    assert max(contenders.compare().values()) > 1e-4


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "perf"
    arguments = ["--cases", "sep-step,spt-step", "--classes", "5", "--batch", "2", "--rounds", "1", "--seconds", "0"]
    assert main([*arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "SEP training step" in text
    assert "Targets apply to ViT-B shapes" in text
    report = json.loads((out / "perf.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "SEP training step, 5 classes, batch 2",
        "SPT-deep step, class token, 5 classes, batch 2",
    ]
    for row in report["rows"]:
        assert row["equal"]
        assert set(row["differences"]) == {"logits", "loss", "gradients"}
        assert min(row[name] for name in ("plain", "ours", "of_peak")) > 0
        assert row["operations"] > 1e6
        assert row["met"] == {}
    assert report["rows"][1]["memory"]["ours"] > 0
    assert report["settings"]["backbone"] == "embedded"
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert report["machine"]["processor"]
    assert (out / "perf.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_compared_in_float32_whatever_is_measured(tmp_path: Path) -> None:
    arguments = ["--cases", "spt-step", "--classes", "2", "--batch", "1", "--rounds", "1", "--seconds", "0"]
    assert main([*arguments, "--precision", "bf16-mixed", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "perf.json").read_text())
    assert report["settings"]["precision"] == "bf16-mixed"
    assert report["rows"][0]["equal"]


def test_command_fails_where_results_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILDERS, "sep-text", lambda setup, size: fake_contenders({"features": 0.5}))
    assert main(["--cases", "sep-text", "--rounds", "1", "--seconds", "0", "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "results differ by more than 0.0001: features 5.0e-01" in text
    assert "DIFFER" in text


def test_list_and_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(workload.name in text for workload in WORKLOADS)
    assert "3.3 times as fast" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "sep-setp"], "Unknown case 'sep-setp'. Did you mean 'sep-step'?"),
        (["--cases", "sep-step,sep-step"], "--cases must be names separated by commas, each once"),
        (["--classes", "1"], "--classes must be whole numbers from 2"),
        (["--classes", "ten"], "--classes must be whole numbers from 2"),
        (["--batch", "0"], "--batch must be whole numbers from 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--backbone", "ViT-L-14"], "--backbone must be one of embedded, ViT-B-16, ViT-B-32"),
        (["--precision", "64"], "--precision must be one of 32-true, bf16-mixed"),
        (["--device", "tpu"], "device must be auto, cpu"),
        (["--cases", "sep-text", "--classes", "5000"], "classes must be 2 to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_out_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["--out", str(tmp_path / "taken")]) == 1
    assert "--out must be a folder" in capsys.readouterr().err


def test_unknown_shapes_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone must be embedded"):
        PerfSetup("tiny")
    with pytest.raises(ValueError, match="precision must be"):
        PerfSetup(precision="16")  # type: ignore[arg-type]


def test_sizes_replace_those_of_the_cases_and_keep_targets_of_listed_sizes() -> None:
    rows = select_cases(["sep-step", "sep-text", "prototypes"], [100, 50], [4])
    assert [(row.size.classes, row.size.batch, row.target.faster) for row in rows] == [
        (100, 4, 3.3),
        (50, 4, None),
        (100, 0, 7.0),
        (50, 0, None),
        (0, 0, None),
    ]
    assert str(rows[0]) == "SEP training step, 100 classes, batch 4"
    assert str(rows[-1]) == "SPT prototypes, 10,000 images"


def test_class_names_differ_and_grow() -> None:
    names = class_names(1200, len, 40)
    assert len(set(names)) == 1200
    assert names[:10] == class_names(10, len, 40)
    assert max(map(len, names)) + 19 <= 40
    with pytest.raises(ValueError, match="classes must be 2 to"):
        class_names(1, len, 40)


def test_noise_is_the_same_image_each_time() -> None:
    noise = NoiseImages(5, (4, 4))
    assert torch.equal(noise.batch([1, 3])[1], noise.batch([3])[0])
    assert not torch.equal(noise.batch([1]), noise.batch([3]))


def fake_contenders(differences: dict[str, float]) -> Contenders:
    """Contenders that do nothing."""
    return Contenders(lambda: None, lambda size: lambda: None, lambda: differences, 10)


class Growing:
    """A baseline whose time and memory grow with the classes, on a fake clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.now, self.memory = 0.0, 0
        clock = Clock(lambda: self.now, lambda: self.now)
        monkeypatch.setitem(BUILDERS, "sep-text", lambda setup, size: self.contenders())
        monkeypatch.setattr(measuring, "available_memory", lambda device: free)
        monkeypatch.setattr(measuring, "peak_memory", self.peak)
        monkeypatch.setattr(measuring, "can_reset_peak", lambda: True)
        monkeypatch.setattr(measuring, "device_clock", lambda device: clock)

    def peak(self, run: Any, device: Any) -> int:
        run()
        return self.memory

    def contenders(self) -> Contenders:
        def plain_at(size: int) -> Any:
            return lambda: self.spend(1 + size / 100, 10 * size)

        return Contenders(lambda: self.spend(1.0, 500), plain_at, lambda: {"features": 0.0}, 10)

    def spend(self, seconds: float, memory: int) -> None:
        self.now, self.memory = self.now + seconds, memory


def growing_row(monkeypatch: pytest.MonkeyPatch, perf_setup: PerfSetup, free: int) -> measuring.Measurement:
    Growing(monkeypatch, free)
    return measure_case(perf_setup, case_of("sep-text", Size(1000)), ONCE)


def test_a_baseline_that_does_not_fit_is_extrapolated(monkeypatch: pytest.MonkeyPatch, perf_setup: PerfSetup) -> None:
    row = growing_row(monkeypatch, perf_setup, free=5000)
    assert row.measured_at == (50, 200)
    assert row.faster.median == pytest.approx(11.0)  # 1 + 1000 / 100 seconds against one
    assert row.memory == {"plain": 10_000, "ours": 500}


def test_with_less_room_smaller_sizes_are_measured(monkeypatch: pytest.MonkeyPatch, perf_setup: PerfSetup) -> None:
    row = growing_row(monkeypatch, perf_setup, free=2000)
    assert row.measured_at == (50, 100)
    assert row.memory == {"plain": 10_000, "ours": 500}


def test_a_baseline_that_fits_is_run(monkeypatch: pytest.MonkeyPatch, perf_setup: PerfSetup) -> None:
    row = growing_row(monkeypatch, perf_setup, free=10**6)
    assert row.measured_at == ()
    assert row.faster.median == pytest.approx(11.0)


def row_with(target: Target, *, faster: float = 2.0, ours: int = 100_000_000) -> measuring.Measurement:
    case = case_of("sep-step", Size(100, 4), target)
    spread = measuring.MedianRange(faster, faster, faster)
    memory = {"plain": 400_000_000, "ours": ours}
    return measuring.Measurement(
        case, {"loss": 1e-6}, True, 1.0, 2.0, spread, spread, memory, (), 10, None, None, {}, {"ours": [Lap(2.0, 4.0)]}
    )


def test_targets() -> None:
    target = Target(faster=1.9, memory=0.25, megabytes=100, of_peak=0.5)
    row = with_targets(row_with(target), Rate(10.0, 5.0), PerfSetup("ViT-B-16"))
    assert row.of_peak == pytest.approx(0.5)  # 10 operations in 2 s, of 10 a second
    assert row.of_peak_cpu == pytest.approx(0.5)
    assert row.met == {"faster": True, "memory": True, "megabytes": True, "of_peak": True}
    assert targets_met(replace(row_with(target, faster=1.8, ours=100_000_001), of_peak=0.4)) == dict.fromkeys(
        row.met, False
    )
    assert with_targets(row_with(target), Rate(10.0, 5.0), PerfSetup()).met == {}


def test_table_fits_and_plot_shows_every_row() -> None:
    rows = [
        with_targets(row_with(Target(faster=1.9, memory=0.2)), Rate(10.0, 5.0), PerfSetup("ViT-B-16")).to_json()
    ] * 3
    rows[1] = {**rows[1], "measured_at": [50, 100]}
    console = make_console()
    console.width = 100
    with console.capture() as capture:
        console.print(results_table(rows))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 100
    assert "≥ 1.9x met" in text
    assert "≤ 0.2 missed" in text
    assert len(ratio_bars(rows).axes[0].patches) == 3
    with pytest.raises(ValueError, match="at least 1 row"):
        ratio_bars([])
    report = {
        "rows": rows,
        "settings": {
            "backbone": "ViT-B-16",
            "precision": "32-true",
            "float32": "highest",
            "device": "cpu",
            "threads": 2,
            "targets_hold": True,
        },
        "machine": {"gpu": None, "processor": "a CPU", "cores": 2},
        "peak": {"best": {"wall": 1e11}},
    }
    assert remarks(report)[1:] == [
        "* SEP training step, 100 classes, batch 4: the plain baseline is extrapolated from 50 and 100 classes; "
        "ours was measured."
    ]
