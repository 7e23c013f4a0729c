"""``selfprompt review``: looks for what is wrong with labelled photos, and writes a page and tables."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import CSV_GUARD, Output, table
from selfprompt.cli.usage import UsageError, check_at_least, usage
from selfprompt.recipes.recipe import Recipe

if TYPE_CHECKING:
    from selfprompt.reviewing.review import Review


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("data", type=str, help="labelled images, as for `selfprompt train`")
    parser.add_argument("--out", type=str | None, help="output folder for the page and the tables")
    parser.add_argument(
        "--backbone", type=str, default=Recipe.backbone, help="name of the frozen model (see selfprompt backbones)"
    )
    parser.add_argument(
        "--class_names", type=str | None, help="classes.txt or classes.yaml with the class names of the data"
    )
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of every random choice")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--csv_guard", action="store_true", help=CSV_GUARD)
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def review(options: Namespace) -> int:
    """Run the command."""
    if options.out is None:
        raise UsageError("--out is needed: the folder to write the page and the tables to.")
    check_at_least(options, 0, "seed")
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose another name for the output folder.")
    from selfprompt.inference.loading import pick_device
    from selfprompt.reports.review_page import write_review
    from selfprompt.reviewing.problems import check_cleanlab
    from selfprompt.reviewing.review import review as review_photos

    check_cleanlab()
    with usage("device"):
        pick_device(options.device)
    output = Output(quiet=options.quiet)
    found = review_photos(
        options.data,
        backbone=options.backbone,
        class_names=options.class_names,
        seed=options.seed,
        device=options.device,
        reporter=output,
    )
    with output.stage("writing the page"):
        page = write_review(found, out, command=_command(options), guard=options.csv_guard)
    print_review(found, options.data, output)
    output.console.print_text(f"Look at {page}; images.csv and classes.csv beside it list everything.")
    return 0


def _command(options: Namespace) -> str:
    """Return the command line, for the page."""
    words = ["selfprompt", "review", options.data, "--out", options.out, "--backbone", options.backbone]
    words += ["--class-names", options.class_names] if options.class_names else []
    return shlex.join([*words, "--seed", str(options.seed)])


def print_review(review: "Review", data: str, output: Output) -> None:
    """Print how much of each kind was found."""
    from selfprompt.reports.review_page import summary_rows
    from selfprompt.utils.wording import plural

    count, classes = len(review.photos.items), len(review.photos.classes)
    title = f"{data}: {plural(count, 'image')}, {plural(classes, 'class')}"
    output.console.print(table(title, ("problem", "found", "for example"), summary_rows(review)))
    if review.accuracy is None:
        output.console.print_text("No class has two different pictures, so no label could be judged.")
    else:
        value, (low, high), total = review.accuracy
        output.console.print_text(
            f"Cross-fitted accuracy {value:.1f} % ({low:.1f} to {high:.1f}) on {plural(total, 'image')}."
        )
