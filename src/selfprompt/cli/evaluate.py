"""``selfprompt eval``: evaluates a saved classifier on labelled images."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, make_console, table
from selfprompt.cli.labelled_images import add_selection_options, read_labelled_images
from selfprompt.cli.result_report import write_evaluation_report
from selfprompt.cli.saved_classifier import (
    CLASSES_HELP,
    add_classifier_argument,
    add_loading_options,
    load_saved_classifier,
    parse_classes,
)
from selfprompt.cli.usage import check_at_least
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_rows, calibration_sentences, floor_sentences
from selfprompt.utils.files import to_json


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    add_classifier_argument(parser)
    parser.add_argument("data", type=str, help="labelled images, as for `selfprompt train`")
    add_selection_options(parser)
    parser.add_argument("--classes", type=str | None, help=CLASSES_HELP)
    parser.add_argument(
        "--batch_size", type=int | None, help="images per batch, for methods that mix the images of a batch"
    )
    add_loading_options(parser)
    parser.add_argument("--html", type=str | None, help="write a page of the result to this file")
    parser.add_argument("--format", type=Literal["table", "json"], default="table", help="output format")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="skip unreadable images and report them, or stop",
    )


def eval(options: Namespace) -> int:
    """Run the command."""
    check_at_least(options, 1, "batch_size")
    from selfprompt.data.loading.feature_cache import FeatureStore
    from selfprompt.data.loading.store import ImageStore
    from selfprompt.inference.floors import floors_of_evaluation
    from selfprompt.inference.judged_images import judge_images

    output = Output(make_console(stderr=True))
    classifier = load_saved_classifier(options, output)
    if options.classes is not None:
        classes = parse_classes(options.classes)
        with output.stage("encoding the class texts"):
            classifier = classifier.with_classes(classes)
    if options.batch_size is not None:
        classifier.batch_size = options.batch_size
    output.note(classifier.method, classifier.batch_size)
    store, features = ImageStore(), FeatureStore()
    items, split = read_labelled_images(options, classifier, store, output, on_bad_image=options.on_bad_image)
    with output.stage("evaluating") as progress:
        measured, judged = judge_images(classifier, items, store, progress, features)
    metrics = measured.to_json()
    with output.stage("zero-shot on the same images") as progress:
        floors = floors_of_evaluation(classifier, measured, judged, store, progress, features)
    results = {"method": classifier.method.name, "classes": list(classifier.classes), "tuned": metrics, **floors}
    if options.html:
        write_evaluation_report(classifier, results, judged, split, options)
        output.message(f"Page: {options.html}")
    if options.format == "json":
        shown = {key: value for key, value in floors.items() if key != "reference"}
        print(to_json({**metrics, **shown, "split": split, "batch_size": classifier.batch_size}, indent=2))
    else:
        print_evaluation(results, f"{options.data}: {split} images")
    return 0


def print_evaluation(results: Mapping[str, Any], title: str) -> None:
    """Print the accuracy beside the floors, and the classes with the lowest accuracy."""
    console, metrics = make_console(), results["tuned"]
    console.print(table(title, ACCURACY_COLUMNS, accuracy_rows({**results, "weights": "untouched"})))
    for sentence in (*floor_sentences(results), *calibration_sentences(metrics)):
        console.print_text(sentence)
    worst = sorted(metrics["per_class"].items(), key=lambda pair: pair[1])[:10]
    console.print(table("hardest classes", ["class", "accuracy"], [[name, f"{value:.1f} %"] for name, value in worst]))
