"""Unbalanced draws equal the published protocols', and never exceed what there is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.data.unbalanced import dirichlet_counts, draw_counts, draw_dirichlet_counts, marginal_counts

FREQUENCIES = st.lists(st.integers(1, 200), min_size=2, max_size=20)


@pytest.fixture(scope="module")
def arrays():
    with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as file:
        return dict(file)


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_marginal_draw_equals_golden(arrays, shots, missing):
    name, frequencies = f"marginal_k{shots}_missing{missing}", arrays["class_counts"]
    counts = marginal_counts(frequencies, shots, least=1 - missing)
    assert counts.tolist() == arrays[f"{name}.counts"].tolist()
    labels = np.repeat(np.arange(len(frequencies)), frequencies)
    assert draw_counts(labels, counts, seed=3) == arrays[f"{name}.index"].tolist()


def test_dirichlet_counts_equal_golden(arrays):
    for proportions, counts in zip(arrays["dirichlet_p"], arrays["dirichlet_counts"], strict=True):
        assert dirichlet_counts(proportions, 75).tolist() == counts.tolist()


@given(FREQUENCIES, st.integers(1, 16))
def test_marginal_counts_leave_no_class_out_unless_told(frequencies, shots):
    counts = marginal_counts(frequencies, shots, least=1)
    assert counts.min() >= 1
    assert counts.sum() <= shots * len(frequencies)
    assert marginal_counts(frequencies, shots, least=0).sum() <= shots * len(frequencies)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(1, 300))
def test_dirichlet_counts_have_the_total(weights, total):
    counts = dirichlet_counts(np.array(weights) / sum(weights), total)
    assert counts.sum() == total
    assert counts.min() >= 0


@given(FREQUENCIES, st.integers(1, 16), st.integers(0, 99))
def test_a_draw_has_no_image_twice_and_follows_its_seed(frequencies, shots, seed):
    counts = draw_dirichlet_counts(frequencies, shots, seed)
    labels = np.repeat(np.arange(len(frequencies)), frequencies)
    drawn = draw_counts(labels, counts, seed)
    assert len(set(drawn)) == len(drawn)
    assert np.bincount(labels[drawn], minlength=len(frequencies)).tolist() == counts.tolist()
    assert drawn == draw_counts(labels, draw_dirichlet_counts(frequencies, shots, seed), seed)


def test_seeds_give_other_draws():
    drawn = {tuple(draw_dirichlet_counts([50] * 6, 4, seed)) for seed in range(1, 6)}
    assert len(drawn) == 5
