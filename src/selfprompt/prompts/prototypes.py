"""SPT's start: prompts taken from the task's own patch tokens, as the frozen backbone sees them.

Which tokens become prompts is drawn first, as indices; then only the images that own one of them are run, each only as
deep as needed, a few at a time, and nothing of them is kept but the drawn tokens. The result has the distribution of
"collect all tokens of all images, then draw" (with the same random numbers: the same prompts), but memory grows neither
with the number of images nor, for k-means, with that of the layers.

Source: SPT, arXiv 2402.02382 (ICML 2024).
Differs from the reference code: images are drawn without replacement, every token lies in exactly one pooling
window, and the strategy holds for shallow prompts too; ``released=True`` brings the released rules back.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from typing import Literal, Protocol

import torch
from torch import Tensor

from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import VisionTower
from selfprompt.prompts.kmeans import cluster

Start = Literal["random", "mean", "max", "kmeans"]
Windows = list[tuple[int, int]]

IMAGES_AT_ONCE = 8  # enough for full speed on a CPU, and a ViT-B/16 then needs under 100 MB
TOKENS_PER_CENTRE = 256  # k-means over more than this many tokens a centre changes the inertia by about 1 %
KMEANS_IMAGES = 256  # and at least so many images, because the tokens of one image are alike
KMEANS_BYTES = 100_000_000  # of tokens that wait for k-means; one pass over the images for 20 deep prompts of a ViT-B


class SampleSource(Protocol):
    """Training images by index, under the training transform."""

    @property
    def size(self) -> int: ...

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        """Images, (B, 3, H, W); another ``draw`` is another random view."""
        ...


@dataclass(frozen=True)
class Draw:
    """Which candidates become prompts.

    Attributes:
        images: Index of the image in each of n places; an image may stand in several, each time as another view.
        rows: Chosen candidates of each layer, (layers, P). Candidate ``place * N + token`` for single tokens,
            ``window * n + place`` for pooled windows.
    """

    images: tuple[int, ...]
    rows: Tensor


def draw_candidates(
    size: int,
    layers: int,
    count: int,
    per_image: int,
    *,
    images: int | None,
    generator: torch.Generator,
    released: bool,
) -> Draw:
    """Draw images, then candidates of each layer without replacement.

    Args:
        size: Images in the training set.
        layers: Layers that get prompts.
        count: Candidates to draw a layer.
        per_image: Candidates that one image offers: tokens or windows.
        images: How many images to draw from, ``None`` for all.
        released: Draw images with replacement, as released.

    Raises:
        ValueError: If there are fewer candidates than prompts.
    """
    wanted = size if images is None else images
    if not released:
        wanted = min(wanted, size)
    if count > wanted * per_image:
        raise ValueError(f"{count} prompts need as many tokens; {wanted} images offer {wanted * per_image}.")
    places = torch.randint(size, (wanted,), generator=generator).tolist() if released else None
    rng = Random(int(torch.randint(2**62, (), generator=generator)))
    if places is None:
        places = list(range(size)) if wanted == size else rng.sample(range(size), wanted)
    rows = [rng.sample(range(wanted * per_image), count) for _ in range(layers)]
    return Draw(tuple(places), torch.tensor(rows))


def pooling_windows(tokens: int, count: int, *, released: bool = False) -> Windows:
    """The token ranges that pooled prompts average over, in raster order.

    Args:
        tokens: Patch tokens N of an image.
        count: Windows P.
        released: The released arithmetic: P - 1 windows of N // (P - 1) tokens and the last ``N mod window`` tokens,
            which leaves tokens out or, for a remainder of 0, makes the last window the whole image.

    Raises:
        ValueError: If there are more windows than tokens, or the released rule divides by zero.
    """
    if released:
        if not 2 <= count <= tokens + 1:
            raise ValueError(f"The released pooling rule needs 2 to {tokens + 1} prompts, got {count}.")
        width = tokens // (count - 1)
        rest = tokens % width
        last = (tokens - rest, tokens) if rest else (0, tokens)
        return [(k * width, (k + 1) * width) for k in range(count - 1)] + [last]
    if not 1 <= count <= tokens:
        raise ValueError(f"Pooling needs 1 to {tokens} prompts (the image's patch tokens), got {count}.")
    edges = [round(k * tokens / count) for k in range(count + 1)]
    return list(pairwise(edges))


@dataclass
class _LayerInputs:
    """A prompter that puts nothing in: hands over what enters each block, skips those behind ``deepest``."""

    take: Callable[[int, Tensor], None]
    deepest: int

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index > 0:
            self.take(index, tokens.body)
        return block(tokens) if index < self.deepest else tokens


@torch.no_grad()
def visit_layers(
    tower: VisionTower,
    images: Tensor,
    deepest: int,
    take: Callable[[int, Tensor], None],
    *,
    position: bool = False,
) -> None:
    """Hand over the patch tokens that prompts of each layer will stand beside, one layer after the other.

    Args:
        tower: The frozen backbone, without prompts.
        images: (B, 3, H, W).
        deepest: Last layer that is wanted; no block behind it is run.
        take: Called with each layer 0..deepest and its tokens, (B, N, D): the patch embedding, then the inputs of the
            blocks without prefix.
        position: Give layer 0 with the position embedding. The reference, and the default, is without it.
    """
    take(0, tower.embed(images).body if position else tower.patches(images))
    if deepest > 0:
        tower(images, _LayerInputs(take, deepest))


def layer_tokens(tower: VisionTower, images: Tensor, deepest: int, *, position: bool = False) -> list[Tensor]:
    """What ``visit_layers`` hands over, kept: one (B, N, D) for each layer 0..deepest."""
    layers: list[Tensor] = []
    visit_layers(tower, images, deepest, lambda _, tokens: layers.append(tokens), position=position)
    return layers


def gather(
    tower: VisionTower,
    source: SampleSource,
    draw: Draw,
    *,
    layers: range | None = None,
    windows: Windows | None = None,
    pool: Literal["mean", "max"] = "mean",
    position: bool = False,
    batch_size: int = IMAGES_AT_ONCE,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run the images that own a drawn candidate and take the candidates, (layers, P, D).

    Args:
        layers: Take these layers only, ``None`` for all that were drawn.
        windows: Pool these token ranges; ``None`` takes single tokens.
        pool: How a window becomes one token.
        batch_size: Images that are run at once.
        dtype: Of the result; ``None`` is the tower's.
        progress: Called with (images done, images in all).
    """
    layers = range(len(draw.rows)) if layers is None else layers
    if windows is None:
        place, candidate = draw.rows // _tokens_per_image(tower), draw.rows % _tokens_per_image(tower)
    else:
        place, candidate = draw.rows % len(draw.images), draw.rows // len(draw.images)
    deepest = {owner: layer for layer in layers for owner in place[layer].tolist()}
    weight = next(tower.parameters())
    prompts = torch.zeros(len(layers), place.shape[1], tower.width, device=weight.device, dtype=dtype or weight.dtype)
    row = torch.full((len(draw.images),), -1)  # where the image of a place stands in the batch

    def take(layer: int, tokens: Tensor) -> None:
        if layer in layers:
            rows = row[place[layer]]
            offered = tokens if windows is None else torch.stack([_pool(tokens, w, pool) for w in windows], dim=1)
            chosen = offered[rows[rows >= 0], candidate[layer, rows >= 0]]
            prompts[layer - layers.start, rows >= 0] = chosen.to(prompts.dtype)

    done = 0
    for places, view in _batches(draw.images, deepest, batch_size):
        images = source.batch([draw.images[p] for p in places], draw=view).to(weight.device, weight.dtype)
        row.fill_(-1)[places] = torch.arange(len(places))
        visit_layers(tower, images, max(deepest[p] for p in places), take, position=position)
        done += len(places)
        if progress:
            progress(done, len(deepest))
    return prompts


def _tokens_per_image(tower: VisionTower) -> int:
    height, width = tower.image_size
    weight = next(tower.parameters())
    return tower.patches(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)).shape[1]


def _pool(tokens: Tensor, window: tuple[int, int], pool: str) -> Tensor:
    part = tokens[:, window[0] : window[1]]
    return part.mean(dim=1) if pool == "mean" else part.amax(dim=1)


def _batches(images: Sequence[int], deepest: Mapping[int, int], size: int) -> list[tuple[list[int], int]]:
    """Wanted places and their view number, cut so that a batch holds one view number and similar depths."""
    seen: Counter[int] = Counter()
    views: dict[int, list[int]] = {}
    for place in sorted(deepest):
        views.setdefault(seen[images[place]], []).append(place)
        seen[images[place]] += 1
    batches = []
    for view, places in sorted(views.items()):
        places.sort(key=lambda place: deepest[place])  # stable: places of one depth stay in order
        batches += [(places[start : start + size], view) for start in range(0, len(places), size)]
    return batches


def prototypes(
    tower: VisionTower,
    source: SampleSource,
    count: int,
    *,
    layers: int,
    start: Start,
    generator: torch.Generator,
    images: int | None = None,
    released: bool = False,
    position: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Prompts of each layer as prototypes of the task's tokens, (layers, count, D).

    Args:
        source: Training images under the training transform.
        count: Prompts a layer.
        layers: 1 for shallow prompts, the depth for deep ones.
        start: "random" tokens, "mean" or "max" pooled windows, or "kmeans" centres.
        images: Draw from this many images, ``None`` for all.
        released: Released rules: images with replacement, released windows, shallow prompts always random.
        position: Take layer 0 with the position embedding.
    """
    if released and layers == 1:
        start = "random"
    patches = _tokens_per_image(tower)
    windows = pooling_windows(patches, count, released=released) if start in ("mean", "max") else None
    offered = len(windows) if windows else patches
    rows = count
    if start == "kmeans":
        rows, images = _kmeans_sample(source.size if images is None else images, patches, count)
    draw = draw_candidates(source.size, layers, rows, offered, images=images, generator=generator, released=released)
    if start == "kmeans":
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        return _centres(tower, source, draw, count, seed=seed, position=position, progress=progress)
    pool: Literal["mean", "max"] = "max" if start == "max" else "mean"
    return gather(tower, source, draw, windows=windows, pool=pool, position=position, progress=progress)


def _kmeans_sample(images: int, patches: int, count: int) -> tuple[int, int]:
    """Tokens a layer and images that k-means looks at: 256 a centre, from 256 images or as many as offer enough."""
    tokens = TOKENS_PER_CENTRE * count
    images = min(images, max(KMEANS_IMAGES, math.ceil(tokens / patches)))
    return min(tokens, images * patches), images


def _centres(
    tower: VisionTower,
    source: SampleSource,
    draw: Draw,
    count: int,
    *,
    seed: int,
    position: bool,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Centres of the drawn tokens of each layer, (layers, count, D); as many layers a pass as KMEANS_BYTES hold.

    The tokens wait in bfloat16: a centre is the mean of hundreds of them, which does not show the rounding.
    """
    layers, rows = draw.rows.shape
    step = max(1, KMEANS_BYTES // (rows * tower.width * torch.bfloat16.itemsize))
    passes = [range(layers)[first : first + step] for first in range(0, layers, step)]
    dtype = next(tower.parameters()).dtype
    centres = []
    for number, part in enumerate(passes):
        told = progress and partial(_progress_of_pass, progress, number, len(passes))
        pool = gather(tower, source, draw, layers=part, position=position, dtype=torch.bfloat16, progress=told)
        centres += [cluster(tokens, count, seed=seed).to(dtype) for tokens in pool]
    return torch.stack(centres)


def _progress_of_pass(progress: Callable[[int, int], None], number: int, passes: int, done: int, total: int) -> None:
    progress(number * total + done, passes * total)
