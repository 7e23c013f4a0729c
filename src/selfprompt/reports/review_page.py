"""The page and the tables of a review of labelled photos; the page shows the first few of a kind, the tables all."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from selfprompt.reports.html import Block, Picture, figure, headline, matrix, pictures, table, text, write_page
from selfprompt.reports.plot_style import truncated
from selfprompt.reports.plots import learning_curve
from selfprompt.utils.csv_text import csv_text
from selfprompt.utils.files import write_atomically
from selfprompt.utils.wording import listing, plural

if TYPE_CHECKING:
    from selfprompt.reviewing.learning_curve import CurvePoint
    from selfprompt.reviewing.review import Review

PAGE, IMAGES, CLASSES = "index.html", "images.csv", "classes.csv"
SHOWN = 24
"""Pictures of one kind on the page."""
ROWS = 15
"""Rows of a table on the page."""
MOST_CLASSES = 30
"""Classes of a confusion matrix that can still be read."""
SIDE = 192
"""Longest side of a picture in pixels."""
LONGEST = 60
"""Letters of a name."""


def write_review(review: "Review", folder: Path, *, command: str = "", guard: bool = False) -> Path:
    """Write the tables and, last, the page; return the path of the page.

    Args:
        review: The result of ``selfprompt.review``.
        folder: Output folder.
        command: Command line that made the review, for the page.
        guard: Whether to guard the tables against formulas in spreadsheets.

    Raises:
        RuntimeError: If a file cannot be written.
    """
    from selfprompt.reviewing.review import CLASS_COLUMNS, IMAGE_COLUMNS

    tables = ((IMAGES, IMAGE_COLUMNS, review.image_rows()), (CLASSES, CLASS_COLUMNS, review.class_rows()))
    for file, columns, rows in tables:
        write_atomically(folder / file, csv_text([columns, *rows], guard=guard).encode(errors="backslashreplace"))
    photos = review.photos
    sections = [
        ("Labels that are probably wrong", _wrong_labels(review)),
        ("Copies of the same picture", _copies(review)),
        ("Pictures unlike all others", _outliers(review)),
        ("Classes that are confused with each other", _confusions(review)),
        ("What more photos would bring", _more_photos(review)),
        ("Notes", [text(note) for note in (*photos.dataset.notes, *_unreadable(review))]),
    ]
    facts = [
        ("date", date.today().isoformat()),
        ("images", f"{plural(len(photos.items), 'image')} of {plural(len(photos.classes), 'class')}"),
        ("backbone", review.backbone),
        ("seed", str(review.seed)),
        *([("command", command)] if command else []),
    ]
    title, note = f"Review of {photos.dataset.name}", review.backbone_note
    shown = [section for section in sections if section[1]]
    write_page(folder / PAGE, title, shown, note, lead=_lead(review), facts=facts)
    return folder / PAGE


def summary_rows(review: "Review") -> list[list[str]]:
    """Return a row for each kind of problem: its name, how many were found, and the first one."""
    wrong, copies, outliers = review.wrong_labels, review.copies, review.outliers
    rows = [["labels that are probably wrong", str(len(wrong)), _short(review.name(wrong[0].image)) if wrong else ""]]
    kinds = {
        "copy in another split": "copies across splits",
        "copy with another label": "copies with different labels",
        "copy": "other copies",
    }
    for kind, title in kinds.items():
        own = [copy for copy in copies if copy.kind == kind]
        first = f"{_short(review.name(own[0].image))} = {_short(review.name(own[0].original))}" if own else ""
        rows.append([title, str(len(own)), first])
    rows.append(
        ["pictures unlike all others", str(len(outliers)), _short(review.name(outliers[0].image)) if outliers else ""]
    )
    pairs = review.confusions
    both = f"{_class(review, pairs[0].first)} and {_class(review, pairs[0].second)}" if pairs else ""
    rows.append(["pairs of confused classes", str(len(pairs)), both])
    bad = review.photos.bad
    return rows + ([["images that cannot be read", str(len(bad)), _short(bad[0].path)]] if bad else [])


def _lead(review: "Review") -> list[Block]:
    """Return the first screen: how many images to look at, why, and how well the classes can be told apart."""
    rows = summary_rows(review)
    doubtful = {wrong.image for wrong in review.wrong_labels} | {copy.image for copy in review.copies}
    doubtful |= {outlier.image for outlier in review.outliers}
    leaks, wrong = (sum(copy.kind == "copy in another split" for copy in review.copies), len(review.wrong_labels))
    reasons = []
    if leaks:
        copies = "image is a copy of one" if leaks == 1 else "images are copies of some"
        reasons.append(
            f"{leaks} {copies} in another split, so accuracy on {'it' if leaks == 1 else 'them'} says nothing."
        )
    if wrong:
        reasons.append(f"{plural(wrong, 'label')} {'is' if wrong == 1 else 'are'} probably wrong.")
    verdict = " ".join(reasons) or ("Look at these before you train." if doubtful else "Nothing stands out.")
    detail = f"of {plural(len(review.photos.items), 'image')} to look at"
    found = [row[:2] for row in rows]
    return [
        headline(str(len(doubtful)), detail, verdict, "bad" if leaks or wrong else "open" if doubtful else "good"),
        table(("problem", "found"), found),
        text(_accuracy_sentence(review)),
        text(
            f"A program cannot know which label is right: look before you change anything. `{IMAGES}` lists every "
            f"image with a problem, `{CLASSES}` every class."
        ),
    ]


def _accuracy_sentence(review: "Review") -> str:
    """Say how many images are classified as they are labelled, and how many were not judged."""
    if review.accuracy is None:
        return "No label could be judged: no class has two different pictures."
    value, (low, high), total = review.accuracy
    sentence = (
        f"A head on the frozen features of {review.backbone} classifies {value:.1f} % of {plural(total, 'image')} "
        f"as they are labelled (95 % interval {low:.1f} to {high:.1f}), each judged by heads that have not seen it "
        "or its copies."
    )
    left = len(review.photos.items) - total
    return sentence + (
        f" {plural(left, 'image')} could not be judged: the only pictures of their class." if left else ""
    )


def _unreadable(review: "Review") -> list[str]:
    """Return a sentence on the images that cannot be read; none if all can."""
    bad = review.photos.bad
    return [f"Cannot be read: {listing([str(one) for one in bad], ROWS)}."] if bad else []


def _wrong_labels(review: "Review") -> list[Block]:
    found = review.wrong_labels
    how = (
        "An image is listed if heads that were trained without it give its label less than 5 % and are as sure of "
        "another class as they are of that class's own images (confident learning), or if they give it less than 1 %. "
        "The least probable label comes first."
    )
    if not found:
        return [text("None."), text(how)]
    shown = [
        Picture(
            _picture(review, wrong.image),
            f"{_label(review, wrong.image)} → {_class(review, wrong.suggested)}?",
            f"{_short(review.name(wrong.image))}, label {_percent(1 - wrong.probability)} probable",
        )
        for wrong in found[:SHOWN]
    ]
    return [text(how), *_more(len(found)), pictures(shown)]


def _copies(review: "Review") -> list[Block]:
    found = review.copies
    how = (
        "All pixels are equal, or small pictures of the two correlate with at least 0.98: whole, cut around the centre "
        "to 95, 90 or 80 %, or mirrored. A copy of a training image among the test images makes the accuracy look too "
        "good."
    )
    if not found:
        return [text("None."), text(how)]
    shown = []
    for copy in found[:SHOWN]:
        labels = list(dict.fromkeys(_label(review, image) for image in (copy.original, copy.image)))
        splits = list(dict.fromkeys(review.photos.splits[image] for image in (copy.original, copy.image)))
        caption = f"{' and '.join(labels)}: {' and '.join(splits) if len(splits) > 1 else copy.kind}"
        note = f"{_short(review.name(copy.original))} = {_short(review.name(copy.image))}, {copy.correlation:.3f}"
        pair = _side_by_side(_picture(review, copy.original), _picture(review, copy.image))
        shown.append(Picture(pair, caption, note, wrong=copy.kind != "copy"))
    return [text(how), *_more(len(found)), pictures(shown)]


def _outliers(review: "Review") -> list[Block]:
    found = review.outliers
    how = (
        "The mean distance of the features to the five nearest images of any class is far above that of most images. "
        "Such a picture may belong to no class, or be a rare view that the class has too few of."
    )
    if not found:
        return [text("None."), text(how)]
    shown = [
        Picture(
            _picture(review, outlier.image),
            _label(review, outlier.image),
            f"{_short(review.name(outlier.image))}, {outlier.distance:.1f} times the median distance",
        )
        for outlier in found[:SHOWN]
    ]
    return [text(how), *_more(len(found)), pictures(shown)]


def _confusions(review: "Review") -> list[Block]:
    found = review.confusions
    if not found:
        return [text("None.")]
    rows = [
        [
            f"{_class(review, pair.first)} and {_class(review, pair.second)}",
            f"{100 * pair.share:.1f} %",
            f"{pair.first_as_second} and {pair.second_as_first}",
        ]
        for pair in found[:ROWS]
    ]
    how = (
        "The share of the images of both classes that were taken for the other one, and how many of the first and of "
        "the second class these are."
    )
    rest = f" The first {ROWS} of {len(found)} pairs; `{CLASSES}` names the class that each one is confused with most."
    blocks = [text(how + (rest if len(found) > ROWS else "")), table(("classes", "confused", "images"), rows)]
    if len(review.photos.classes) <= MOST_CLASSES:
        names = [_class(review, label) for label in range(len(review.photos.classes))]
        blocks.append(
            matrix(names, review.counts.tolist(), "Images: a row is a given class, a column a predicted one.")
        )
    return blocks


def _more_photos(review: "Review") -> list[Block]:
    curve, gains = review.curve, review.gains
    if not curve:
        return [text("Nothing can be estimated: no class has two different pictures.")]
    points = [(point.photos / len(review.photos.classes), point.accuracy, point.interval) for point in curve]
    blocks = [
        text(_curve_sentence(curve)),
        figure(
            learning_curve(points),
            "Cross-fitted accuracy by photos of each class for training, with 95 % intervals; on the right all photos.",
            "Curve of the accuracy by number of photos",
        ),
    ]
    if not gains:
        return [*blocks, text("A class needs at least four pictures to estimate what more of them would bring.")]
    rows = [
        [
            f"{_class(review, gain.label)} ({plural(gain.photos, 'photo')})",
            f"{gain.accuracy:.1f} %",
            f"{gain.gain:+.1f} ({gain.interval[0]:+.1f} to {gain.interval[1]:+.1f})",
        ]
        for gain in gains[:ROWS]
    ]
    return [
        *blocks,
        text(
            "An estimate for twice as many photos of one class: the gain in percentage points of the accuracy on that "
            "class. It is not measured, but extrapolated: in repeated trainings the photos of random classes are "
            "halved, and doubling is taken to bring 0.63 of what halving costs, as it does where the error falls with "
            "the square root of the number of photos. Estimates from few images are drawn towards the mean of all "
            "classes; their order is a rough guess. If the interval contains 0, the class may gain nothing."
        ),
        *_more(len(gains), ROWS, CLASSES),
        table(("class", "accuracy", "gain (95 % interval)"), rows),
    ]


def _curve_sentence(curve: "Sequence[CurvePoint]") -> str:
    """Say what the last doubling of the photos brought."""
    last, doubled = curve[-1], [point for point in curve if point.shots]
    sentence = f"With all photos (but those held out) the accuracy is {last.accuracy:.1f} %."
    if len(doubled) > 1:
        before, after = doubled[-2:]
        sentence += (
            f" From {before.shots} to {after.shots} photos of each class it changes from {before.accuracy:.1f} to "
            f"{after.accuracy:.1f} %."
        )
    return sentence


def _more(count: int, shown: int = SHOWN, file: str = IMAGES) -> list[Block]:
    """Say that the page shows a part."""
    return [text(f"The first {shown} of {count}; `{file}` lists all.")] if count > shown else []


def _picture(review: "Review", image: int) -> Image.Image:
    """Return an image of the review, scaled down; gray if it can no longer be read."""
    try:
        picture = review.photos.items[image].load()
    except ValueError:
        return Image.new("RGB", (SIDE, SIDE), "#888888")
    picture.thumbnail((SIDE, SIDE))
    return picture


def _side_by_side(first: Image.Image, second: Image.Image) -> Image.Image:
    """Return two pictures in one, on white."""
    gap = SIDE // 16
    joined = Image.new("RGB", (first.width + gap + second.width, max(first.height, second.height)), "white")
    joined.paste(first, (0, (joined.height - first.height) // 2))
    joined.paste(second, (first.width + gap, (joined.height - second.height) // 2))
    return joined


def _short(name: str) -> str:
    """Return the end of a long path, which tells more than its start."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _percent(share: float) -> str:
    """Return a probability in percent; a tiny one is not 0."""
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _class(review: "Review", label: int) -> str:
    return truncated(review.photos.classes[label], LONGEST)


def _label(review: "Review", image: int) -> str:
    return _class(review, review.photos.items[image].label)
