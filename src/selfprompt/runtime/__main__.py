"""``python -m selfprompt.runtime FOLDER images...``: classifies images with an exported classifier."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from selfprompt.inference.predictions import Prediction, Request, as_csv, as_lines, as_record, csv_header
from selfprompt.runtime.folder import PRECISIONS
from selfprompt.utils.files import to_json
from selfprompt.utils.wording import plural, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 for an error or if no image can be read, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        Request(options.top, options.unknown, options.coverage)
    except ValueError as error:
        parser.error(str(error))
    try:
        return _predict(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"selfprompt: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("selfprompt: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m selfprompt.runtime",
        description="classify images with an exported classifier",
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="folder of `selfprompt export`")
    parser.add_argument("images", nargs="+", help="image files, or folders of images")
    parser.add_argument("--top", type=int, default=1, help="number of classes to show per image")
    parser.add_argument("--unknown", type=float, help="answer 'unknown' for at most this share of known images: 0.05")
    parser.add_argument("--coverage", type=float, help="show a set that has the true class at this rate, such as 0.9")
    parser.add_argument("--precision", choices=PRECISIONS, help="precision of the model (default: the folder's first)")
    parser.add_argument("--format", choices=("table", "csv", "json", "jsonl"), default="table", help="output format")
    parser.add_argument("--csv-guard", action="store_true", help="in CSV, guard names that look like formulas")
    parser.add_argument("--workers", type=int, help="threads that read images (default: one per core)")
    return parser


def _predict(options: argparse.Namespace) -> int:
    from selfprompt.inference.image_paths import image_paths
    from selfprompt.runtime.classifier import load

    classifier = load(options.folder, precision=options.precision)
    request = Request(options.top, options.unknown, options.coverage)
    remarks = [classifier.record.note, *classifier.model().remarks(request)]
    for remark in filter(None, remarks):
        _say(f"Note: {remark}")
    batches = classifier.stream(
        image_paths(options.images),
        top=options.top,
        unknown=options.unknown,
        coverage=options.coverage,
        workers=options.workers,
    )
    sys.stdout.write(csv_header(errors=False) if options.format == "csv" else "")
    images = unreadable = 0
    kept: list[Prediction] = []
    for batch in batches:
        for one in batch:
            if one.error:
                _say(f"skipped {one.image}: {one.error}")
        images, unreadable = images + len(batch), unreadable + sum(bool(one.error) for one in batch)
        if options.format == "csv":
            sys.stdout.write(as_csv(map(_shown, batch), errors=False, guard=options.csv_guard))
        elif options.format == "jsonl":
            sys.stdout.write(_for_terminal(as_lines(batch)))
        else:
            kept += batch
            _count(images)
        sys.stdout.flush()
    _count(0)
    if options.format == "json":
        print(_for_terminal(to_json([as_record(one) for one in kept], indent=2)))
    elif options.format == "table":
        print(table([one for one in kept if not one.error]))
    return 1 if unreadable == images else 0


def table(predictions: Sequence[Prediction]) -> str:
    """Return predictions as columns of text: image, class, probability."""
    rows = [("image", "class", "probability")]
    for one in predictions:
        rows += [(printable(one.image), one.label, "")] if one.unknown else []
        names = (printable(one.image), *[""] * len(one.top))
        rows += [
            (name, printable(label), f"{100 * score:.1f} %")
            for name, (label, score) in zip(names, one.top, strict=False)
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


def _shown(one: Prediction) -> Prediction:
    """Escape control characters in the names if the standard output is a terminal."""
    if not sys.stdout.isatty():
        return one
    top = tuple((printable(name), score) for name, score in one.top)
    return replace(one, image=printable(one.image), top=top)


def _for_terminal(text: str) -> str:
    return printable(text, keep="\n") if sys.stdout.isatty() else text


def _count(images: int) -> None:
    """Show the number of images so far in the last line of a terminal; 0 clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{plural(images, 'image')} done" if images else "\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
