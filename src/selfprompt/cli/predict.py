"""``selfprompt predict``: what do these images show?"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from selfprompt.cli.console import CSV_GUARD, Output, make_console, table
from selfprompt.cli.predict_steps import PredictionCounter, load_classifier, reader_threads
from selfprompt.cli.terminal_text import printable
from selfprompt.cli.usage import UsageError, check_at_least
from selfprompt.inference.predictions import Prediction, as_csv, as_lines, as_record, csv_header
from selfprompt.utils.files import to_json

MAX_LIST_IN_MEMORY = 1 << 20
"""Bytes up to which the list of images is kept in memory; a longer one goes to a temporary file."""


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    listed = any(word.partition("=")[0] == "--list" for word in given)
    parser.add_argument("classifier", type=str, help="folder that `selfprompt train` wrote, or hf-hub:owner/name")
    parser.add_argument("images", type=str, nargs="*" if listed else "+", help="image files, or folders of them")
    parser.add_argument("--list", type=str | None, help="a text file with more images, one path a line; - reads stdin")
    parser.add_argument("--classes", type=str | None, help='other class names: a,b,"c, d"; no training needed')
    parser.add_argument(
        "--class_names",
        type=str | None,
        help="the same from a file, one name a line, or lines FOLDER<TAB>NAME that rename the tuned classes",
    )
    parser.add_argument("--top", type=int, default=1, help="how many classes to show for each image")
    parser.add_argument(
        "--format",
        type=Literal["table", "json", "jsonl", "csv"],
        help="form of the output; jsonl: a line of JSON an image (default: table, in --out csv)",
    )
    parser.add_argument(
        "--out", type=str | None, help="folder for large jobs, written in parts; repeat the command to go on"
    )
    parser.add_argument("--part_size", type=int | None, help="images a part in --out: a multiple of the batch size")
    parser.add_argument("--csv_guard", action="store_true", help=CSV_GUARD)
    parser.add_argument("--merge", action="store_true", help="write the parts in --out into one file too")
    parser.add_argument("--devices", type=int, default=1, help="processes that share --out: one a GPU, or of the CPU")
    parser.add_argument("--workers", type=int | None, help="threads a process that read images (default: all cores)")
    parser.add_argument("--backbone", type=str | None, help="where the backbone is now, if it has moved")
    parser.add_argument("--trust", action="store_true", help="let the classifier's own code run, if it has any")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--quiet", action="store_true", help="print results only")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="report unreadable images, or stop",
    )


def predict(options: Namespace) -> int:
    """Run the command; the status is 1 when no image could be read."""
    check_at_least(options, 1, "top", "devices", "part_size")
    check_at_least(options, 0, "workers")
    if options.classes is not None and options.class_names is not None:
        raise UsageError("--classes and --class-names both give the class names: leave one of them out.")
    if options.csv_guard and options.format not in (("csv",) if options.out is None else ("csv", None)):
        raise UsageError(f"--csv-guard is for CSV, got --format {options.format or 'table'}.")
    if options.out is not None:
        from selfprompt.cli.predict_job import predict_parts

        return predict_parts(options)
    if options.devices > 1 or options.merge or options.part_size:
        raise UsageError("--devices, --part-size and --merge need --out: the folder of the parts.")
    return predict_here(options)


def predict_here(options: Namespace) -> int:
    """Predict to the standard output."""
    from selfprompt.inference.image_paths import PathIndex, ignored_summary, image_paths, read_lines

    out, form = sys.stdout, options.format or "table"
    output = Output(make_console(stderr=True), quiet=options.quiet)
    with SpooledTemporaryFile(MAX_LIST_IN_MEMORY) as spool:
        index, ignored = PathIndex(sys.maxsize), Counter[str]()
        spool.writelines(index.lines(image_paths(options.images, options.list, ignored)))
        if ignored:
            output.message(ignored_summary(ignored))
        spool.seek(0)
        if not index.count:
            raise ValueError(f"{options.list} lists no images.")
        classifier = load_classifier(options, output)
        batches = classifier.stream(read_lines(spool), top=options.top, workers=reader_threads(options))
        rows_pass_by = form in ("csv", "jsonl") and out.isatty()  # where a bar would stand in their way
        with (Output(quiet=True) if rows_pass_by else output).stage("predicting") as progress:
            found = PredictionCounter(output, options.on_bad_image == "fail", lambda done: progress(done, index.count))
            if form in ("csv", "jsonl"):
                out.write(csv_header(errors=False) if form == "csv" else "")
                for batch in found.follow(batches):
                    if form == "csv":
                        out.write(as_csv(map(printable_prediction, batch), errors=False, guard=options.csv_guard))
                    else:
                        out.write(for_terminal(as_lines(batch)))
                    out.flush()
            else:
                predictions = [prediction for batch in found.follow(batches) for prediction in batch]
    for sentence in found.odd.sentences():
        output.message(sentence)
    if form == "json":
        print(for_terminal(to_json([as_record(p) for p in predictions], indent=2)))
    elif form == "table":
        make_console().print(prediction_table([p for p in predictions if not p.error]))
    return 1 if found.bad == found.done else 0


def for_terminal(text: str) -> str:
    """Lines for the standard output: as they are for a file, spelled out where they would steer a terminal."""
    return printable(text, keep="\n") if sys.stdout.isatty() else text


def printable_prediction(prediction: Prediction) -> Prediction:
    """The same, its names as a terminal may show them if that is where they go: a line break in one is no new row."""
    if not sys.stdout.isatty():
        return prediction
    top = tuple((printable(name), score) for name, score in prediction.top)
    return replace(prediction, image=printable(prediction.image), top=top)


def prediction_table(predictions: Sequence[Prediction]) -> Table:
    """Images with their most likely classes."""
    rows = [
        [p.image if rank == 0 else "", label, f"{100 * score:.1f} %"]
        for p in predictions
        for rank, (label, score) in enumerate(p.top)
    ]
    return table("", ["image", "class", "probability"], rows)
