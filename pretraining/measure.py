"""Stage 6: measure the backbones on held-out styles, for the model cards.

Nothing here influences the training: it runs once, after the export.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from pretraining.card import write_card
from pretraining.concepts import Concept, Emoji, icon_words, read_emoji
from pretraining.corpus import read_pictures, rgba, write_text
from pretraining.samples import read_samples
from pretraining.sets import SETS, Set, chosen
from selfprompt.methods.class_texts import encode_template
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.models.loading.embedded import build_mae
from selfprompt.models.timm_vit import TimmViT

# Groups of Unicode's emoji chart -> tasks.
TASKS = {
    "animals": ("animal", "cat face", "monkey face"),
    "food": ("food", "drink", "dishware"),
    "transport": ("transport ground", "transport water", "transport air"),
    "places": ("place", "hotel", "sky weather", "plant"),
    "objects": (
        "tool",
        "household",
        "office",
        "computer",
        "phone",
        "book paper",
        "money",
        "medical",
        "science",
        "lock",
    ),
    "leisure": ("sport", "game", "music", "musical instrument", "clothing", "event", "award medal", "arts crafts"),
    "faces": ("face",),
    "people": ("person role", "person fantasy", "person activity", "person sport"),
    "flags": ("country flag",),
    "icons": (),
}
LARGEST = 100


@dataclass(frozen=True)
class Drawn:
    """The drawings of one task in one set: straight-alpha pixels, (N, 64, 64, 4), and labels."""

    pixels: np.ndarray
    labels: Tensor


@dataclass(frozen=True)
class Task:
    """Classes, and every held-out drawing of them by set."""

    name: str
    classes: tuple[str, ...]
    drawn: Mapping[str, Drawn]


def read_tasks(packages: Path, corpus: Path) -> list[Task]:
    """Read all tasks; a task has at most 100 classes, those drawn by the most sets."""
    emoji = read_emoji(packages)
    held_out = [drawn for drawn in SETS if drawn.role != "pretrain"]
    return [_task(name, groups, emoji, held_out, corpus) for name, groups in TASKS.items()]


def _task(name: str, groups: Sequence[str], emoji: Emoji, sets: Sequence[Set], corpus: Path) -> Task:
    kinds = {"flags": {"flag"}, "icons": {"icon"}}.get(name, {"emoji"})
    pictures = {drawn.name: read_pictures(corpus, drawn) for drawn in sets if drawn.kind in kinds}
    words = {
        drawn.name: [_word(drawn, drawing, groups, emoji) for drawing in pictures[drawn.name].names]
        for drawn in sets
        if drawn.kind in kinds
    }
    spread: dict[str, int] = {}
    for found in words.values():
        for word in set(found) - {None}:
            spread[word] = spread.get(word, 0) + 1
    enough = sorted(word for word, count in spread.items() if count >= 2)
    classes = sorted(sorted(enough, key=lambda word: (-spread[word], word))[:LARGEST])
    number = {word: index for index, word in enumerate(classes)}
    drawn = {}
    for set_name, found in words.items():
        rows = [row for row, word in enumerate(found) if word in number]
        if rows:
            labels = torch.tensor([number[found[row]] for row in rows])
            drawn[set_name] = Drawn(rgba(pictures[set_name].pixels[rows]), labels)
    return Task(name, tuple(classes), drawn)


def _word(drawn: Set, drawing: str, groups: Sequence[str], emoji: Emoji) -> str | None:
    if drawn.kind == "icon":
        return icon_words(drawing)
    concept: Concept | None = emoji.of(drawn, drawing)
    fits = concept is not None and any(concept.group == group or concept.group.startswith(group) for group in groups)
    return concept.name if fits and concept else None


def on_white(pixels: np.ndarray) -> Tensor:
    """Place drawings on white with a small margin, (N, 3, 64, 64) in [0, 1]."""
    drawings = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    flat = drawings[:, :3] * drawings[:, 3:] + 1 - drawings[:, 3:]
    inner = F.interpolate(flat, size=(56, 56), mode="bilinear", antialias=True)
    return F.pad(inner, (4, 4, 4, 4), value=1.0)


Encode = Callable[[Tensor], Tensor]


@torch.no_grad()
def encoded(encode: Encode, pixels: np.ndarray, batch: int = 256) -> Tensor:
    """Return unit features of drawings, (N, E)."""
    images = on_white(pixels)
    return F.normalize(torch.cat([encode(images[i : i + batch]) for i in range(0, len(images), batch)]), dim=1)


def zero_shot(task: Task, encode: Encode, class_features: Tensor) -> dict[str, tuple[int, int]]:
    """Return the number of correct predictions and of images by set."""
    found = {}
    for name, drawn in task.drawn.items():
        right = (encoded(encode, drawn.pixels) @ class_features.t()).argmax(dim=1) == drawn.labels
        found[name] = (int(right.sum()), len(right))
    return found


def nearest(task: Task, encode: Encode, source: Sequence[str]) -> tuple[int, int]:
    """Classify by nearest neighbours from the source sets; returns the correct and all images of other sets."""
    features = {name: encoded(encode, drawn.pixels) for name, drawn in task.drawn.items()}
    known = torch.cat([features[name] for name in source])
    labels = torch.cat([task.drawn[name].labels for name in source])
    right = total = 0
    for name, drawn in task.drawn.items():
        if name not in source:
            said = labels[(features[name] @ known.t()).argmax(dim=1)]
            right, total = right + int((said == drawn.labels).sum()), total + len(said)
    return right, total


def probe(task: Task, encode: Encode, source: Sequence[str]) -> tuple[int, int]:
    """Fit a ridge classifier to the source sets; returns the correct and all images of other sets."""
    features = {name: encoded(encode, drawn.pixels) for name, drawn in task.drawn.items()}
    known = torch.cat([features[name] for name in source])
    labels = torch.cat([task.drawn[name].labels for name in source])
    middle = known.mean(dim=0)
    x, y = known - middle, F.one_hot(labels, len(task.classes)).float()
    spread = x.square().sum() / x.shape[1]
    weights = torch.linalg.solve(x.t() @ x + 0.1 * spread * torch.eye(x.shape[1]), x.t() @ (y - y.mean(dim=0)))
    right = total = 0
    for name, drawn in task.drawn.items():
        if name not in source:
            said = ((features[name] - middle) @ weights).argmax(dim=1)
            right, total = right + int((said == drawn.labels).sum()), total + len(said)
    return right, total


TEMPLATES = ("a picture of a {}.", "a photo of a {}.", "a drawing of a {}.", "{}")
SOURCES = {
    "emoji": ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-3d"),
    "icons": ("lucide", "ph", "solar", "heroicons"),
    "flags": ("flag", "flagpack", "cif"),
}


def measure_backbones(packages: Path, corpus: Path, out: Path, shipped: Path, docs: Path) -> None:
    """Measure the exported weights; writes ``measured.json`` next to them, and the model cards."""
    tasks = read_tasks(packages, corpus)
    clip, mae = load_backbone("embedded/clip"), load_backbone("embedded/mae")
    drawings = read_samples(packages, corpus)
    measured = {
        "corpus": {
            "drawings": f"{len(drawings):,}",
            "labelled": f"{int((drawings.labels >= 0).sum()):,}",
            "concepts": f"{len(drawings.concepts):,}",
            "sets": len(chosen("pretrain")),
        },
        "zero_shot": {task.name: measure_zero_shot(task, clip) for task in track(tasks, "zero-shot")},
        "features": {task.name: measure_features(task, clip, mae) for task in track(tasks, "features")},
    }
    write_text(shipped / "measured.json", json.dumps(measured, indent=1) + "\n")
    write_card(docs, json.loads((shipped / "manifest.json").read_text()), measured, out)


def measure_zero_shot(task: Task, clip: Backbone) -> dict[str, Any]:
    """Return the number of correct predictions and of images by set, and over the coloured sets."""
    with torch.no_grad():
        features = torch.stack([encode_template(clip, template, task.classes) for template in TEMPLATES]).mean(dim=0)
    found = zero_shot(task, image_encoder(clip), F.normalize(features, dim=1))
    coloured = [found[drawn.name] for drawn in SETS if drawn.name in found and drawn.style == "colour"]
    return {
        "classes": len(task.classes),
        "colour": [sum(right for right, _ in coloured), sum(total for _, total in coloured)],
        "sets": found,
    }


def measure_features(task: Task, clip: Backbone, mae: Backbone) -> dict[str, Any]:
    """Return the accuracy of nearest neighbours and a ridge classifier on several kinds of features."""
    source = SOURCES.get(task.name, SOURCES["emoji"])
    encoders = {
        "clip": image_encoder(clip),
        "mae": image_encoder(mae),
        "random": image_encoder(untrained(mae)),
        "pixels": lambda images: F.adaptive_avg_pool2d(images, 16).flatten(1) - 0.5,
    }
    accuracy, images = {}, 0
    for reader_name, reader in (("nearest", nearest), ("ridge", probe)):
        for name, encode in encoders.items():
            right, images = reader(task, encode, source)
            accuracy[f"{reader_name}: {name}"] = right / images
    return {"images": images, "accuracy": accuracy}


def image_encoder(backbone: Backbone) -> Encode:
    """Return a function from images in [0, 1] to features, pooled as in the library."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.preprocess.mean, backbone.preprocess.std))
    return lambda images: backbone.vision((images - mean) / std, pooling=backbone.pooling)


def untrained(mae: Backbone) -> Backbone:
    """Return the same network with timm's random initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return replace(mae, vision=TimmViT(build_mae()))
