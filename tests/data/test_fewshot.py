"""Few-shot draws and base/new classes equal the published protocol's."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.data.dataset import Item
from selfprompt.data.fewshot import draw_few_shot, draw_shots, select_base_new
from tests.data.images import fake_dataset, golden_arrays


def items(labels: list[int]) -> list[Item]:
    return [Item(Path(str(index)), label) for index, label in enumerate(labels)]


def numbers(drawn: tuple[Item, ...]) -> list[int]:
    return [int(str(item.source)) for item in drawn]


def test_python_draws_are_unchanged() -> None:
    rng = random.Random(1)
    drawn = [rng.sample(range(10), 4) for _ in range(3)]
    assert drawn == [[2, 1, 4, 0], [7, 9, 8, 5], [6, 3, 1, 8]]


@pytest.mark.parametrize(
    ("seed", "train", "val"),
    [(1, [1, 2, 3, 5, 7], [0, 6, 7]), (2, [0, 8, 3, 5, 7], [1, 5, 7]), (3, [1, 2, 9, 4, 7], [2, 9, 7])],
)
def test_published_vectors(seed: int, train: list[int], val: list[int]) -> None:
    given_items = items([2, 2, 2, 0, 0, 0, 0, 1, 2, 0])
    rng = random.Random(seed)
    assert numbers(draw_shots(given_items, 2, rng)) == train
    assert numbers(draw_shots(given_items, 1, rng)) == val


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_draw_equals_golden(seed: int, shots: int) -> None:
    arrays = golden_arrays()
    train, val = (items(arrays[f"fewshot/{split}_labels"].tolist()) for split in ("train", "val"))
    drawn_train, drawn_val = draw_few_shot(train, val, shots, seed)
    assert numbers(drawn_train) == arrays[f"fewshot/seed{seed}_shots{shots}/train_index"].tolist()
    assert numbers(drawn_val) == arrays[f"fewshot/seed{seed}_shots{shots}/val_index"].tolist()


@pytest.mark.parametrize("part", ["base", "new"])
def test_halves_equal_golden(part: str) -> None:
    arrays = golden_arrays()
    half = select_base_new(fake_dataset(arrays["fewshot/train_labels"].tolist()), part)  # type: ignore[arg-type]
    index = [int(str(item.source).split("-")[1]) for item in half.train]
    assert index == arrays[f"subsample/{part}/index"].tolist()
    assert np.array_equal([item.label for item in half.train], arrays[f"subsample/{part}/label"])


def test_zero_shots_keep_everything_in_order() -> None:
    given_items = items([1, 0, 1])
    assert draw_few_shot(given_items, given_items, 0, 1) == (tuple(given_items), tuple(given_items))
    assert draw_shots(given_items, -1, random.Random(1)) == tuple(given_items)


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 9), st.integers(0, 99))
def test_draw_takes_min_of_shots_and_images(labels: list[int], shots: int, seed: int) -> None:
    drawn = draw_shots(items(labels), shots, random.Random(seed))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(items(labels))
    for label in set(labels):
        assert sum(item.label == label for item in drawn) == min(shots, labels.count(label))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.lists(st.integers(0, 8), max_size=20))
def test_halves_cover_all_classes(labels: list[int], test: list[int]) -> None:
    present = sorted(set(labels))
    test = [label for label in test if label in present]
    dataset = fake_dataset(labels, test=test)
    halves = [select_base_new(dataset, part) for part in (["base", "new"] if len(present) > 1 else ["base"])]
    assert [name for half in halves for name in half.classes] == [f"name {label}" for label in present]
    assert len(halves[0].classes) == (len(present) + 1) // 2
    for split in ("train", "test"):
        sources = [item.source for half in halves for item in half.select(split)]
        assert sorted(map(str, sources)) == sorted(str(item.source) for item in dataset.select(split))
    for half in halves:
        assert {half.classes[item.label] for item in half.train} == set(half.classes)
        names = {item.source: dataset.classes[item.label] for item in dataset.select("all")}
        assert all(half.classes[item.label] == names[item.source] for item in half.select("all"))


def test_invalid_halves_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown part 'old'"):
        select_base_new(fake_dataset([0, 1]), "old")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'new' half needs classes"):
        select_base_new(fake_dataset([0]), "new")
    whole = fake_dataset([0, 1])
    assert select_base_new(whole, "all") is whole
