"""Few-shot draws and base/new classes, exactly as in the published protocol of the CLIP line.

The draw is Dassl's ``generate_fewshot_dataset`` (``repeat=False``): classes in order of first appearance,
``random.sample`` of K items if a class has at least K, otherwise all of them in order. CoOp draws K training images
and then, with the same generator, min(K, 4) validation images per class. The base and new classes are CoOp's
``subsample_classes``.
"""

import random
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from selfprompt.data.dataset import Dataset
from selfprompt.data.relabel import keep_classes

VAL_SHOTS = 4


class HasLabel(Protocol):
    """An object with a label."""

    @property
    def label(self) -> int: ...


T = TypeVar("T", bound=HasLabel)


def draw_shots(items: Sequence[T], shots: int, rng: random.Random) -> tuple[T, ...]:
    """Draw ``shots`` items of each class without replacement, or all items of a class that has fewer.

    Args:
        items: The items to draw from.
        shots: Items per class; below 1 means all items, in their order.
        rng: The generator; it is advanced.

    Returns:
        The items, class by class in order of first appearance, and within a class in the order of the draw.
    """
    if shots < 1:
        return tuple(items)
    members: dict[int, list[T]] = {}
    for item in items:
        members.setdefault(item.label, []).append(item)
    drawn: list[T] = []
    for group in members.values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return tuple(drawn)


def draw_few_shot(train: Sequence[T], val: Sequence[T], shots: int, seed: int) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Draw K training items per class, then min(K, 4) validation items, with one generator, as CoOp does.

    Args:
        train: Training items.
        val: Validation items; may be empty.
        shots: K; below 1 keeps both as they are.
        seed: Seed of the draw; 0 is a seed.
    """
    rng = random.Random(seed)
    return draw_shots(train, shots, rng), draw_shots(val, min(shots, VAL_SHOTS), rng)


def select_base_new(dataset: Dataset, part: Literal["base", "new", "all"]) -> Dataset:
    """Return the base or the new classes, renumbered from 0, in all three splits.

    Of the n labels that occur in ``train``, in ascending order, the first ceil(n / 2) are "base" and the rest
    "new". Draw the shots first: base, new and all classes then share the draw.

    Raises:
        ValueError: If the part is unknown, or empty.
    """
    if part not in ("base", "new", "all"):
        raise ValueError(f"Unknown part {part!r}. Known: base, new, all.")
    if part == "all":
        return dataset
    labels = sorted({item.label for item in dataset.train})
    half = (len(labels) + 1) // 2
    selected = labels[:half] if part == "base" else labels[half:]
    if not selected:
        raise ValueError(f"The {part!r} half needs classes; the training split of {dataset.name} has {len(labels)}.")
    note = f"Only the {part} classes: {len(selected)} of {len(labels)}, renumbered from 0."
    return keep_classes(dataset, selected, note)
