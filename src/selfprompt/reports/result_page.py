"""The page of one classifier: how good it is, where it errs, how sure it is, and how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfprompt.metrics import wilson_interval
from selfprompt.reports import plots
from selfprompt.reports.accuracy import SELECTION_COLUMNS, calibration_sentences, estimate_sentence, selection_rows
from selfprompt.reports.html import (
    Bar,
    Block,
    Picture,
    bars,
    code,
    figure,
    headline,
    matrix,
    note,
    pictures,
    side_by_side,
    table,
    text,
    write_page,
)
from selfprompt.reports.verdict import chance_level, compare_floors, expectation, judge

if TYPE_CHECKING:
    from selfprompt.inference.judged_images import JudgedImage

CLASSES, PAIRS, MATRIX = 60, 15, 30
"""Largest numbers of classes with a bar, of confused pairs, and of classes in a confusion matrix."""


@dataclass(frozen=True)
class ResultPage:
    """What the page shows.

    Attributes:
        title: Heading of the page.
        results: ``Classifier.results``, or a part of it: at least method, classes, tuned.
        facts: Names and values for the head: date, command, seed.
        wrong: Wrong predictions, the most confident first.
        unsure: Images whose two most likely classes were nearly equal.
        usage: Command that uses the classifier; empty to leave it out.
    """

    title: str
    results: Mapping[str, Any]
    facts: Sequence[tuple[str, str]] = ()
    wrong: "Sequence[JudgedImage]" = ()
    unsure: "Sequence[JudgedImage]" = ()
    usage: str = ""


def write_result_page(path: Path, page: ResultPage) -> None:
    """Write the page.

    Raises:
        RuntimeError: If the file cannot be written.
        BadImageError: If an image to show can no longer be read.
    """
    results, tuned = page.results, page.results.get("tuned")
    sections: list[tuple[str, list[Block]]] = []
    if tuned:
        sections += [
            ("Accuracy of each class", per_class(results)),
            ("Classes that are confused", confusions(results)),
            ("Confident mistakes", _pictures(page.wrong, 1) or [text("No image was classified wrong.")]),
            ("Least certain images", _pictures(page.unsure, 2)),
            ("Is the confidence right?", calibration(tuned)),
        ]
    if (results.get("selection") or {}).get("candidates"):
        sections.append(("How the method was chosen", comparison(results["selection"])))
    if len(results.get("history") or ()) > 1:
        sections.append(("Training", [figure(plots.training_curves({results["method"]: results["history"]}), "", ALT)]))
    if page.usage:
        sections.append(("Use it", [code(page.usage)]))
    if results.get("notes"):
        sections.append(("Notes", [text(sentence) for sentence in results["notes"]]))
    write_page(path, page.title, [entry for entry in sections if entry[1]], lead=lead(results), facts=page.facts)


ALT = "Training loss and training accuracy by epoch."


def lead(results: Mapping[str, Any]) -> list[Block]:
    """Return the first screen: the accuracy, what it means, warnings, and the floors."""
    tuned, estimate = results.get("tuned"), (results.get("selection") or {}).get("estimate")
    sentence, kind = judge(results)
    measured = tuned or estimate
    if measured is None:
        return [headline("?", "accuracy on new images", sentence, kind), *_warnings(results)]
    low, high = measured["interval"]
    images = "test images" if results.get("split", "test") == "test" else "images"
    of = f"of {tuned['total']} {images} are right" if tuned else "expected on new images"
    first = headline(f"{measured['accuracy']:.1f} %", f"{of}; 95 % interval {low:.1f} - {high:.1f} %", sentence, kind)
    return [first, text(expectation(results)), *_warnings(results), *(_floors(results) if tuned else ())]


def _warnings(results: Mapping[str, Any]) -> list[Block]:
    return [note(results["warnings"])] if results.get("warnings") else []


def _floors(results: Mapping[str, Any]) -> list[Block]:
    """Return the accuracy as a bar, above those of the floors and the one that was measured after training."""
    compared = compare_floors(results)
    shown = [_bar(results["method"], results["tuned"], strong=True)]
    shown += [_bar(one.name, one.metrics) for one in compared]
    if results.get("reference"):
        shown.append(_bar("after training", results["reference"], note="on the test images of then"))
    floors = " and ".join(one.name for one in compared)
    what = f"For comparison: {floors}, with the same frozen backbone and on the same images. " if floors else ""
    drawn = bars(shown, f"{what}Lines: 95 % intervals; dashed: guessing.", chance=chance_level(results))
    tests = " ".join(one.test for one in compared if one.test)
    return [drawn, text(tests)] if tests else [drawn]


def _bar(name: str, metrics: Mapping[str, Any], *, note: str = "", strong: bool = False) -> Bar:
    low, high = metrics["interval"]
    return Bar(name, metrics["accuracy"], low, high, note, strong)


def per_class(results: Mapping[str, Any]) -> list[Block]:
    """Return the accuracy of each class with test images, the lowest first."""
    counts = [
        (name, row[index], sum(row))
        for index, (name, row) in enumerate(zip(results["classes"], results["tuned"]["confusion"], strict=True))
        if sum(row)
    ]
    ranked = sorted(counts, key=lambda entry: (entry[1] / entry[2], -entry[2]))
    shown = [
        Bar(name, 100 * correct / total, *wilson_interval(correct, total), f"{correct} of {total}")
        for name, correct, total in ranked[:CLASSES]
    ]
    caption = "Lowest first, with 95 % intervals: few images say little about a class."
    if len(ranked) > CLASSES:
        caption = f"The {CLASSES} lowest of {len(ranked)} classes. {caption}"
    macro = f"Mean of the classes, each with the same weight: {results['tuned']['macro']:.1f} %."
    return [text(macro), bars(shown, caption)]


def confusions(results: Mapping[str, Any]) -> list[Block]:
    """Return the pairs of classes that are confused most often, and the confusion matrix of few classes."""
    classes, confusion = results["classes"], results["tuned"]["confusion"]
    pairs = [
        (count, sum(row), classes[true], classes[predicted])
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    if not pairs:
        return [text("No class was taken for another one.")]
    ranked = sorted(pairs, key=lambda entry: (-entry[0], -entry[0] / entry[1]))
    rows = [[true, predicted, f"{count} of {total}"] for count, total, true, predicted in ranked[:PAIRS]]
    more = f" The {PAIRS} most frequent of {len(ranked)} pairs." if len(ranked) > PAIRS else ""
    blocks = [table(("class", "taken for", "images"), rows, f"Images of a class that were taken for another.{more}")]
    if len(classes) <= MATRIX:
        blocks.append(
            matrix(classes, confusion, "Confusion matrix in images: a row is a true class, a column a predicted one.")
        )
    return blocks


def calibration(tuned: Mapping[str, Any]) -> list[Block]:
    """Return how confidence and accuracy agree, with the number of images in each bin."""
    bins = [(confidence, accuracy, int(count)) for confidence, accuracy, count in tuned.get("reliability") or ()]
    if not bins:
        return []
    total = sum(count for *_, count in bins)
    confidence = 100 * sum(confidence * count for confidence, _, count in bins) / total
    excess = confidence - tuned["accuracy"]
    size = f"{abs(excess):.1f} points too {'high' if excess > 0 else 'low'} on average"
    rows = [[f"{100 * c:.0f} %", f"{100 * a:.0f} %", f"{count}"] for c, a, count in bins]
    return [
        text(
            f"The classifier gives its predictions a mean probability of {confidence:.1f} %, and "
            f"{tuned['accuracy']:.1f} % of them are right: the probabilities are {size}. The expected calibration "
            f"error over 15 bins is {100 * tuned['calibration_error']:.1f} %."
        ),
        *(text(sentence) for sentence in calibration_sentences(tuned)),
        side_by_side(
            [
                figure(
                    plots.reliability_diagram(bins),
                    "On the diagonal, confidence equals accuracy. Below: images in each bin.",
                    f"Accuracy by confidence; calibration error {100 * tuned['calibration_error']:.1f} %.",
                ),
                table(("confidence", "right", "images"), rows, "The same numbers; bins with few images say little."),
            ]
        ),
    ]


def comparison(selection: Mapping[str, Any]) -> list[Block]:
    """Return the candidates that ``auto`` compared."""
    rows = selection_rows(selection)
    chosen = [number for number, row in enumerate(rows) if row[0] == selection["chosen"]]
    caption = (
        "Cross-validated on the training images alone, from simple to costly. The simplest candidate within one "
        "standard error of the best is chosen."
    )
    blocks = [table(SELECTION_COLUMNS, rows, caption, marked=chosen)]
    return [*blocks, text(estimate_sentence(selection["estimate"]))] if selection.get("estimate") else blocks


def _pictures(judged: "Sequence[JudgedImage]", top: int) -> list[Block]:
    """Return a grid of images with their most likely classes."""
    return [pictures([_picture(one, top) for one in judged])] if judged else []


def _picture(judged: "JudgedImage", top: int) -> Picture:
    said = " or ".join(f"{name} {100 * share:.0f}\N{NO-BREAK SPACE}%" for name, share in judged.top[:top])
    name = Path(str(judged.item.source)).name
    return Picture(judged.item.load(), said, f"{f'is {judged.truth} · ' if judged.wrong else ''}{name}", judged.wrong)
