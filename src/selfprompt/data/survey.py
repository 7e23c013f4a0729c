"""Surveys a data set before a model is trained on it: decodes every image once and describes what it finds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.duplicates import make_shortener
from selfprompt.data.loading.check_images import ImageInfo, drop_unusable, inspect_images
from selfprompt.data.loading.image_files import BadImage
from selfprompt.utils.progress import Progress
from selfprompt.utils.wording import listing, plural

SMALL = 64
"""Pixels; an image with a shorter side below this shows little."""


@dataclass(frozen=True)
class Survey:
    """The result of `survey_dataset`.

    Attributes:
        dataset: The usable part of the data set; its notes describe the rest.
        bad: The images that cannot be read.
        remarks: Further remarks, one sentence each.
        sizes: A sentence on the sizes of the images; "" without images.
    """

    dataset: Dataset
    bad: tuple[BadImage, ...]
    remarks: tuple[str, ...]
    sizes: str

    def counts(self) -> list[tuple[str, dict[Split, int]]]:
        """Return each class name with its number of usable images in each split."""
        counted = {split: Counter(item.label for item in self.dataset.select(split)) for split in SPLITS}
        return [
            (name, {split: counted[split][label] for split in SPLITS})
            for label, name in enumerate(self.dataset.classes)
        ]


def survey_dataset(dataset: Dataset, progress: Progress | None = None) -> Survey:
    """Decode the images of a data set and describe what is unusual about them.

    Raises:
        ValueError: If fewer than two classes have readable training images.
    """
    inspected = list(inspect_images(dataset.select("all"), progress=progress))
    good = [(item, info) for item, info in inspected if isinstance(info, ImageInfo)]
    bad = tuple(info for _, info in inspected if isinstance(info, BadImage))
    usable = drop_unusable(dataset, inspected, range(len(dataset.classes)))
    return Survey(usable, bad, tuple(_remarks(dataset, good)), _describe_sizes([info.size for _, info in good]))


def _remarks(dataset: Dataset, images: Sequence[tuple[Item, ImageInfo]]) -> list[str]:
    name = make_shortener(dataset)
    small = [name(item.source) for item, info in images if min(info.size) < SMALL]
    if not small:
        return []
    return [f"{plural(len(small), 'image')} with a side of less than {SMALL} pixels: {listing(small, 5)}."]


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Describe the smallest, median and largest size by area."""
    if not sizes:
        return ""
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    median = by_area[median_low(range(len(by_area)))]
    smallest, middle, largest = (f"{width} x {height}" for width, height in (by_area[0], median, by_area[-1]))
    return f"Sizes in pixels: smallest {smallest}, median {middle}, largest {largest}."
