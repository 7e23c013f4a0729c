"""Recorded GDA, LP++ and SimpleShot: closed-form heads on frozen features, ours in float64 and cast."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from selfprompt.methods import gda, lppp, simpleshot
from selfprompt.methods.heads import unit
from tests.parity.rebuild import config_of, related_file
from tests.parity.report import Arrays, Report
from tests.parity.text_heads import INPUTS, PRECISIONS, SCALE, Inputs, compare

Check = Callable[[Arrays, Report], None]


def compare_twins(report: Report, arrays: Arrays, values: Mapping[str, object]) -> None:
    """Compare values, float64, with those of the recorded arrays in both precisions that there are."""
    for name, value in values.items():
        for suffix, dtype, tolerance in PRECISIONS:
            if name + suffix in arrays:
                cast = value.to(dtype) if isinstance(value, Tensor) else value
                compare(report, arrays, name + suffix, cast, tolerance)


def check_gda(arrays: Arrays, report: Report) -> None:
    """``gda``: class means, precision, classifier, scores and the alpha of the validation features; new classes."""
    inputs, files = Inputs(arrays, torch.float64), Arrays(related_file(arrays.path, INPUTS))
    val, val_labels = unit(files.tensor("val", torch.float64)), files.tensor("val_labels")
    for case, (features, labels) in inputs.cases.items():
        if f"{case}.W_f64" not in arrays:
            continue
        moments = gda.Moments.of(features, labels, len(inputs.texts))
        weight, bias = gda.gaussian_head(moments.means, moments.precision)
        bias = bias - math.log(len(bias))
        correct = gda.hits(SCALE * val @ inputs.texts.t(), val @ weight.t() + bias, val_labels)
        alpha = gda.ALPHAS[correct.index(max(correct))]
        scores = inputs.test @ weight.t() + bias
        logits = SCALE * inputs.test @ inputs.texts.t() + alpha * scores
        right = (logits.argmax(dim=1) == files.tensor("test_labels")).double()
        values = {"mus": moments.means, "cov_inv": moments.precision, "W": weight.t(), "b": bias, "best_alpha": alpha}
        values |= {"gda_scores": scores, "test_logits": logits, "acc": 100 * right.mean()}
        compare_twins(report, arrays, {f"{case}.{name}": value for name, value in values.items()})
        if f"{case}.b2n_W_new_f64" in arrays:
            check_new_classes(arrays, report, case, features)


def check_new_classes(arrays: Arrays, report: Report, case: str, features: Tensor) -> None:
    """Compare the classifier of new classes, with the recorded alpha: the released one has another base classifier."""
    files = Arrays(related_file(arrays.path, INPUTS))
    texts = unit(unit(files.tensor("text_templates_new", torch.float64)).mean(dim=1))
    test = unit(files.tensor("test_new", torch.float64))
    means, precision = gda.new_classes(texts, features, config_of(arrays)["b2n"]["k"])
    weight, bias = gda.gaussian_head(means, precision)
    bias = bias - math.log(len(bias))
    alpha = float(arrays[f"{case}.b2n_best_alpha_f64"])
    logits = SCALE * test @ texts.t() + alpha * (test @ weight.t() + bias)
    values = {"mu_new": means, "cov_inv_new": precision, "W_new": weight.t(), "b_new": bias, "logits_new": logits}
    compare_twins(report, arrays, {f"{case}.b2n_{name}": value for name, value in values.items()})


def check_lppp(arrays: Arrays, report: Report) -> None:
    """``lppp``: step sizes, first alpha, probes after some iterations, and that of the recorded choice.

    ``centroids`` is not compared: it was recorded after the first step, and equals ``e1.weight``.
    """
    inputs = Inputs(arrays, torch.float64)
    (features, labels), texts, test = inputs.cases["plain"], inputs.texts, inputs.test
    rates, alpha = lppp.step_sizes(features, texts), lppp.start(features, labels, texts)[1]
    compare_twins(report, arrays, {"lr_w": rates[0], "lr_alpha": rates[1], "alpha_init": alpha[0]})
    kept = int(arrays["kept_epoch_f64"]) + 1
    epochs = {*config_of(arrays)["epochs"], kept}
    bias = arrays.tensor("bias_init_f64", torch.float64)
    steps = lppp.descend(features, labels, texts, max(epochs), "accumulated", bias=bias)
    for epoch, probe in enumerate(steps, start=1):
        if epoch not in epochs:
            continue
        logits = test @ probe.weight.t() + probe.bias + probe.alpha * (test @ texts.t())
        values = {"weight": probe.weight, "bias": probe.bias, "alpha": probe.alpha[None], "loss": probe.loss}
        compare_twins(report, arrays, {f"e{epoch}.{name}": value for name, value in values.items()})
        compare_twins(report, arrays, {f"e{epoch}.last_logits": logits})
        if epoch == kept:
            compare_twins(report, arrays, {"kept_logits": logits})


def check_simpleshot(arrays: Arrays, report: Report) -> None:
    """``simpleshot``: distances to the class means, (C, test), and the nearest class by the linear scores."""
    inputs = Arrays(related_file(arrays.path, INPUTS))
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
    "plain.gda_scores_f64": check_gda,
    "alpha_init_f64": check_lppp,
    "CL2N.distance_f64": check_simpleshot,
}


def checker(arrays: Arrays) -> Check | None:
    """Return the check for a file of this family; None for others."""
    return next((check for name, check in CHECKS.items() if name in arrays), None)
