"""A contact sheet: some images of each class of a task in one picture, because people look before they read."""

from collections.abc import Hashable, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from selfprompt.data.dataset import Dataset, Item, Split
from selfprompt.data.suites.task import SuiteTask

SIDE = 64
GAP = 2
NAMES = 190  # width of the column of class names
HEADER = 24
COUNTS: dict[Split, int] = {"train": 5, "test": 3}
DOMAIN_COUNT = 2


def contact_sheet(task: SuiteTask, rows: int = 40) -> Image.Image:
    """Images of up to ``rows`` classes, evenly spread over all: a row a class, a block of columns a split or domain.

    Raises:
        BadImageError: If an image cannot be read.
    """
    count, keys = len(task.dataset.classes), task.dataset.keys
    chosen = [number * count // min(rows, count) for number in range(min(rows, count))]
    blocks: list[tuple[str, Dataset, tuple[Item, ...], int]] = [
        (split, task.dataset, task.dataset.select(split), count)
        for split, count in COUNTS.items()
        if task.dataset.select(split)
    ]
    blocks += [(name, shifted, shifted.test, DOMAIN_COUNT) for name, shifted in task.domains.items()]
    width = NAMES + sum(count * (SIDE + GAP) + 4 * GAP for *_, count in blocks)
    sheet = Image.new("RGB", (width, HEADER + len(chosen) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, label in enumerate(chosen):
        title = _short(task.dataset.classes[label], draw, font)
        draw.text((4, HEADER + row * (SIDE + GAP) + SIDE // 2 - 8), title, "black", font)
    left = NAMES
    for name, dataset, items, count in blocks:
        draw.text((left, 4), name, "black", font)
        for row, label in enumerate(chosen):
            for column, item in enumerate(_of_class(dataset, items, keys[label], count)):
                place = (left + column * (SIDE + GAP), HEADER + row * (SIDE + GAP))
                sheet.paste(ImageOps.fit(item.load(), (SIDE, SIDE)), place)
        left += count * (SIDE + GAP) + 4 * GAP
    return sheet


def _of_class(dataset: Dataset, items: Sequence[Item], key: Hashable, count: int) -> list[Item]:
    """The first items of a class; none if the data set does not have it."""
    if key not in dataset.keys:
        return []
    label = dataset.keys.index(key)
    found = (item for item in items if item.label == label)
    return [item for item, _ in zip(found, range(count), strict=False)]


def _short(title: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name that fits its column."""
    while draw.textlength(title, font) > NAMES - 8:
        title = f"{title.removesuffix('…')[:-1]}…"
    return title
