"""SPT's start: prompts taken from the task's own patch tokens, as the frozen backbone sees them.

Which tokens become prompts is drawn first, as indices; then only the images that own one of them are run, each only as
deep as needed. The result has the distribution of "collect all tokens of all images, then draw" (with the same
random numbers: the same prompts), but memory does not grow with the number of images.

Source: SPT, arXiv 2402.02382 (ICML 2024).
Differs from the reference code: images are drawn without replacement, every token lies in exactly one pooling
window, and the strategy holds for shallow prompts too; ``authors=True`` brings the released rules back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from selfprompt.tokens import Tokens
from selfprompt.towers.base import VisionTower

Start = Literal["random", "mean", "max", "kmeans"]
Windows = list[tuple[int, int]]

TOKENS_PER_CENTRE = 256  # k-means over more than this many tokens a centre changes the inertia by under 1 %


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
    authors: bool,
) -> Draw:
    """Draw images, then candidates of each layer without replacement.

    Args:
        size: Images in the training set.
        layers: Layers that get prompts.
        count: Candidates to draw a layer.
        per_image: Candidates that one image offers: tokens or windows.
        images: How many images to draw from, ``None`` for all.
        authors: Draw images with replacement, as released.

    Raises:
        ValueError: If there are fewer candidates than prompts.
    """
    wanted = size if images is None else images
    if not authors:
        wanted = min(wanted, size)
    if count > wanted * per_image:
        raise ValueError(f"{count} prompts need as many tokens; {wanted} images offer {wanted * per_image}.")
    places = torch.randint(size, (wanted,), generator=generator).tolist() if authors else None
    rng = Random(int(torch.randint(2**62, (), generator=generator)))
    if places is None:
        places = list(range(size)) if wanted == size else rng.sample(range(size), wanted)
    rows = [rng.sample(range(wanted * per_image), count) for _ in range(layers)]
    return Draw(tuple(places), torch.tensor(rows))


def pooling_windows(tokens: int, count: int, *, authors: bool = False) -> Windows:
    """The token ranges that pooled prompts average over, in raster order.

    Args:
        tokens: Patch tokens N of an image.
        count: Windows P.
        authors: The released arithmetic: P - 1 windows of N // (P - 1) tokens and the last ``N mod window`` tokens,
            which leaves tokens out or, for a remainder of 0, makes the last window the whole image.

    Raises:
        ValueError: If there are more windows than tokens, or the released rule divides by zero.
    """
    if authors:
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
    reach: int = 0

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index > 0:
            self.take(index, tokens.body)
        return block(tokens) if index < self.deepest else tokens


@torch.no_grad()
def layer_tokens(tower: VisionTower, images: Tensor, deepest: int, *, position: bool = False) -> list[Tensor]:
    """The patch tokens that prompts of each layer will stand beside.

    Args:
        tower: The frozen backbone, without prompts.
        images: (B, 3, H, W).
        deepest: Last layer that is wanted.
        position: Give layer 0 with the position embedding. The reference, and the default, is without it.

    Returns:
        One (B, N, D) for each layer 0..deepest: the patch embedding, then the inputs of the blocks without prefix.
    """
    first = tower.embed(images).body if position else tower.patches(images)
    layers = [first]
    if deepest > 0:
        tower(
            images,
            _LayerInputs(lambda index, body: layers.append(body) if index <= deepest else None, deepest),
        )
    return layers


def gather(
    tower: VisionTower,
    source: SampleSource,
    draw: Draw,
    *,
    windows: Windows | None = None,
    pool: Literal["mean", "max"] = "mean",
    position: bool = False,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run the images that own a drawn candidate and take the candidates, (layers, P, D).

    Args:
        windows: Pool these token ranges; ``None`` takes single tokens.
        pool: How a window becomes one token.
        progress: Called with (images done, images in all).
    """
    layers, count = draw.rows.shape
    place_count = len(draw.images)
    wanted: dict[int, list[tuple[int, int, int]]] = {}  # place -> (layer, prompt, candidate of the image)
    tokens_per_image = _tokens_per_image(tower)
    for layer in range(layers):
        for prompt, row in enumerate(draw.rows[layer].tolist()):
            place = row % place_count if windows else row // tokens_per_image
            candidate = row // place_count if windows else row % tokens_per_image
            wanted.setdefault(place, []).append((layer, prompt, candidate))
    weight = next(tower.parameters())
    prompts = torch.zeros(layers, count, tower.width, device=weight.device, dtype=weight.dtype)
    done = 0
    for places in _batches(draw.images, wanted, batch_size):
        images = source.batch([draw.images[p] for p, _ in places], draw=places[0][1]).to(weight.device, weight.dtype)
        deepest = max(layer for place, _ in places for layer, _, _ in wanted[place])
        collected = layer_tokens(tower, images, deepest, position=position)
        for row_in_batch, (place, _) in enumerate(places):
            for layer, prompt, candidate in wanted[place]:
                tokens = collected[layer][row_in_batch]
                prompts[layer, prompt] = (
                    tokens[candidate] if windows is None else _pool(tokens, windows[candidate], pool)
                )
        done += len(places)
        if progress:
            progress(done, len(wanted))
    return prompts


def _tokens_per_image(tower: VisionTower) -> int:
    height, width = tower.image_size
    weight = next(tower.parameters())
    return tower.patches(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)).shape[1]


def _pool(tokens: Tensor, window: tuple[int, int], pool: str) -> Tensor:
    part = tokens[window[0] : window[1]]
    return part.mean(dim=0) if pool == "mean" else part.amax(dim=0)


def _batches(
    images: Sequence[int], wanted: dict[int, list[tuple[int, int, int]]], size: int
) -> list[list[tuple[int, int]]]:
    """Wanted places with their view number, cut so that a batch holds one view number and similar depths."""
    seen: dict[int, int] = {}
    views = {}
    for place in sorted(wanted):
        views[place] = seen.get(images[place], 0)
        seen[images[place]] = views[place] + 1
    depth = {place: max(layer for layer, _, _ in entries) for place, entries in wanted.items()}
    batches = []
    for view in sorted(set(views.values())):
        places = sorted((p for p in wanted if views[p] == view), key=lambda p: (depth[p], p))
        batches += [[(p, view) for p in places[i : i + size]] for i in range(0, len(places), size)]
    return batches


def cluster(tokens: Tensor, count: int, *, seed: int = 0, restarts: int = 10) -> Tensor:
    """Euclidean k-means centres of the tokens, (count, D).

    Each start runs for a few of Lloyd's iterations; the best then runs to the end. That is within 3 % of running all
    ten to the end, at a quarter of the time.

    Args:
        tokens: (M, D) with M >= count.
        seed: Of the starts.
        restarts: Number of starts (k-means++).

    Raises:
        ValueError: If there are fewer tokens than centres.
    """
    from sklearn.cluster import KMeans  # takes two seconds to import, and only this start needs it

    if len(tokens) < count:
        raise ValueError(f"{count} k-means prompts need as many tokens, got {len(tokens)}.")
    points = tokens.detach().cpu().double().numpy()
    rough = KMeans(count, n_init=restarts, max_iter=8, random_state=seed).fit(points)
    best = KMeans(count, init=rough.cluster_centers_, n_init=1).fit(points)
    return torch.from_numpy(np.ascontiguousarray(best.cluster_centers_)).to(tokens)


def prototypes(
    tower: VisionTower,
    source: SampleSource,
    count: int,
    *,
    layers: int,
    start: Start,
    generator: torch.Generator,
    images: int | None = None,
    authors: bool = False,
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
        authors: Released rules: images with replacement, released windows, shallow prompts always random.
        position: Take layer 0 with the position embedding.
    """
    if authors and layers == 1:
        start = "random"
    patches = _tokens_per_image(tower)
    windows = pooling_windows(patches, count, authors=authors) if start in ("mean", "max") else None
    offered = len(windows) if windows else patches
    rows = count
    if start == "kmeans":
        rows, images = _kmeans_sample(source.size if images is None else images, patches, count)
    draw = draw_candidates(source.size, layers, rows, offered, images=images, generator=generator, authors=authors)
    pool: Literal["mean", "max"] = "max" if start == "max" else "mean"
    taken = gather(tower, source, draw, windows=windows, pool=pool, position=position, progress=progress)
    if start != "kmeans":
        return taken
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return torch.stack([cluster(layer, count, seed=seed) for layer in taken])


def _kmeans_sample(images: int, patches: int, count: int) -> tuple[int, int]:
    """Tokens a layer and images that k-means looks at: 256 tokens a centre, from at most 256 images."""
    images = min(images, 256)
    return min(TOKENS_PER_CENTRE * count, images * patches), images
