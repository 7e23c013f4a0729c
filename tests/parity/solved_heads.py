"""Recorded heads that are solved at once on frozen features: SimpleShot. Ours are solved in float64 and cast."""

from collections.abc import Callable

import torch

from selfprompt.methods import simpleshot
from tests.parity.rebuild import beside
from tests.parity.report import Arrays, Report
from tests.parity.text_heads import INPUTS, PRECISIONS, compare

Check = Callable[[Arrays, Report], None]


def check_simpleshot(arrays: Arrays, report: Report) -> None:
    """``simpleshot``: distances to the class means, (C, test), and the nearest class by the linear scores."""
    inputs = Arrays(beside(arrays.path, INPUTS))
    support, labels = inputs.tensor("support", torch.float64), inputs.tensor("support_labels")
    for suffix, dtype, tolerance in PRECISIONS:
        for transform in ("UN", "L2N", "CL2N"):
            if f"{transform}.distance{suffix}" not in arrays:
                continue
            mean, means = simpleshot.centroids(support, labels, transform)
            test = simpleshot.transformed(
                inputs.tensor("test", torch.float64), transform, mean if transform == "CL2N" else None
            )
            distances = torch.cdist(means, test, compute_mode="donot_use_mm_for_euclid_dist").to(dtype)
            compare(report, arrays, f"{transform}.distance{suffix}", distances, tolerance)
            weight, bias = simpleshot.nearest_mean_head(means)
            scores = (test @ weight.t() + bias).to(dtype)
            report.check(
                f"{transform}.predicted{suffix}", scores.argmax(dim=1), arrays[f"{transform}.predicted{suffix}"]
            )


CHECKS: dict[str, Check] = {  # by an array that only these files hold
    "CL2N.distance_f64": check_simpleshot,
}


def checker(arrays: Arrays) -> Check | None:
    """Return the check for a file of this family; None for others."""
    return next((check for name, check in CHECKS.items() if name in arrays), None)
