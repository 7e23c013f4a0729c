"""The page of a result, for ``selfprompt train --html`` and ``selfprompt eval --html``."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from selfprompt.cli.console import Output
from selfprompt.utils.wording import plural

if TYPE_CHECKING:
    from selfprompt.inference.classifier import Classifier
    from selfprompt.inference.judged_images import JudgedImage

REPORT = "report.html"
PICTURES = 18
"""Largest number of images to show of each kind."""


def write_training_report(classifier: "Classifier", options: Namespace, output: Output) -> None:
    """Write the page of a finished training to its output folder.

    Args:
        classifier: The result of ``tune``.
        options: Options of ``selfprompt train``.
        output: Receives the progress.
    """
    from selfprompt.reports.result_page import ResultPage, write_result_page

    results, path = classifier.results, Path(options.out) / REPORT
    judged = _judged_test_images(classifier, options.data, output) if results["tuned"] else []
    chosen = " (chosen by auto)" if results.get("selection") else ""
    images = [f"{count} {TASKS[split]}" for split, count in results["images"].items() if count]
    facts = [
        *_common_facts(classifier, options, f"{results['method']}{chosen}"),
        ("images", f"{', '.join(images)}; {plural(len(classifier.classes), 'class')}"),
        ("training", f"{results['trainable_parameters']:,} parameters, {results['seconds']:.0f} s in all"),
        ("command", options.command_line),
    ]
    out = shlex.quote(options.out)
    use = f"selfprompt predict {out} IMAGES...\nselfprompt eval {out} MORE_PHOTOS --html more.html"
    title = f"{_name(options.data)}: result of {results['method']}"
    write_result_page(path, ResultPage(title, results, facts, *_shown(judged), use))
    output.message(f"Page: {path}")


TASKS = {"train": "for training", "val": "for validation", "test": "for testing"}


def write_evaluation_report(
    classifier: "Classifier",
    results: Mapping[str, Any],
    judged: "Sequence[JudgedImage]",
    split: str,
    options: Namespace,
) -> None:
    """Write the page of an evaluation.

    Args:
        classifier: The evaluated classifier.
        results: The metrics under "tuned", and the floors.
        judged: The images with their predictions.
        split: The split that they come from.
        options: Options of ``selfprompt eval``.
    """
    from selfprompt.reports.result_page import ResultPage, write_result_page

    facts = [
        ("classifier", options.classifier),
        *_common_facts(classifier, options, classifier.method.name),
        ("images", f"{results['tuned']['total']} ({split}); {plural(len(classifier.classes), 'class')}"),
        ("command", options.command_line),
    ]
    title = f"{_name(options.classifier)} on {_name(options.data)}"
    page = ResultPage(title, {**results, "split": split}, facts, *_shown(judged))
    write_result_page(Path(options.html), page)


def _judged_test_images(classifier: "Classifier", data: str, output: Output) -> "list[JudgedImage]":
    """Return the test images of a training with their predictions."""
    from selfprompt.data.loading.store import ImageStore
    from selfprompt.inference.evaluation import find_images, readable_images
    from selfprompt.inference.judged_images import judge_images

    images = find_images(data, classifier.classes, classifier.recipe, classifier.results, split="test", say=_ignore)
    store = ImageStore()
    with output.stage("reading the test images for the page") as progress:
        items, _ = readable_images(images, store, on_bad="skip", progress=progress, say=_ignore)
    with output.stage("predicting the test images for the page") as progress:
        return judge_images(classifier, items, store, progress)[1]


def _common_facts(classifier: "Classifier", options: Namespace, method: str) -> list[tuple[str, str]]:
    from selfprompt.inference.artifact import library_versions

    versions = library_versions()
    return [
        ("date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")),
        ("data", options.data),
        ("method", method),
        ("backbone", classifier.method.backbone.name),
        ("seed", str(classifier.recipe.get("seed", "unknown"))),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in ("selfprompt", "torch") if name in versions)),
    ]


def _shown(judged: "Sequence[JudgedImage]") -> "tuple[list[JudgedImage], list[JudgedImage]]":
    from selfprompt.inference.judged_images import least_sure, most_wrong

    return most_wrong(judged, PICTURES), least_sure(judged, PICTURES)


def _name(location: str) -> str:
    """Return the last part of a path or name."""
    return Path(location).name or location


def _ignore(line: str) -> None:
    """Say nothing: the training has said it."""
