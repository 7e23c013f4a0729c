"""Recorded evaluation: OpenworldAUC, union accuracy, unbalanced draws and the paired bootstrap."""

import re
from collections.abc import Callable

import numpy as np

from selfprompt.benchmarks.bootstrap import Interval
from selfprompt.data.unbalanced import dirichlet_counts, draw_counts, marginal_counts
from selfprompt.metrics import openworld_auc
from tests.parity.report import FLOAT64, Arrays, Report

SEED = 3
"""Of the recorded marginal draws."""


def check_evaluation(arrays: Arrays, report: Report) -> None:
    """``evaluation``: every recorded quantity."""
    right = {side: arrays[f"{side}_logits"].argmax(axis=1) == arrays[f"{side}_labels"] for side in ("base", "new")}
    scores = arrays["base_score"], arrays["new_score"]
    every = {side: np.ones(len(hits), dtype=bool) for side, hits in right.items()}
    report.check("openworld_auc", openworld_auc(*right.values(), *scores) / 100, arrays["openworld_auc"], FLOAT64)
    report.check("auroc", openworld_auc(*every.values(), *scores) / 100, arrays["auroc"], FLOAT64)
    check_union(arrays, report)
    check_draws(arrays, report)
    first, second = arrays["hits_a"].astype(float), arrays["hits_b"].astype(float)
    found = Interval.of((first - second)[arrays["bootstrap_index"].astype(int)].mean(axis=1))
    report.check("bootstrap_mean", (first - second).mean(), arrays["bootstrap_mean"], FLOAT64)
    report.check("bootstrap_interval95", np.array([found.low, found.high]), arrays["bootstrap_interval95"], FLOAT64)
    share = arrays["bootstrap_share_not_above_zero"]
    report.check("bootstrap_share_not_above_zero", found.not_above_zero, share, FLOAT64)


def check_union(arrays: Arrays, report: Report) -> None:
    """The accuracy among all classes, and its two parts."""
    classes = arrays["base_logits"].shape[1]
    base = arrays["joint_base"].argmax(axis=1) == arrays["base_labels"]
    new = arrays["joint_new"].argmax(axis=1) == arrays["new_labels"] + classes
    parts = {"union_accuracy": np.concatenate([base, new]), "union_base": base, "union_new": new}
    for name, hits in parts.items():
        report.check(name, hits.mean(), arrays[name], FLOAT64)


def check_draws(arrays: Arrays, report: Report) -> None:
    """The marginal draws, image by image, and the counts of the Dirichlet draws."""
    frequencies = arrays["class_counts"]
    labels = np.repeat(np.arange(len(frequencies)), frequencies)
    for name in sorted(arrays):
        found = re.fullmatch(r"marginal_k(\d+)_missing([01])\.counts", name)
        if found:
            counts = marginal_counts(frequencies, int(found[1]), least=1 - int(found[2]))
            index = name.replace(".counts", ".index")
            report.same(name, counts.tolist(), arrays[name].tolist())
            report.same(index, draw_counts(labels, counts, seed=SEED), arrays[index].tolist())
    total = int(arrays["dirichlet_counts"][0].sum())
    drawn = [dirichlet_counts(proportions, total).tolist() for proportions in arrays["dirichlet_p"]]
    report.same("dirichlet_counts", drawn, arrays["dirichlet_counts"].tolist())


def checker(arrays: Arrays) -> Callable[[Arrays, Report], None] | None:
    """The check for a file of this family; None for others."""
    return check_evaluation if "openworld_auc" in arrays else None
