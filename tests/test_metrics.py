"""Metrics equal what one counts by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, hmean

from selfprompt.metrics import Metrics, compute_metrics, harmonic_mean, openworld_auc, wilson_interval

NAMES = ["ant", "bee", "cow", "dog", "eel"]


def random_case(seed: int, count: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    return logits, torch.randint(0, classes, (count,), generator=generator)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error with 15 bins, by hand."""
    sure, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    bins = torch.clamp((sure * 15).long(), max=14)
    gaps = [(right[bins == b].sum() - sure[bins == b].sum()).abs().item() for b in range(15)]
    return sum(gaps) / len(labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_metrics_equal_a_hand_count(seed: int, count: int) -> None:
    logits, labels = random_case(seed, count)
    metrics = compute_metrics(logits, labels, NAMES)
    predicted = logits.argmax(1)
    assert metrics.correct == int((predicted == labels).sum())
    assert (metrics.total, metrics.accuracy) == (count, 100 * metrics.correct / count)
    confusion = np.zeros((5, 5), dtype=int)
    np.add.at(confusion, (labels.numpy(), predicted.numpy()), 1)
    assert metrics.confusion == confusion.tolist()
    present = [name for i, name in enumerate(NAMES) if (labels == i).any()]
    assert list(metrics.per_class) == present
    shares = [100 * (predicted[labels == i] == i).double().mean().item() for i in range(5) if (labels == i).any()]
    assert list(metrics.per_class.values()) == pytest.approx(shares)
    assert metrics.macro == pytest.approx(np.mean(shares))
    assert metrics.calibration_error == pytest.approx(calibration_error(logits, labels), abs=1e-6)  # float32 bins
    low, high = metrics.interval
    assert 0 <= low <= metrics.accuracy <= high <= 100


def test_macro_counts_present_classes_alike() -> None:
    logits = torch.eye(5)[[0, 0, 0, 0]]  # only ant is ever predicted
    metrics = compute_metrics(logits, torch.tensor([0, 0, 0, 1]), NAMES)
    assert (metrics.accuracy, metrics.macro) == (75.0, 50.0)
    assert metrics.per_class == {"ant": 100.0, "bee": 0.0}


def test_logits_between_0_and_1_are_no_probabilities() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    labels = torch.tensor([0, 1])
    expected = calibration_error(logits, labels)
    assert compute_metrics(logits, labels, ["a", "b"]).calibration_error == pytest.approx(expected, abs=1e-6)


def test_low_precision_and_masked_logits() -> None:
    logits, labels = random_case(1, 20)
    half = logits.bfloat16()
    assert compute_metrics(half, labels, NAMES) == compute_metrics(half.double(), labels, NAMES)
    logits[:, 4] = -torch.inf
    assert compute_metrics(logits, labels, NAMES).correct == int((logits.argmax(1) == labels).sum())


def test_equal_names_do_not_swallow_each_other() -> None:
    metrics = compute_metrics(torch.eye(3), torch.tensor([0, 0, 2]), ["crane", "dog", "crane"])
    assert metrics.per_class == {"crane (#0)": 50.0, "crane (#2)": 100.0}


def test_json_round_trip() -> None:
    metrics = compute_metrics(*random_case(2, 30), NAMES)
    assert Metrics.from_json(json.loads(json.dumps(metrics.to_json()))) == metrics


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2), r"logits must be \(N, 5\) .*got \(2, 4\)"),
        (torch.zeros(2, 5), torch.zeros(3), r"got \(2, 5\) and \(3,\)"),
        (torch.zeros(0, 5), torch.zeros(0), "at least 1 image"),
        (torch.zeros(2, 5), torch.tensor([0, 5]), r"0\.\.4, got 0\.\.5"),
        (torch.zeros(2, 5), torch.tensor([-1, 0]), r"got -1\.\.0"),
        (torch.tensor([[0.0] * 5, [torch.nan] * 5]), torch.tensor([0, 1]), "those of 1 of 2 images are not"),
        (torch.tensor([[torch.inf] + [0.0] * 4]), torch.tensor([0]), "those of 1 of 1 images are not"),
    ],
)
def test_faults_are_named(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(logits, labels.long(), NAMES)


@given(st.integers(1, 5000), st.data())
def test_interval_equals_scipy(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)


def test_interval_refuses_wrong_counts() -> None:
    for correct, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"got {correct} of {total}"):
            wilson_interval(correct, total)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_harmonic_mean_equals_scipy(base: float, new: float) -> None:
    assert harmonic_mean(base, new) == pytest.approx(hmean([base, new]))


def test_harmonic_mean_at_its_edges() -> None:
    assert harmonic_mean(0, 0) == 0.0
    assert harmonic_mean(0, 80) == 0.0
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)  # CoOp's published row
    with pytest.raises(ValueError, match=r"\[0, 100\] percent, got 101"):
        harmonic_mean(50, 101)


def test_a_single_class_is_always_right() -> None:
    """The new half of three classes has one."""
    metrics = compute_metrics(torch.tensor([[0.3], [-2.0]]), torch.tensor([0, 0]), ["ant"])
    assert (metrics.accuracy, metrics.total, metrics.confusion, metrics.per_class) == (100.0, 2, [[2]], {"ant": 100.0})
    assert (metrics.calibration_error, metrics.reliability) == (0.0, [[1.0, 1.0, 2]])


@pytest.fixture(scope="module")
def strict_arrays():
    with np.load(Path(__file__).parent / "golden" / "evaluation.npz") as file:
        return dict(file)


def test_openworld_auc_equals_golden(strict_arrays):
    base = strict_arrays["base_logits"].argmax(axis=1) == strict_arrays["base_labels"]
    new = strict_arrays["new_logits"].argmax(axis=1) == strict_arrays["new_labels"]
    scores = strict_arrays["base_score"], strict_arrays["new_score"]
    assert openworld_auc(base, new, *scores) == pytest.approx(100 * strict_arrays["openworld_auc"], rel=1e-9)
    everything = np.ones(len(base), dtype=bool), np.ones(len(new), dtype=bool)
    assert openworld_auc(*everything, *scores) == pytest.approx(100 * strict_arrays["auroc"], rel=1e-9)


IMAGES = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12)


@given(IMAGES, IMAGES)
def test_openworld_auc_equals_a_count_of_pairs(base, new):
    parts = [np.array([right for right, _ in part], dtype=bool) for part in (base, new)]
    scores = [np.array([score / 4 for _, score in part]) for part in (base, new)]
    found = openworld_auc(*parts, *scores)
    wins = sum((b > n) + (b == n) / 2 for right_b, b in base if right_b for right_n, n in new if right_n)
    assert found == pytest.approx(100 * wins / (len(base) * len(new)))
    assert 0 <= found <= 100 * parts[0].mean() * parts[1].mean() + 1e-9


def test_openworld_auc_needs_pairs():
    with pytest.raises(ValueError, match="got 0 and 1"):
        openworld_auc(np.zeros(0, dtype=bool), np.ones(1, dtype=bool), np.zeros(0), np.ones(1))
