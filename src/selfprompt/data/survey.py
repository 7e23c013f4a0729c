"""What there is to know of a data set before a model is tuned on it: every image is decoded once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.duplicates import make_shortener
from selfprompt.data.loading.check_images import ImageInfo, Progress, drop_unusable, inspect_images
from selfprompt.data.loading.image_files import BadImage
from selfprompt.utils.wording import listing, plural

SMALL = 64
"""Pixels of a shorter side below which an image shows little."""


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        dataset: What can be used of the data set; its notes tell the rest.
        bad: The images that cannot be read.
        remarks: One sentence each on what deserves a look, besides the notes.
        sizes: A sentence on the images' sizes; "" without images.
    """

    dataset: Dataset
    bad: tuple[BadImage, ...]
    remarks: tuple[str, ...]
    sizes: str

    def counts(self) -> list[tuple[str, dict[Split, int]]]:
        """The number of usable images of each class in each split."""
        counted = {split: Counter(item.label for item in self.dataset.select(split)) for split in SPLITS}
        return [
            (name, {split: counted[split][label] for split in SPLITS})
            for label, name in enumerate(self.dataset.classes)
        ]


def survey(dataset: Dataset, progress: Progress | None = None) -> Survey:
    """Decode the images of a data set and tell what is odd about them.

    Raises:
        ValueError: If fewer than two classes have readable training images.
    """
    found = list(inspect_images(dataset.select("all"), progress=progress))
    looks = [(item, look) for item, look in found if isinstance(look, ImageInfo)]
    bad = tuple(look for _, look in found if isinstance(look, BadImage))
    checked = drop_unusable(dataset, found, range(len(dataset.classes)))
    return Survey(checked, bad, tuple(_remarks(dataset, looks)), _sizes([look.size for _, look in looks]))


def _remarks(dataset: Dataset, looks: Sequence[tuple[Item, ImageInfo]]) -> list[str]:
    name = make_shortener(dataset)
    small = [name(item.source) for item, look in looks if min(look.size) < SMALL]
    if not small:
        return []
    return [f"{plural(len(small), 'image')} with a side of less than {SMALL} pixels: {listing(small, 5)}."]


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Smallest, middle and largest size by area."""
    if not sizes:
        return ""
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    middle = by_area[median_low(range(len(by_area)))]
    words = [f"{width} x {height}" for width, height in (by_area[0], middle, by_area[-1])]
    return f"Sizes in pixels: smallest {words[0]}, median {words[1]}, largest {words[2]}."
