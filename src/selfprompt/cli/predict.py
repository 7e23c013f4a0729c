"""``selfprompt predict``: classifies images."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Literal

from jsonargparse import Namespace
from rich.table import Table

from selfprompt.cli.console import CSV_GUARD, Output, make_console, table
from selfprompt.cli.engine import add_engine_options, check_engine
from selfprompt.cli.parsing import Parser
from selfprompt.cli.predict_steps import PredictionCounter, image_columns, load_classifier, stream
from selfprompt.cli.saved_classifier import CLASSES_HELP, add_classifier_argument, add_loading_options
from selfprompt.cli.usage import UsageError, check_at_least, usage
from selfprompt.inference.predictions import Prediction, Request, as_csv, as_lines, as_record, csv_header
from selfprompt.utils.files import to_json
from selfprompt.utils.wording import printable

MAX_LIST_IN_MEMORY = 1 << 20
"""Bytes of the list of images that are kept in memory; a longer list goes to a temporary file."""


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.former_names["devices"] = "jobs"
    listed = any(word.partition("=")[0] in ("--list", "--out") for word in given)
    add_classifier_argument(parser)
    parser.add_argument(
        "images",
        type=str,
        nargs="*" if listed else "+",
        help="image files, folders of images, or files of images: photos-{000..099}.tar, photos.parquet",
    )
    parser.add_argument("--list", type=str | None, help="text file with more of these, one path per line; - for stdin")
    parser.add_argument(
        "--image_column", type=str, default="image", help="in Parquet files: column of the bytes of images"
    )
    parser.add_argument("--key_column", type=str | None, help="in Parquet files: column of the names of images")
    parser.add_argument("--classes", type=str | None, help=CLASSES_HELP)
    parser.add_argument(
        "--class_names",
        type=str | None,
        help="file with other class names, one per line, or FOLDER<TAB>NAME lines that rename some; or a classes.yaml",
    )
    parser.add_argument("--top", type=int, default=1, help="number of classes to show per image")
    parser.add_argument(
        "--unknown",
        type=float | None,
        help="answer 'unknown' for images unlike the trained classes; at most this share of images of these classes, "
        "such as 0.05, is refused",
    )
    parser.add_argument(
        "--coverage",
        type=float | None,
        help="show a set of classes per image, which contains the true class for this share of images, such as 0.9",
    )
    parser.add_argument(
        "--format",
        type=Literal["table", "json", "jsonl", "csv", "parquet"],
        help="output format; jsonl: one line of JSON per image (default: table; csv with --out); parquet: with --out",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="output folder for a large job, written in shards; repeating the command resumes it",
    )
    parser.add_argument(
        "--shards",
        type=int | None,
        help="with --out: number of shards (default: one for 1,000 images, a tar file, or a range of a Parquet file)",
    )
    parser.add_argument(
        "--shard",
        type=str | None,
        help="with --out: predict only this shard, such as 3/64, the third of 64; shards are numbered from 1",
    )
    parser.add_argument("--csv_guard", action="store_true", help=CSV_GUARD)
    parser.add_argument("--merge", action="store_true", help="with --out: also write all shards to one file")
    add_engine_options(parser, "shards")
    parser.add_argument("--workers", type=int | None, help="threads per process that read images (default: all cores)")
    add_loading_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print results only")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="skip unreadable images and report them, or stop",
    )


def predict(options: Namespace) -> int:
    """Run the command; the exit status is 1 if no image can be read."""
    check_at_least(options, 1, "top", "jobs", "shards")
    check_at_least(options, 0, "workers")
    with usage("top", "unknown", "coverage"):
        Request(options.top, options.unknown, options.coverage)
    if options.classes is not None and options.class_names is not None:
        raise UsageError("--classes and --class-names both give class names: use one of them.")
    if options.csv_guard and options.format not in (("csv",) if options.out is None else ("csv", None)):
        raise UsageError(f"--csv-guard is for CSV, got --format {options.format or 'table'}.")
    if options.out is not None:
        from selfprompt.cli.predict_job import predict_shards

        check_engine(options)
        return predict_shards(options)
    needs_out = ("shard", "shards", "merge", "engine_options")
    if options.jobs > 1 or options.engine != "local" or any(options[name] for name in needs_out):
        raise UsageError("--shard, --shards, --merge, --jobs and --engine need --out.")
    if options.format == "parquet":
        raise UsageError("--format parquet needs --out.")
    return predict_here(options)


def predict_here(options: Namespace) -> int:
    """Write predictions to the standard output."""
    from selfprompt.inference.image_groups import image_groups
    from selfprompt.inference.image_paths import PathIndex, ignored_summary, image_paths, read_lines

    out, form = sys.stdout, options.format or "table"
    output = Output(make_console(stderr=True), quiet=options.quiet)
    with SpooledTemporaryFile(MAX_LIST_IN_MEMORY) as spool:
        index, ignored, columns = PathIndex(), Counter[str](), image_columns(options)
        spool.writelines(index.lines(image_paths(options.images, options.list, ignored, columns), mixed=True))
        if ignored:
            output.message(ignored_summary(ignored))
        spool.seek(0)
        if not index.count:
            raise ValueError(f"{options.list} lists no images.")
        classifier = load_classifier(options, output)
        batches = stream(options, classifier)(image_groups(read_lines(spool), columns))
        streams_rows = form in ("csv", "jsonl") and out.isatty()  # a progress bar would disturb them
        with (Output(quiet=True) if streams_rows else output).stage("predicting") as progress:
            counter = PredictionCounter(
                output, options.on_bad_image == "fail", lambda done: progress(done, max(done, index.count))
            )
            if form in ("csv", "jsonl"):
                out.write(csv_header(errors=False) if form == "csv" else "")
                for batch in counter.follow(batches):
                    if form == "csv":
                        out.write(as_csv(map(printable_prediction, batch), errors=False, guard=options.csv_guard))
                    else:
                        out.write(for_terminal(as_lines(batch)))
                    out.flush()
            else:
                predictions = [prediction for batch in counter.follow(batches) for prediction in batch]
    for sentence in counter.remarks.sentences():
        output.message(sentence)
    if form == "json":
        print(for_terminal(to_json([as_record(p) for p in predictions], indent=2)))
    elif form == "table":
        make_console().print(prediction_table([p for p in predictions if not p.error]))
    return 1 if counter.unreadable == counter.images else 0


def for_terminal(text: str) -> str:
    """Escape control characters in lines for the standard output if that is a terminal."""
    return printable(text, keep="\n") if sys.stdout.isatty() else text


def printable_prediction(prediction: Prediction) -> Prediction:
    """Escape control characters in the names if the standard output is a terminal; a line break starts no new row."""
    if not sys.stdout.isatty():
        return prediction
    top = tuple((printable(name), score) for name, score in prediction.top)
    return replace(prediction, image=printable(prediction.image), top=top)


def prediction_table(predictions: Sequence[Prediction]) -> Table:
    """Return a table of images with their most likely classes."""
    rows = []
    for p in predictions:
        rows += [[p.image, p.label, ""]] if p.unknown else []
        rows += [
            [p.image if rank == 0 else "", label, f"{100 * score:.1f} %"] for rank, (label, score) in enumerate(p.top)
        ]
    return table("", ["image", "class", "probability"], rows)
