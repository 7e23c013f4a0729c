"""Reads all photos of a data set once: their frozen features, small pictures for comparing them, and pixel hashes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.loading.check_images import ImageInfo, drop_unusable, inspect_images
from selfprompt.data.loading.image_files import BadImage
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone
from selfprompt.training.reporter import Reporter

Floats = NDArray[np.float32]
CUTS = (1.0, 0.95, 0.9, 0.8)
"""Parts of an image's sides, around its centre, of which small pictures are made."""
SIDE = 16
"""Side of a small picture in pixels."""


@dataclass(frozen=True)
class Photos:
    """The readable images of all splits, in the order train, validation, test.

    Attributes:
        dataset: Their data set; its notes list every decision.
        items: The N images.
        splits: Split of each image.
        features: Frozen features, not normalised, (N, E).
        small: Small pictures of each image, (N, cuts, 3 * side * side), float16; see ``small_pictures``.
        digests: Hash of the pixels of each image.
        bad: The images that cannot be read.
    """

    dataset: Dataset
    items: tuple[Item, ...]
    splits: tuple[Split, ...]
    features: Floats
    small: NDArray[np.float16]
    digests: tuple[bytes, ...]
    bad: tuple[BadImage, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.dataset.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each image, (N,)."""
        return np.array([item.label for item in self.items], dtype=np.int64)


def read_photos(
    data: Any,
    backbone: Backbone,
    device: torch.device,
    reporter: Reporter,
    *,
    class_names: str | Path | None = None,
) -> Photos:
    """Read the images of all splits and compute their features.

    Args:
        data: Whatever ``tune`` takes.
        backbone: The frozen backbone.
        device: Where to compute.
        reporter: Receives the stages, the notes and the images that cannot be read.
        class_names: File with class names; None uses those of the data.

    Raises:
        ValueError: If there is nothing to read, or fewer than two classes have readable training images.
    """
    names = None if class_names is None else Path(class_names)
    dataset = data if isinstance(data, Dataset) else read_dataset(data, classes=names, holdout=0)
    store = ImageStore()
    with reporter.stage("reading images") as progress:
        inspected = list(inspect_images(dataset.select("all"), store, progress))
    bad = tuple(info for _, info in inspected if isinstance(info, BadImage))
    digest_of = {item.source: info.digest for item, info in inspected if isinstance(info, ImageInfo)}
    dataset = drop_unusable(dataset, inspected, range(len(dataset.classes)))
    for line in (*dataset.notes, *(f"  {image}" for image in bad)):
        reporter.message(line)
    items = dataset.select("all")
    features, small = _encode(items, dataset, backbone, device, store, reporter)
    splits = tuple(split for split in SPLITS for _ in dataset.select(split))
    return Photos(dataset, items, splits, features, small, tuple(digest_of[item.source] for item in items), bad)


@torch.no_grad()
def _encode(
    items: Sequence[Item],
    dataset: Dataset,
    backbone: Backbone,
    device: torch.device,
    store: ImageStore,
    reporter: Reporter,
) -> tuple[Floats, NDArray[np.float16]]:
    """Run every image through the backbone once; the features are those that heads use."""
    method = build_method("ridge", backbone, dataset.classes, check=False).to(device).eval()
    features, small = [], []
    with reporter.stage("computing features") as progress:
        for views in method.views(Classifier(method, backbone.preprocess).batches(items, store), 0):
            features.append(method.frozen_features(views).float().cpu())
            small.append(small_pictures(views.pixels).half().cpu())
            progress(sum(map(len, features)), len(items))
    return torch.cat(features).numpy(), torch.cat(small).numpy()


def small_pictures(pixels: Tensor) -> Tensor:
    """Return small pictures of the whole images and of their central parts, as unit vectors whose channels have mean 0.

    Args:
        pixels: Normalised images, (B, 3, S, S).

    Returns:
        (B, cuts, 3 * side * side); a picture of a single colour is 0.
    """
    size, pictures = pixels.shape[-1], []
    for part in CUTS:
        margin = round(size * (1 - part) / 2)
        central = pixels[..., margin : size - margin, margin : size - margin]
        pictures.append(F.interpolate(central.float(), (SIDE, SIDE), mode="bilinear", antialias=True).flatten(2))
    stacked = torch.stack(pictures, dim=1)  # (B, cuts, 3, side * side)
    centred = stacked - stacked.mean(dim=-1, keepdim=True)  # per channel: two blue pictures are not yet the same
    return F.normalize(centred.flatten(2), dim=-1, eps=1e-3)
