"""SPT's initial prompts: drawing first and then collecting equals collecting first and then drawing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from selfprompt.prompts.kmeans import cluster
from selfprompt.prompts.prototypes import (
    BATCH_SIZE,
    TOKENS_PER_CENTRE,
    Draw,
    Start,
    draw_candidates,
    gather,
    layer_tokens,
    pooling_windows,
    prototypes,
)
from tests.independent import vit
from tests.independent.vit import Layout
from tests.methods.tiny import Source
from tests.prompts.tiny import LAYOUT, random, seeded, tower

SIZE, PATCHES, DEPTH, PROMPTS = 7, LAYOUT.patches, LAYOUT.depth, 5


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(random(SIZE, 3, 32, 32, seed=1))


def views(draw: Draw, owners: set[int]) -> list[int]:
    """The view number of each drawn image: how often it was drawn and needed before."""
    seen: Counter[int] = Counter()
    numbers = []
    for place, image in enumerate(draw.images):
        numbers.append(seen[image])
        seen[image] += place in owners
    return numbers


def collect_then_pick(source: Source, draw: Draw, windows: list[tuple[int, int]] | None, pool: str) -> Tensor:
    """Collect all tokens of all drawn images, pool and flatten them, and only then select the rows."""
    count = len(draw.images)
    owners = {row % count if windows else row // PATCHES for row in draw.rows.flatten().tolist()}
    numbers = torch.tensor(views(draw, owners)).view(-1, 1, 1, 1)
    pictures = source.pictures[list(draw.images)] + numbers
    tokens = vit.collect(pictures, vit.draw_weights(LAYOUT, 1), LAYOUT)
    if windows:
        parts = [tokens[:, :, start:end] for start, end in windows]
        pooled = [part.mean(dim=2) if pool == "mean" else part.amax(dim=2) for part in parts]
        tokens = torch.stack(pooled, dim=1)  # (depth, P, n, D): the row of a candidate is window * n + place
    return torch.stack([layer.flatten(0, 1)[rows] for layer, rows in zip(tokens, draw.rows, strict=True)])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("released", [False, True], ids=["", "released"])
@pytest.mark.parametrize("start", ["random", "mean", "max"])
def test_indices_first_equals_collecting_everything(
    source: Source, start: str, released: bool, batch_size: int
) -> None:
    windows = pooling_windows(PATCHES, PROMPTS, released=released) if start != "random" else None
    offered = PROMPTS if windows else PATCHES
    for seed in range(3):
        draw = draw_candidates(SIZE, DEPTH, PROMPTS, offered, images=None, generator=seeded(seed), released=released)
        pool: Any = "max" if start == "max" else "mean"
        found = gather(tower(), source, draw, windows=windows, pool=pool, batch_size=batch_size)
        expected = collect_then_pick(source, draw, windows, pool)
        assert (found - expected).abs().max() < 2e-5  # float32 in another order, entries up to 10
        assert not found.requires_grad


def test_only_images_with_a_candidate_are_run_and_each_once(source: Source) -> None:
    draw = Draw(tuple(range(SIZE)), torch.tensor([[0, 1, 2 * PATCHES], [5, 2 * PATCHES + 3, 6 * PATCHES]]))
    source.requests.clear()
    done: list[tuple[int, int]] = []
    gather(tower(), source, draw, batch_size=2, progress=lambda *now: done.append(now))
    assert sorted(source.requests) == [(0, 0), (2, 0), (6, 0)]
    assert done == [(2, 3), (3, 3)]


def test_images_are_run_only_as_deep_as_they_are_needed(source: Source) -> None:
    deep = tower()
    ran: list[tuple[int, int]] = []
    for index, block in enumerate(deep.vit.blocks):  # type: ignore[attr-defined]
        block.norm1.register_forward_hook(lambda _, inputs, __, index=index: ran.append((index, len(inputs[0]))))
    rows = [[0, PATCHES], [1, 2], [3, 4]]  # image 1 is wanted in layer 0 only, image 0 in all three
    gather(deep, source, Draw(tuple(range(SIZE)), torch.tensor(rows)), batch_size=1)
    assert ran == [(0, 1), (1, 1)]


def test_a_range_of_layers_is_those_rows_of_the_whole(source: Source) -> None:
    draw = draw_candidates(SIZE, DEPTH, PROMPTS, PATCHES, images=None, generator=seeded(4), released=False)
    whole = gather(tower(), source, draw)
    part = gather(tower(), source, draw, layers=range(1, 3), dtype=torch.bfloat16)
    assert part.dtype == torch.bfloat16
    assert (part - whole[1:3]).abs().max() < 0.04  # entries up to 10, of 8 bits


class Endless:
    """A training set too large for the memory; images are created on demand."""

    size = 1_000_000

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.most = 0

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        self.asked += list(indices)
        self.most = max(self.most, len(indices))
        return torch.stack([random(3, 32, 32, seed=index) for index in indices])


def test_a_million_images_cost_as_much_as_the_prompts() -> None:
    endless = Endless()
    found = prototypes(tower(), endless, 4, layers=DEPTH, start="random", generator=seeded(1))
    assert found.shape == (DEPTH, 4, LAYOUT.width)
    assert len(endless.asked) <= 4 * DEPTH


@pytest.mark.parametrize("start", ["random", "max", "kmeans"])
def test_only_a_few_images_are_held_at_once(start: Start) -> None:
    endless = Endless()
    prototypes(tower(), endless, 12, layers=DEPTH, start=start, generator=seeded(1))
    assert len(endless.asked) > 2 * BATCH_SIZE
    assert endless.most <= BATCH_SIZE


def test_an_image_drawn_again_is_another_view(source: Source) -> None:
    draw = Draw((3, 3, 3), torch.tensor([[0, PATCHES, 2 * PATCHES + 1]]))
    source.requests.clear()
    found = gather(tower(), source, draw)
    assert sorted(source.requests) == [(3, 0), (3, 1), (3, 2)]
    patches = [tower().patches(source.pictures[3:4] + view)[0] for view in range(3)]
    expected = torch.stack([patches[0][0], patches[1][0], patches[2][1]])
    assert (found[0] - expected).abs().max() < 1e-5


def test_layer_0_has_no_position_by_default(source: Source) -> None:
    vision = tower()
    without = layer_tokens(vision, source.pictures, 0)[0]
    assert without.equal(vision.patches(source.pictures))
    expected = vision.embed(source.pictures).body
    assert layer_tokens(vision, source.pictures, 0, with_position=True)[0].equal(expected)
    assert not without.equal(expected)
    draw = Draw((0,), torch.tensor([[2, 3], [4, 5]]))
    plain, placed = (gather(vision, source, draw, with_position=position) for position in (False, True))
    assert (placed[0] - expected[0, 2:4]).abs().max() < 1e-5
    assert placed[1].equal(plain[1])  # deeper layers have their positions anyway


@pytest.mark.parametrize("layout", [Layout(distilled=True), Layout(registers=3), Layout(class_token=False)])
def test_prefix_tokens_are_never_collected(layout: Layout) -> None:
    pictures = random(2, 3, 32, 32)
    layers = layer_tokens(tower(layout), pictures, layout.depth - 1)
    expected = vit.collect(pictures, vit.draw_weights(layout, 1), layout)
    assert len(layers) == layout.depth
    assert (torch.stack(layers) - expected).abs().max() < 2e-5


@given(st.integers(1, 300), st.data())
def test_windows_hold_every_token_exactly_once(tokens: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, tokens))
    windows = pooling_windows(tokens, count)
    assert [t for start, end in windows for t in range(start, end)] == list(range(tokens))
    lengths = {end - start for start, end in windows}
    assert len(windows) == count
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 200), st.data())
def test_released_windows_follow_the_released_arithmetic(tokens: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, tokens + 1))
    width = tokens // (count - 1)
    everything = list(range(tokens))
    expected = [everything[k * width : (k + 1) * width] for k in range(count - 1)]
    expected.append(everything[-(tokens % width) :])  # of a remainder of 0: everything
    windows = pooling_windows(tokens, count, released=True)
    assert [list(range(*window)) for window in windows] == expected


@pytest.mark.parametrize("count", [0, 17])
def test_more_windows_than_tokens_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"Pooling needs 1 to 16 prompts .* got {count}\."):
        pooling_windows(16, count)


@pytest.mark.parametrize("count", [1, 18])
def test_released_windows_that_divide_by_zero_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"released pooling rule needs 2 to 17 prompts, got {count}\."):
        pooling_windows(16, count, released=True)


@given(st.integers(1, 20), st.integers(1, 9), st.data())
def test_candidates_are_drawn_without_replacement_from_the_drawn_images(
    size: int, per_image: int, data: st.DataObject
) -> None:
    images = data.draw(st.none() | st.integers(1, 25))
    released = data.draw(st.booleans())
    wanted = size if images is None else images if released else min(images, size)
    count = data.draw(st.integers(1, wanted * per_image))
    draw = draw_candidates(size, 3, count, per_image, images=images, generator=seeded(1), released=released)
    assert len(draw.images) == wanted
    assert set(draw.images) <= set(range(size))
    assert released or len(set(draw.images)) == wanted
    assert draw.rows.shape == (3, count)
    for rows in draw.rows.tolist():
        assert len(set(rows)) == count
        assert 0 <= min(rows) <= max(rows) < wanted * per_image


def test_every_candidate_is_as_likely_as_any_other() -> None:
    counts: Counter[int] = Counter()
    generator = seeded(0)
    for _ in range(400):
        draw = draw_candidates(3, 2, 2, 4, images=None, generator=generator, released=False)
        counts.update(draw.rows.flatten().tolist())
    assert set(counts) == set(range(12))
    assert all(80 < number < 190 for number in counts.values())  # 133 expected, 4.5 standard deviations


def test_a_draw_depends_on_the_generator_alone() -> None:
    def rows(seed: int, released: bool) -> Draw:
        return draw_candidates(50, 3, 8, 16, images=20, generator=seeded(seed), released=released)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    for released in (False, True):
        first, again, other = rows(1, released), rows(1, released), rows(2, released)
        assert first.images == again.images
        assert first.rows.equal(again.rows)
        assert first.images != other.images
        assert not first.rows.equal(other.rows)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("released", [False, True])
def test_more_prompts_than_candidates_are_refused(released: bool) -> None:
    with pytest.raises(ValueError, match="33 prompts need as many tokens, got 32"):
        draw_candidates(9, 1, 33, 16, images=2, generator=seeded(0), released=released)


@pytest.mark.parametrize("start", ["random", "mean", "max", "kmeans"])
@pytest.mark.parametrize("layers", [1, DEPTH])
def test_prototypes_are_reproducible_and_of_the_right_shape(source: Source, start: Any, layers: int) -> None:
    vision = tower()

    def make(seed: int) -> Tensor:
        return prototypes(vision, source, PROMPTS, layers=layers, start=start, generator=seeded(seed))

    before = torch.get_rng_state()
    first = make(1)
    assert first.shape == (layers, PROMPTS, LAYOUT.width)
    assert make(1).equal(first)
    assert not make(2).equal(first)
    assert torch.get_rng_state().equal(before)


def test_released_shallow_prompts_are_single_tokens_whatever_the_strategy(source: Source) -> None:
    every = tower().patches(source.pictures).flatten(0, 1)
    for start in ("mean", "kmeans"):
        found = prototypes(
            tower(),
            Source(source.pictures),
            4,
            layers=1,
            start=start,  # type: ignore[arg-type]
            generator=seeded(1),
            released=True,
            images=1,
        )[0]
        assert (found[:, None] - every).abs().amax(dim=-1).amin(dim=-1).max() < 1e-5


def test_prototypes_come_from_the_stated_number_of_images() -> None:
    source = Source(random(30, 3, 32, 32))
    prototypes(tower(), source, 10, layers=DEPTH, start="random", generator=seeded(3), images=2)
    assert len({image for image, _ in source.requests}) == 2


def test_prototypes_refuse_more_prompts_than_tokens(source: Source) -> None:
    with pytest.raises(ValueError, match="17 prompts need as many tokens, got 16"):
        prototypes(tower(), source, 17, layers=1, start="random", generator=seeded(1), images=1)
    with pytest.raises(ValueError, match="17 k-means prompts need as many tokens, got 16"):
        prototypes(tower(), source, 17, layers=1, start="kmeans", generator=seeded(1), images=1)


def inertia(points: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(points.double(), centres.double()).min(dim=1).values.square().sum())


def samples() -> dict[str, Tensor]:
    rng = np.random.default_rng(3)
    blobs = rng.normal(size=(9, 12)).repeat(60, axis=0) * 2 + rng.normal(size=(540, 12))
    tokens = tower().patches(random(30, 3, 32, 32)).flatten(0, 1).numpy()
    return {
        "blobs": torch.from_numpy(blobs),
        "noise": torch.from_numpy(rng.normal(size=(500, 8))),
        "heavy tails": torch.from_numpy(rng.standard_t(3, size=(600, 6))),
        "tokens": torch.from_numpy(tokens),
    }


@pytest.mark.parametrize("name", ["blobs", "noise", "heavy tails", "tokens"])
def test_k_means_is_nearly_as_good_as_ten_full_restarts(name: str) -> None:
    points = samples()[name]
    best = KMeans(9, n_init=10, random_state=0).fit(points.numpy()).inertia_
    for seed in (0, 1):
        centres = cluster(points, 9, seed=seed)
        assert centres.shape == (9, points.shape[1])
        assert centres.dtype == points.dtype
        assert inertia(points, centres) <= 1.05 * best


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_k_means_prompts_are_nearly_as_good_as_k_means_of_every_token(seed: int) -> None:
    many = Source(random(90, 3, 32, 32))
    every = torch.stack(layer_tokens(tower(), many.pictures, DEPTH - 1)).flatten(1, 2)
    count = 5
    assert TOKENS_PER_CENTRE * count < every.shape[1], "not all tokens are looked at"
    found = prototypes(tower(), many, count, layers=DEPTH, start="kmeans", generator=seeded(seed))
    assert found.dtype == torch.float32
    for tokens, centres in zip(every, found, strict=True):
        best = KMeans(count, n_init=10, random_state=0).fit(tokens.numpy()).inertia_
        assert inertia(tokens, centres) <= 1.05 * best


def test_k_means_in_several_passes_is_that_in_one(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> tuple[Tensor, list[tuple[int, int]]]:
        done: list[tuple[int, int]] = []
        found = prototypes(
            tower(),
            source,
            2,
            layers=DEPTH,
            start="kmeans",
            generator=seeded(1),
            progress=lambda *now: done.append(now),
        )
        return found, done

    whole, once = make()
    monkeypatch.setattr("selfprompt.prompts.prototypes.KMEANS_BYTES", 0)
    in_parts, often = make()
    assert (in_parts - whole).abs().max() < 1e-4
    assert once == [(SIZE, SIZE)]
    assert often == [(SIZE * n, SIZE * DEPTH) for n in range(1, DEPTH + 1)]


def test_k_means_does_not_depend_on_the_global_random_state() -> None:
    points = random(200, 5)
    np.random.seed(0)
    first = cluster(points, 4, seed=3)
    np.random.seed(1)
    assert cluster(points, 4, seed=3).equal(first)


def test_as_many_centres_as_tokens_are_the_tokens() -> None:
    points = random(6, 4)
    assert torch.cdist(points, cluster(points, 6)).min(dim=1).values.max() < 1e-5
    with pytest.raises(ValueError, match="7 k-means prompts need as many tokens, got 6"):
        cluster(points, 7)
