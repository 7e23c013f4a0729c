"""``selfprompt export``: writes a saved classifier for use without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, make_console, table
from selfprompt.cli.labelled_images import add_selection_options, read_labelled_images
from selfprompt.cli.saved_classifier import (
    CLASSES_HELP,
    add_backbone_options,
    add_classifier_argument,
    parse_classes,
)
from selfprompt.cli.usage import UsageError, usage

if TYPE_CHECKING:
    from selfprompt.exporting.measure import TestImages
    from selfprompt.inference.classifier import Classifier
    from selfprompt.runtime.folder import ExportRecord

USES = {
    "onnx": "python -m selfprompt.runtime FOLDER photo.jpg",
    "web": "python -m http.server --bind 127.0.0.1 --directory FOLDER; then open http://localhost:8000",
    "triton": "tritonserver --model-repository=FOLDER",
}
"""How to go on, by the kind of folder."""


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    add_classifier_argument(parser)
    parser.add_argument(
        "--to",
        type=Literal["onnx", "web", "triton"],
        default="onnx",
        help="onnx: for selfprompt.runtime and other programs; web: a page that classifies in the browser; triton: a "
        "model repository",
    )
    parser.add_argument("--out", type=str | None, help="output folder")
    parser.add_argument(
        "--precision",
        type=str | None,
        help="some of fp32, fp16 and int8; the first one is used unless another is asked for (default: all; for web "
        "and triton fp32)",
    )
    parser.add_argument("--title", type=str, default="Classify images", help="with --to web: title of the page")
    parser.add_argument(
        "--unknown", type=float | None, help="with --to web: answer 'unknown' for at most this share of known images"
    )
    parser.add_argument(
        "--onnxruntime_web",
        type=str | None,
        help="with --to web: folder of the npm package onnxruntime-web (default: downloaded once)",
    )
    parser.add_argument("--name", type=str, default="classifier", help="with --to triton: name of the model")
    parser.add_argument(
        "--data",
        type=str | None,
        help="labelled images to measure the accuracy on, as for eval (default: the test images of the training)",
    )
    add_selection_options(parser)
    parser.add_argument("--classes", type=str | None, help=CLASSES_HELP)
    parser.add_argument(
        "--classes_only",
        action="store_true",
        help="give an exported folder the classes of --classes, or of the classifier, without another export",
    )
    add_backbone_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def export(options: Namespace) -> int:
    """Run the command."""
    if options.out is None:
        raise UsageError("--out is needed: the folder to write to.")
    if options.classes_only and (options.data or options.precision):
        raise UsageError("--classes-only exports no model, so --precision and --data do not go with it.")
    if options.data is not None and options.classes is not None:
        raise UsageError("--data measures the trained classes, and --classes gives others: leave one of them out.")
    from selfprompt.exporting.export import check_packages, checked_precisions, replace_classes
    from selfprompt.exporting.export import export as export_classifier
    from selfprompt.exporting.folder import check_new
    from selfprompt.exporting.triton import check_model_name
    from selfprompt.exporting.web import Page
    from selfprompt.inference.loading import load
    from selfprompt.inference.predictions import Request

    words = None if options.precision is None else tuple(map(str.strip, options.precision.split(",")))
    with usage("precision", "name"):
        precisions = checked_precisions(words, options.to)
        check_model_name(options.name)
    with usage("unknown"):
        Request(unknown=options.unknown)
    output = Output(make_console(stderr=True), quiet=options.quiet)
    if not options.classes_only:
        check_packages()
        check_new(Path(options.out))
    with output.stage("loading"):
        classifier = load(
            options.classifier, backbone=options.backbone, device="cpu", trust=options.trust, say=output.message
        )
    if options.classes is not None:
        classes = parse_classes(options.classes)
        with output.stage("encoding the class texts"):
            classifier = classifier.with_classes(classes)
    output.note(classifier.method, classifier.batch_size)
    if options.classes_only:
        record = replace_classes(options.out, classifier)
        make_console().print_text(f"{options.out} has the classes {', '.join(record.classes)} now.")
        return 0
    if options.data is None and options.classes is None:
        options.data = _data_of_training(Path(options.classifier), classifier)
    images = None if options.data is None else _test_images(options, classifier, output)
    record = export_classifier(
        classifier,
        options.out,
        to=options.to,
        precisions=precisions,
        page=Page(options.title, options.unknown, options.onnxruntime_web),
        name=options.name,
        images=images,
        reporter=output,
    )
    print_export(record, options.out)
    return 0


def _data_of_training(folder: Path, classifier: "Classifier") -> str | None:
    """Return the data that a classifier was trained on, if it has test images and is still in its place."""
    from selfprompt.data.readers.read import is_task
    from selfprompt.utils.json_files import read_json

    result = folder / "result.json"
    if not classifier.results.get("tuned") or not result.is_file():
        return None
    record = read_json(result, advice="Give the data with --data.")
    data = record.get("data") if isinstance(record, dict) else None
    known = isinstance(data, str) and data != "" and (is_task(data) or Path(data).exists())
    return data if known else None


def _test_images(options: Namespace, classifier: "Classifier", output: Output) -> "TestImages":
    """Read the labelled images that the accuracy is measured on."""
    from selfprompt.data.loading.store import ImageStore
    from selfprompt.exporting.measure import TestImages
    from selfprompt.utils.wording import plural

    store = ImageStore()
    items, split = read_labelled_images(options, classifier, store, output)
    kind = "" if split == "all" else f"{split} "
    return TestImages(items, store, f"{plural(len(items), f'{kind}image')} of {Path(options.data).name}")


def print_export(record: "ExportRecord", folder: str) -> None:
    """Print the table of precisions and how to go on."""
    from selfprompt.exporting.readme import PRECISION_COLUMNS, measured_sentence, precision_rows

    console = make_console()
    console.print(table(folder, PRECISION_COLUMNS, precision_rows(record)))
    console.print_text(measured_sentence(record))
    if not record.measured_on:
        console.print_text("--data FOLDER measures the accuracy on labelled images.")
    console.print_text(f"Use it without torch: {USES[record.target].replace('FOLDER', folder)}")
