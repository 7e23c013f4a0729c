"""ProKeR, SS-Text and Tip-X in NumPy, on random features of any sizes, in the form of the recorded files."""

import json
from pathlib import Path

import numpy as np

Floats = dict[str, np.ndarray]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=-1, keepdims=True))


def draw(folder: Path, *, classes: int, shots: int, width: int, views: int, templates: int, test: int) -> Floats:
    """Write ``heads_inputs.npz``, and return what it holds."""
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(classes), shots)
    means = random.standard_normal((classes, width))
    inputs = {
        "text_templates": random.standard_normal((classes, templates, width)),
        "support": means[labels] + random.standard_normal((len(labels), width)),
        "support_labels": labels,
        "support_views": means[labels] + random.standard_normal((views, len(labels), width)),
        "test": random.standard_normal((test, width)),
        "unbalanced_index": np.concatenate([np.arange(len(labels))[::shots], [1, 2]]),
    }
    inputs = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in inputs.items()}
    np.savez(folder / "heads_inputs.npz", **inputs)
    return inputs


def save(path: Path, arrays: Floats, **meta: object) -> Path:
    """Write the arrays in both precisions."""
    twins = {f"{name}_f32": a.astype(np.float32) for name, a in arrays.items()}
    twins |= {f"{name}_f64": a for name, a in arrays.items()}
    np.savez(path, **twins, meta_json=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8))
    return path


def features_of(inputs: Floats) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit texts, training features, training labels, and test features, float64."""
    texts = unit(unit(inputs["text_templates"].astype(float)).mean(axis=1))
    return texts, unit(inputs["support"].astype(float)), inputs["support_labels"], unit(inputs["test"].astype(float))


def proker(path: Path, inputs: Floats, beta: float, strength: float) -> Path:
    texts, support, labels, test = features_of(inputs)
    inner = np.exp(-beta * (1 - support @ support.T))
    residual = np.eye(len(texts))[labels] - support @ texts.T
    solved = np.linalg.inv(inner / strength + np.eye(len(labels))) @ residual
    logits = test @ texts.T + np.exp(-beta * (1 - test @ support.T)) @ solved
    return save(path, {"plain.logits_x": logits}, method="ProKeR", beta_lambda={"x": [beta, strength]})


def ss_text(path: Path, inputs: Floats) -> Path:
    texts, support, labels, test = features_of(inputs)
    weights = []
    for label, text in enumerate(texts):
        own = support[labels == label]
        weights.append(text + 100 * len(own) / len(support) * own.sum(axis=0))
    pushed = [w - unit(2 * w - np.mean(weights, axis=0)) for w in weights]
    logits = 100 * test @ unit(np.stack(pushed)).T
    arrays = {"plain.ss_text_plus.weights": np.stack(pushed), "plain.ss_text_plus.logits": logits}
    return save(path, arrays, method="SS-Text")


def tipx(path: Path, inputs: Floats) -> Path:
    texts, _, labels, test = features_of(inputs)
    keys = unit(inputs["support_views"].astype(float).mean(axis=0))
    p, q = (np.exp(2 * rows @ texts.T) for rows in (test, keys))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    kl = np.array([[np.sum(a * np.log(a / b)) for b in q] for a in p])
    cosines = test @ keys.T
    scaled = (kl - kl.min()) / (kl.max() - kl.min()) * (cosines.max() - cosines.min()) + cosines.min()
    cache = 2.0 * np.exp(-3.0 * (1 - cosines)) - 0.5 * scaled
    logits = 100 * test @ texts.T + cache @ np.eye(len(texts))[labels]
    arrays = {"train_distribution": q, "test_distribution": p, "kl": kl, "affinity": -scaled}
    return save(path, arrays | {"logits_a2.0_b3.0_g0.5": logits}, method="Tip-X")
