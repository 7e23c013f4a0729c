"""Embedded backbones, a few labelled images, and small options for the tests of methods."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method, find_method, make_options
from selfprompt.methods.traits import Traits
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.loading.by_name import Backbone, load_backbone

NAMES = ("cat", "lawn mower", "stop sign", "X")
SMALL: dict[str, dict[str, Any]] = {  # fewer prompts than in the papers, no dropout
    "ape": {"views": 2},
    "bpt": {"prompts": 5, "rank": 3},
    "clap": {"views": 2, "iterations": 3},
    "class-lora": {"dropout": 0.0},
    "clip-lora": {"dropout": 0.0},
    "coop": {"prompts": 4},
    "gatevpt": {"prompts": 5, "dropout": 0.0},
    "gda": {"views": 2},
    "kgcoop": {"init_text": ""},  # the paper's start is not random
    "mmrl": {"tokens": 2, "width": 12, "last": 2},
    "prograd": {"prompts": 4},
    "proker": {"views": 2},
    "prolip": {"views": 2, "iterations": 3},
    "promptsrc": {"text_prompts": 2, "image_prompts": 2, "depth": 3},
    "semobridge": {"iterations": 3},
    "spt": {"prompts": 3},
    "tip-adapter": {"views": 2},
    "tipx": {"views": 2},
    "vfpt": {"prompts": 3, "dropout": 0.0},
    "vipamin": {"prompts": 3, "neighbours": 2},
    "vpt": {"prompts": 3, "dropout": 0.0},
}


@cache
def backbone(name: str) -> Backbone:
    """Load an embedded backbone once; it is frozen, so tests share it. Of "features" only the features are known."""
    if name != "features":
        return load_backbone(f"embedded/{name}")
    clip = load_backbone("embedded/clip")
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, clip.vision.features))
    network[2].weight.data = 0.1 * torch.randn(network[2].weight.shape, generator=generator)
    return replace(clip, name="features", vision=FeatureTower(network, (64, 64)))


def traits(name: str, **options: Any) -> Traits:
    """Return the traits of a method with these options."""
    cls = find_method(name)
    return cls.traits_for(make_options(cls, options))


def small(name: str, kind: str = "clip", names: Sequence[str] = NAMES, seed: int = 1, **options: Any) -> Method:
    """Build a method on an embedded backbone, in eval mode, prepared with a few images if it cannot predict without."""
    method = build_method(name, backbone(kind), names, seed=seed, **{**SMALL.get(name, {}), **options})
    if method.traits.variable_length or method.traits.closed_form:
        method.prepare(Source(*labelled(8, seed, len(names))), torch.Generator())
    return method.eval()


def images(count: int, seed: int = 0, size: int = 64) -> Tensor:
    """Return noise, (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def labelled(count: int, seed: int = 0, classes: int = len(NAMES)) -> tuple[Tensor, Tensor]:
    """Return images with a bright square whose corner shows the class, and the labels."""
    pictures = 0.3 * images(count, seed)
    labels = torch.arange(count) % classes
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = 32 * (label // 2 % 2), 32 * (label % 2)
        picture[:, row : row + 32, column : column + 32] += 1.5
    return pictures, labels


def labelled_views(count: int) -> Views:
    """Return ``labelled(count)`` as a batch."""
    pictures, labels = labelled(count)
    return Views(pictures, labels=labels)


@contextmanager
def counted(method: Method) -> Iterator[list[int]]:
    """Record how many texts the text tower encodes in each call."""
    calls: list[int] = []
    handle = method.text.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    try:
        yield calls
    finally:
        handle.remove()


class Source:
    """Training images in memory; draw n of an image is the image plus n. Records the requested images and draws."""

    keeps_features = False

    def __init__(self, pictures: Tensor, labels: Tensor | None = None) -> None:
        self.pictures = pictures
        self.labels = torch.zeros(len(pictures), dtype=torch.long) if labels is None else labels
        self.size = len(pictures)
        self.validation: Source | None = None
        self.requests: list[tuple[int, int]] = []
        self.plain_views = False

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        self.requests += [(int(index), draw) for index in indices]
        return self.pictures[list(indices)] + draw

    def deterministic(self) -> "Source":
        other = Source(self.pictures - 1, self.labels)
        other.plain_views = True
        return other

    def epoch(self, number: int) -> Iterator[Views]:
        for indices in torch.arange(self.size).split(3):
            yield Views(self.pictures[indices], None, self.labels[indices], indices)
