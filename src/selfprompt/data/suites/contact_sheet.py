"""Draws a contact sheet: some images of each class of a task in one picture."""

from collections.abc import Hashable, Sequence
from itertools import islice

from PIL import Image, ImageDraw, ImageFont, ImageOps

from selfprompt.data.dataset import Dataset, Item, Split
from selfprompt.data.suites.task import SuiteTask

SIDE = 64
GAP = 2
NAMES = 190  # width of the column of class names
HEADER = 24
COUNTS: dict[Split, int] = {"train": 5, "test": 3}
DOMAIN_COUNT = 2


def draw_contact_sheet(task: SuiteTask, rows: int = 40) -> Image.Image:
    """Draw images of up to ``rows`` classes, evenly spaced: a row per class, a block of columns per split or domain.

    Raises:
        BadImageError: If an image cannot be read.
    """
    count, keys = len(task.dataset.classes), task.dataset.keys
    labels = [number * count // min(rows, count) for number in range(min(rows, count))]
    blocks: list[tuple[str, Dataset, tuple[Item, ...], int]] = [
        (split, task.dataset, task.dataset.select(split), count)
        for split, count in COUNTS.items()
        if task.dataset.select(split)
    ]
    blocks += [(name, shifted, shifted.test, DOMAIN_COUNT) for name, shifted in task.domains.items()]
    width = NAMES + sum(count * (SIDE + GAP) + 4 * GAP for *_, count in blocks)
    sheet = Image.new("RGB", (width, HEADER + len(labels) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, label in enumerate(labels):
        title = _shorten(task.dataset.classes[label], draw, font)
        draw.text((4, HEADER + row * (SIDE + GAP) + SIDE // 2 - 8), title, "black", font)
    left = NAMES
    for name, dataset, items, count in blocks:
        draw.text((left, 4), name, "black", font)
        for row, label in enumerate(labels):
            for column, item in enumerate(_of_class(dataset, items, keys[label], count)):
                position = (left + column * (SIDE + GAP), HEADER + row * (SIDE + GAP))
                sheet.paste(ImageOps.fit(item.load(), (SIDE, SIDE)), position)
        left += count * (SIDE + GAP) + 4 * GAP
    return sheet


def _of_class(dataset: Dataset, items: Sequence[Item], key: Hashable, count: int) -> list[Item]:
    """Return the first ``count`` items of a class; none if the data set does not have it."""
    if key not in dataset.keys:
        return []
    label = dataset.keys.index(key)
    return list(islice((item for item in items if item.label == label), count))


def _shorten(title: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a name so that it fits into its column."""
    while draw.textlength(title, font) > NAMES - 8:
        title = f"{title.removesuffix('…')[:-1]}…"
    return title
