"""SPT's initial prompts: patch tokens of the training images in the frozen backbone, or means or centres of them.

The indices of the tokens are drawn first. Only images with a drawn token are run, each only as deep as needed, a few at
a time, and only the drawn tokens are kept. The result has the same distribution as collecting all tokens of all images
and then drawing (with the same random numbers: the same prompts), but memory does not grow with the number of images
nor, for k-means, with the number of layers.

Source: SPT, arXiv 2402.02382 (ICML 2024).
Differs from the reference code: images are drawn without replacement, every token lies in exactly one pooling
window, and the strategy applies to shallow prompts too; ``released=True`` restores the released rules.
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

BATCH_SIZE = 8  # enough for full speed on a CPU; a ViT-B/16 then needs less than 100 MB
TOKENS_PER_CENTRE = 256  # k-means on more tokens per centre changes the inertia by about 1 %
KMEANS_IMAGES = 256  # least number of images, because the tokens of one image are alike
KMEANS_BYTES = 100_000_000  # of tokens kept for k-means: enough for 20 deep prompts of a ViT-B in one pass


class SampleSource(Protocol):
    """Training images by index, with the training transform."""

    @property
    def size(self) -> int:
        """Number of images."""

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        """Return images, (B, 3, H, W); each ``draw`` is another random view."""


@dataclass(frozen=True)
class Draw:
    """The candidates that become prompts.

    Attributes:
        images: Indices of n drawn images; an image that occurs several times has another view each time.
        rows: Selected candidates of each layer, (layers, P). For the image at position i of ``images`` the candidates
            are ``i * N + token`` for single tokens and ``window * n + i`` for pooled windows.
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
        size: Number of training images.
        layers: Number of layers with prompts.
        count: Candidates to draw per layer.
        per_image: Candidates per image: tokens or windows.
        images: Number of images to draw from; None for all.
        generator: Source of the random numbers.
        released: Draw images with replacement, as released.

    Raises:
        ValueError: If there are fewer candidates than prompts.
    """
    number = size if images is None else images
    if not released:
        number = min(number, size)
    if count > number * per_image:
        raise ValueError(f"{count} prompts need as many tokens, got {number * per_image} (images: {number}).")
    drawn = torch.randint(size, (number,), generator=generator).tolist() if released else None
    rng = Random(int(torch.randint(2**62, (), generator=generator)))
    if drawn is None:
        drawn = list(range(size)) if number == size else rng.sample(range(size), number)
    rows = [rng.sample(range(number * per_image), count) for _ in range(layers)]
    return Draw(tuple(drawn), torch.tensor(rows))


def pooling_windows(tokens: int, count: int, *, released: bool = False) -> Windows:
    """Return the token ranges that are pooled into prompts, in raster order.

    Args:
        tokens: Number of patch tokens of an image, N.
        count: Number of windows, P.
        released: Use the released arithmetic: P - 1 windows of N // (P - 1) tokens and one of the last ``N mod window``
            tokens. It leaves tokens out or, for a remainder of 0, makes the last window the whole image.

    Raises:
        ValueError: If there are more windows than tokens, or the released rule would divide by zero.
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
    """A prompter without prompts that passes on the patch tokens of each block's input, up to block ``deepest``."""

    visit: Callable[[int, Tensor], None]
    deepest: int

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index > 0:
            self.visit(index, tokens.body)
        return block(tokens) if index < self.deepest else tokens


@torch.no_grad()
def visit_layers(
    tower: VisionTower,
    images: Tensor,
    deepest: int,
    visit: Callable[[int, Tensor], None],
    *,
    with_position: bool = False,
) -> None:
    """Call a function with the patch tokens at each layer, one layer after the other.

    Args:
        tower: The frozen backbone, without prompts.
        images: (B, 3, H, W).
        deepest: Last layer; later blocks are not run.
        visit: Called with each layer 0..deepest and its patch tokens, (B, N, D): the patch embedding, then the inputs
            of the blocks.
        with_position: Whether the tokens of layer 0 include the position embedding; the reference code's do not.
    """
    visit(0, tower.embed(images).body if with_position else tower.patches(images))
    if deepest > 0:
        tower(images, _LayerInputs(visit, deepest))


def layer_tokens(tower: VisionTower, images: Tensor, deepest: int, *, with_position: bool = False) -> list[Tensor]:
    """Return the patch tokens at each layer 0..deepest, (B, N, D) each; see ``visit_layers``."""
    layers: list[Tensor] = []
    visit_layers(tower, images, deepest, lambda _, tokens: layers.append(tokens), with_position=with_position)
    return layers


def gather(
    tower: VisionTower,
    source: SampleSource,
    draw: Draw,
    *,
    layers: range | None = None,
    windows: Windows | None = None,
    pool: Literal["mean", "max"] = "mean",
    with_position: bool = False,
    batch_size: int = BATCH_SIZE,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run the images with drawn candidates and return these candidates, (layers, P, D).

    Args:
        tower: The frozen backbone.
        source: Training images.
        draw: The drawn candidates.
        layers: Layers to return; None for all drawn layers.
        windows: Token ranges to pool; None for single tokens.
        pool: How a window becomes one token.
        with_position: Whether the tokens of layer 0 include the position embedding.
        batch_size: Images that are run at once.
        dtype: Type of the result; None for the tower's.
        progress: Called with (images done, number of images).
    """
    layers = range(len(draw.rows)) if layers is None else layers
    if windows is None:
        image, candidate = draw.rows // _tokens_per_image(tower), draw.rows % _tokens_per_image(tower)
    else:
        image, candidate = draw.rows % len(draw.images), draw.rows // len(draw.images)
    deepest = {number: layer for layer in layers for number in image[layer].tolist()}
    weight = next(tower.parameters())
    prompts = torch.zeros(len(layers), image.shape[1], tower.width, device=weight.device, dtype=dtype or weight.dtype)
    row = torch.full((len(draw.images),), -1)  # row of each drawn image in the current batch, -1 if it is not there

    def visit(layer: int, tokens: Tensor) -> None:
        if layer in layers:
            rows = row[image[layer]]
            candidates = tokens if windows is None else torch.stack([_pool(tokens, w, pool) for w in windows], dim=1)
            selected = candidates[rows[rows >= 0], candidate[layer, rows >= 0]]
            prompts[layer - layers.start, rows >= 0] = selected.to(prompts.dtype)

    done = 0
    for numbers, view in _batches(draw.images, deepest, batch_size):
        pixels = source.batch([draw.images[n] for n in numbers], draw=view).to(weight.device, weight.dtype)
        row.fill_(-1)[numbers] = torch.arange(len(numbers))
        visit_layers(tower, pixels, max(deepest[n] for n in numbers), visit, with_position=with_position)
        done += len(numbers)
        if progress:
            progress(done, len(deepest))
    return prompts


def _tokens_per_image(tower: VisionTower) -> int:
    height, width = tower.image_size
    weight = next(tower.parameters())
    return tower.patches(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)).shape[1]


def _pool(tokens: Tensor, window: tuple[int, int], pool: str) -> Tensor:
    tokens = tokens[:, window[0] : window[1]]
    return tokens.mean(dim=1) if pool == "mean" else tokens.amax(dim=1)


def _batches(images: Sequence[int], deepest: Mapping[int, int], size: int) -> list[tuple[list[int], int]]:
    """Divide the positions in ``images`` into batches of one view and similar depths; returns (positions, view)."""
    seen: Counter[int] = Counter()
    views: dict[int, list[int]] = {}
    for number in sorted(deepest):
        views.setdefault(seen[images[number]], []).append(number)
        seen[images[number]] += 1
    batches = []
    for view, numbers in sorted(views.items()):
        numbers.sort(key=lambda number: deepest[number])  # stable: images of one depth stay in order
        batches += [(numbers[start : start + size], view) for start in range(0, len(numbers), size)]
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
    with_position: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Create the prompts of each layer as prototypes of the task's tokens, (layers, count, D).

    Args:
        tower: The frozen backbone.
        source: Training images, with the training transform.
        count: Prompts per layer.
        layers: 1 for shallow prompts, the depth for deep ones.
        start: "random" tokens, "mean" or "max" pooled windows, or "kmeans" centres.
        generator: Source of the random numbers.
        images: Number of images to draw from; None for all.
        released: Use the released rules: images with replacement, released windows, shallow prompts always random.
        with_position: Whether the tokens of layer 0 include the position embedding.
        progress: Called with (images done, number of images).
    """
    if released and layers == 1:
        start = "random"
    patches = _tokens_per_image(tower)
    windows = pooling_windows(patches, count, released=released) if start in ("mean", "max") else None
    per_image = len(windows) if windows else patches
    rows = count
    if start == "kmeans":
        rows, images = _kmeans_sample(source.size if images is None else images, patches, count)
    draw = draw_candidates(source.size, layers, rows, per_image, images=images, generator=generator, released=released)
    if start == "kmeans":
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        return _centres(tower, source, draw, count, seed=seed, with_position=with_position, progress=progress)
    pool: Literal["mean", "max"] = "max" if start == "max" else "mean"
    return gather(tower, source, draw, windows=windows, pool=pool, with_position=with_position, progress=progress)


def _kmeans_sample(images: int, patches: int, count: int) -> tuple[int, int]:
    """Return the tokens per layer, 256 per centre, and the images for k-means: 256, or more if these have too few."""
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
    with_position: bool,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Compute centres of the drawn tokens of each layer, (layers, count, D), in passes within KMEANS_BYTES.

    The tokens are kept in bfloat16: a centre is the mean of hundreds of them, in which the rounding vanishes.
    """
    layers, rows = draw.rows.shape
    step = max(1, KMEANS_BYTES // (rows * tower.width * torch.bfloat16.itemsize))
    passes = [range(layers)[first : first + step] for first in range(0, layers, step)]
    dtype = next(tower.parameters()).dtype
    centres = []
    for number, part in enumerate(passes):
        report = progress and partial(_progress_of_pass, progress, number, len(passes))
        drawn = gather(
            tower, source, draw, layers=part, with_position=with_position, dtype=torch.bfloat16, progress=report
        )
        centres += [cluster(tokens, count, seed=seed).to(dtype) for tokens in drawn]
    return torch.stack(centres)


def _progress_of_pass(progress: Callable[[int, int], None], number: int, passes: int, done: int, total: int) -> None:
    progress(number * total + done, passes * total)
