"""GDA, LP++ and SimpleShot in NumPy from the published formulas, and files of their results; no code of the library."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a recorded set: classes, shots, channels, views, templates, test images, new classes."""

    classes: int = 3
    shots: int = 2
    width: int = 7
    views: int = 2
    templates: int = 2
    test: int = 5
    new: int = 2


def unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw_inputs(sizes: Sizes, seed: int) -> dict[str, Array]:
    """Raw features of images and texts under the recorded names."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(sizes.classes), sizes.shots)
    centres = rng.normal(size=(sizes.classes + sizes.new, sizes.width)) + 1

    def images(labels: Array, *views: int) -> Array:
        return centres[labels] + 0.6 * rng.normal(size=(*views, len(labels), sizes.width))

    def texts(labels: Array) -> Array:
        return centres[labels][:, None] + rng.normal(size=(len(labels), sizes.templates, sizes.width))

    val, test = (rng.integers(0, sizes.classes, size=sizes.test) for _ in range(2))
    new = rng.integers(0, sizes.new, size=sizes.test)
    known, others = np.arange(sizes.classes), sizes.classes + np.arange(sizes.new)
    arrays = {"support": images(labels), "support_views": images(labels, sizes.views), "val": images(val)}
    arrays |= {"test": images(test), "test_new": images(sizes.classes + new)}
    arrays |= {"text_templates": texts(known), "text_templates_new": texts(others)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])  # all images of class 0, one of each other
    arrays |= {"support_labels": labels, "val_labels": val, "test_labels": test, "test_new_labels": new}
    return arrays | {"unbalanced_index": np.union1d(first, np.flatnonzero(labels == 0))}


def gaussian(features: Array, labels: Array) -> tuple[Array, Array]:
    """Class means and the precision, times the width, of the shrunk covariance."""
    means = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    scatter = sum(np.outer(row, row) for row in features - means[labels])
    shrunk = scatter + np.trace(scatter) / (len(labels) - 1) * np.eye(features.shape[1])
    return means, features.shape[1] * np.linalg.pinv(shrunk)


def linear(means: Array, precision: Array) -> tuple[Array, Array]:
    weight = precision @ means.T
    return weight, np.log(1 / len(means)) - np.einsum("cd,dc->c", means, weight) / 2


def record_gda(inputs: Mapping[str, Array], neighbours: int) -> dict[str, Any]:
    raw = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()}
    texts, new = (unit(unit(raw[name]).mean(axis=1)) for name in ("text_templates", "text_templates_new"))
    labels, rows = raw["support_labels"], raw["unbalanced_index"]
    stacked = np.concatenate(list(raw["support_views"]))
    cases = {"plain": (raw["support"], labels), "views": (stacked, np.tile(labels, len(raw["support_views"])))}
    cases["unbalanced"] = (raw["support"][rows], labels[rows])
    val, test, new_test = (unit(raw[name]) for name in ("val", "test", "test_new"))
    arrays: dict[str, Any] = {}
    for case, (support, classes) in cases.items():
        features = unit(support)
        means, precision = gaussian(features, classes)
        weight, bias = linear(means, precision)
        right = [
            np.mean((100 * val @ texts.T + alpha * (val @ weight + bias)).argmax(axis=1) == raw["val_labels"])
            for alpha in ALPHAS
        ]
        alpha = ALPHAS[int(np.argmax(right))]
        scores = test @ weight + bias
        logits = 100 * test @ texts.T + alpha * scores
        values = {"mus": means, "cov_inv": precision, "W": weight, "b": bias, "best_alpha": alpha}
        values |= {"gda_scores": scores, "test_logits": logits}
        values["acc"] = 100 * np.mean(logits.argmax(axis=1) == raw["test_labels"])
        if case != "unbalanced":
            near = [features[np.argsort(-features @ text, kind="stable")[:neighbours]] for text in new]
            means = np.stack([(f.sum(axis=0) + 16 * t) / (neighbours + 16) for f, t in zip(near, new, strict=True)])
            inverses = []
            for f, t in zip(near, new, strict=True):
                covariance = (f - t).T @ (f - t) / (neighbours - 1)
                inverses.append(np.linalg.inv((neighbours - 1) * covariance + np.trace(covariance) * np.eye(len(t))))
            precision = len(new[0]) * np.mean(inverses, axis=0)
            weight, bias = linear(means, precision)
            logits = 100 * new_test @ new.T + 0.1 * (new_test @ weight + bias)
            values |= {"b2n_best_alpha": 0.1, "b2n_mu_new": means, "b2n_cov_inv_new": precision}
            values |= {"b2n_W_new": weight, "b2n_b_new": bias, "b2n_logits_new": logits}
        arrays |= {f"{case}.{name}": value for name, value in values.items()}
    return twins(arrays, {"b2n": {"k": neighbours}})


def record_lppp(inputs: Mapping[str, Array], epochs: tuple[int, ...], seed: int) -> dict[str, Any]:
    features, labels = unit(inputs["support"].astype(np.float64)), inputs["support_labels"]
    texts = unit(unit(inputs["text_templates"].astype(np.float64)).mean(axis=1))
    test, count, classes = unit(inputs["test"].astype(np.float64)), len(labels), len(texts)
    cosines, targets = features @ texts.T, np.eye(classes)[labels]
    rate = 4 * count / np.linalg.eigvalsh(features.T @ features).max()
    alpha_rate = count / (4 * (cosines**2).sum(axis=0).max())
    own = [cosines[labels == label, label].mean() for label in range(classes)]
    alpha, total = np.full(classes, 250 * np.mean(own)), np.zeros(classes)
    weight = targets.T @ features
    bias = np.random.default_rng(seed).uniform(-1, 1, classes) * features.shape[1] ** -0.5
    arrays: dict[str, Any] = {"lr_w": rate, "lr_alpha": alpha_rate, "alpha_init": alpha[0], "bias_init": bias}
    speed = [np.zeros_like(weight), np.zeros_like(bias)]
    for epoch in range(1, max(epochs) + 1):
        logits = features @ weight.T + bias + cosines * alpha
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        loss = -np.log(probabilities[np.arange(count), labels]).mean()
        errors = (probabilities - targets) / count
        total = total + (errors * cosines).sum(axis=0)
        speed = [0.9 * speed[0] + errors.T @ features, 0.9 * speed[1] + errors.sum(axis=0)]
        weight, bias = weight - rate * speed[0], bias - rate * speed[1]
        if epoch % 10 == 0:
            alpha = alpha - alpha_rate * total
        if epoch in epochs:
            logits = test @ weight.T + bias + alpha * (test @ texts.T)
            values = {"weight": weight, "bias": bias, "alpha": alpha[None], "loss": loss, "last_logits": logits}
            arrays |= {f"e{epoch}.{name}": value for name, value in values.items()}
    arrays |= {"kept_epoch": np.int64(max(epochs) - 1), "kept_logits": arrays[f"e{max(epochs)}.last_logits"]}
    return twins(arrays, {"epochs": list(epochs)})


def record_simpleshot(inputs: Mapping[str, Array]) -> dict[str, Any]:
    support, test = inputs["support"].astype(np.float64), inputs["test"].astype(np.float64)
    labels, mean = inputs["support_labels"], support.mean(axis=0)
    pairs = {"UN": (support, test), "L2N": (unit(support), unit(test))}
    pairs["CL2N"] = (unit(support - mean), unit(test - mean))
    arrays: dict[str, Any] = {}
    for name, (rows, queries) in pairs.items():
        means = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)])
        distances = np.linalg.norm(means[:, None] - queries[None], axis=-1)
        arrays |= {f"{name}.distance": distances, f"{name}.predicted": distances.argmin(axis=0)}
    return twins(arrays, {})


def twins(arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Each number in float32 and float64, as recorded files have them, and the settings."""
    both: dict[str, Any] = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        single = array.astype(np.float32) if array.ndim and array.dtype.kind == "f" else array
        both |= {f"{name}_f32": single, f"{name}_f64": array}
    return both | {"meta_json": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}


def save(path: Path, arrays: Mapping[str, Any]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
