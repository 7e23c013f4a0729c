"""Does ``selfprompt review`` find wrong labels and copies that were planted in known images?

    python -m experiments.planted_errors --datasets animals,food,travel,objects,faces,flags,icons,digits

In each folder the labels of 5 % of the training images are exchanged among these, and 10 copies of other training
images are added to the test images: in turn with the same pixels, as JPEG of quality 50, scaled to 70 %, cut to the
central 90 %, and 20 % brighter. Recall is the share of the planted errors that the review lists, precision the share of
planted ones among those listed.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageEnhance

from selfprompt.data.dataset import Dataset, ImageTable, IndexedSource, Item
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.loading import pick_device
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.reviewing.copies import describe_copies, group_copies
from selfprompt.reviewing.photos import read_photos
from selfprompt.reviewing.problems import confusion_counts, find_wrong_labels
from selfprompt.reviewing.review import judge_labels
from selfprompt.training.reporter import LogReporter

DATASETS = ("animals", "food", "travel", "objects", "faces", "flags", "icons", "digits")
SHARE = 0.05
COPIES = 10


def as_jpeg(image: Image.Image) -> Image.Image:
    """Return the image as JPEG of quality 50 gives it back."""
    written = BytesIO()
    image.save(written, "JPEG", quality=50)
    return Image.open(written).convert("RGB")


def smaller(image: Image.Image) -> Image.Image:
    """Scale to 70 %."""
    return image.resize((max(1, image.width * 7 // 10), max(1, image.height * 7 // 10)))


def cut(image: Image.Image) -> Image.Image:
    """Cut to the central 90 %."""
    width, height = image.width // 20, image.height // 20
    return image.crop((width, height, image.width - width, image.height - height))


def brighter(image: Image.Image) -> Image.Image:
    """Make 20 % brighter."""
    return ImageEnhance.Brightness(image).enhance(1.2)


CHANGES: tuple[Callable[[Image.Image], Image.Image], ...] = (Image.Image.copy, as_jpeg, smaller, cut, brighter)


@dataclass(frozen=True)
class Planted:
    """A data set with errors.

    Attributes:
        dataset: Training and test images.
        wrong: Positions of the images with a wrong label.
        copies: Positions of a training image and its copy.
    """

    dataset: Dataset
    wrong: frozenset[int]
    copies: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Outcome:
    """Planted, listed and both, for wrong labels and for copies."""

    accuracy: float
    labels: tuple[int, int, int]
    copies: tuple[int, int, int]


def plant(dataset: Dataset, seed: int, copies: int = COPIES) -> Planted:
    """Exchange labels of training images, and add copies of others to the test images."""
    generator = np.random.default_rng(seed)
    train = list(dataset.train)
    drawn = generator.permutation(len(train))
    chosen, others = drawn[: round(SHARE * len(train))].tolist(), drawn[round(SHARE * len(train)) :].tolist()
    wrong = set()
    for image, other in zip(chosen, np.roll(chosen, 1).tolist(), strict=True):
        label = dataset.train[other].label
        if label != train[image].label:
            wrong.add(image)
        train[image] = Item(train[image].source, label)
    pictures = [CHANGES[n % len(CHANGES)](train[image].load()) for n, image in enumerate(others[:copies])]
    table = ImageTable("copy", pictures.__getitem__, in_memory=True)
    added = [Item(IndexedSource(table, n), train[image].label) for n, image in enumerate(others[:copies])]
    test = (*dataset.test, *added)
    start = len(train) + len(dataset.test)
    pairs = frozenset((image, start + n) for n, image in enumerate(others[:copies]))
    return Planted(Dataset(dataset.name, dataset.classes, tuple(train), (), test), frozenset(wrong), pairs)


def read(name: str, images: int, seed: int) -> Dataset:
    """Return so many training images of each class of a task; the other images are left out."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        source: object = [
            (Image.fromarray(np.uint8(16 * pixels.clip(0, 15))).convert("RGB"), str(label))
            for pixels, label in zip(digits.images, digits.target, strict=True)
        ]
    else:
        source = f"embedded/{name}"
    dataset = read_dataset(source, holdout=0)
    kept: list[Item] = []
    order = np.random.default_rng(seed).permutation(len(dataset.train))
    for label in range(len(dataset.classes)):
        kept += [dataset.train[n] for n in order if dataset.train[n].label == label][:images]
    return Dataset(name, dataset.classes, tuple(kept), (), dataset.test)


def measure(planted: Planted, backbone: Backbone, seed: int) -> Outcome:
    """Look for errors as ``review`` does, and compare what is listed with what was planted."""
    reporter = LogReporter()
    photos = read_photos(planted.dataset, backbone, pick_device(), reporter)
    groups, classes = group_copies(photos), len(photos.classes)
    features = photos.features.astype(np.float64)
    scores, probabilities = judge_labels(features, photos.labels, groups, classes, seed, reporter)
    counts = confusion_counts(scores, photos.labels)
    listed = {wrong.image for wrong in find_wrong_labels(probabilities, photos.labels)}
    pairs = {(copy.original, copy.image) for copy in describe_copies(photos, groups)}
    return Outcome(
        float(100 * np.trace(counts) / counts.sum()),
        (len(planted.wrong), len(listed), len(listed & planted.wrong)),
        (len(planted.copies), len(pairs), len(pairs & planted.copies)),
    )


def cells(outcomes: Sequence[Outcome]) -> list[str]:
    """Return mean accuracy, then planted, recall and precision of labels and of copies, summed over the outcomes."""
    texts = [f"{np.mean([outcome.accuracy for outcome in outcomes]):.1f}"]
    for kind in ("labels", "copies"):
        planted, listed, both = np.sum([getattr(outcome, kind) for outcome in outcomes], axis=0).tolist()
        texts += [str(planted), f"{100 * both / planted:.0f}" if planted else "-"]
        texts += [f"{100 * both / listed:.0f}" if listed else "-"]
    return texts


def main() -> None:
    """Print a row for each data set, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(DATASETS), help="tasks of the embedded suite, or digits")
    parser.add_argument("--images", type=int, default=16, help="training images of each class")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--backbone", default="embedded/clip", help="name of the frozen model")
    options = parser.parse_args()
    backbone, outcomes = load_backbone(options.backbone), []
    print("| folder | accuracy | wrong labels | recall | precision | copies | recall | precision |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.datasets.split(","):
        seeds = range(options.seeds)
        own = [measure(plant(read(name, options.images, seed), seed), backbone, seed) for seed in seeds]
        print(f"| {name} | {' | '.join(cells(own))} |", flush=True)
        outcomes += own
    print(f"| all | {' | '.join(cells(outcomes))} |")


if __name__ == "__main__":
    main()
