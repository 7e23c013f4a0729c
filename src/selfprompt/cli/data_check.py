"""``selfprompt data check``: checks a user's own images, or a folder of published data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table
from rich.text import Text

from selfprompt.cli.console import Output, make_console, table

if TYPE_CHECKING:
    from selfprompt.data.suites.check import CheckResult, State

MOST_CLASSES = 50
"""Largest number of classes that are all shown."""
FEW = 4
"""Classes with fewer training images are reported."""
STYLES = {"ok": "green", "differs": "yellow", "wrong": "red"}


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "root", type=str, help="your images, as for `selfprompt train`, or the folder of published data sets"
    )
    parser.add_argument("--suite", type=Literal["coop", "vtab", "fgvc"] | None, help="check only this suite")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="treat remarks as errors",
    )


def check(options: Namespace) -> int:
    """Report which data sets are present, wrong or missing; return 1 if a present one is wrong."""
    from selfprompt.data.readers.manifest import MANIFEST_SUFFIXES
    from selfprompt.data.readers.walk import contains_images
    from selfprompt.data.suites.check import SPECS_BY_SUITE, check_published

    root = Path(options.root)
    if root.is_file() and root.suffix.lower() in MANIFEST_SUFFIXES:
        return check_photos(root, options.strict)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. Give the folder of the data sets.")
    output, console = Output(make_console(stderr=True)), make_console()
    suites = [options.suite] if options.suite else list(SPECS_BY_SUITE)
    findings: list[CheckResult] = []
    with output.stage("checking data sets") as progress:
        specs = [spec for suite in suites for spec in SPECS_BY_SUITE[suite]]
        for done, spec in enumerate(specs, start=1):
            findings.append(check_published(spec, root))
            progress(done, len(specs))
    present = [finding for finding in findings if finding.state != "missing"]
    if not (present or options.suite) and contains_images(root):
        return check_photos(root, options.strict)
    if present:
        console.print(_results_table(present, root))
    for finding in present:
        for remark in finding.remarks:
            console.print_text(f"{finding.spec.key}: {remark}")
    for suite in suites:
        _print_missing([finding for finding in findings if finding.spec.suite == suite], suite, root)
    return _verdict([finding.state for finding in present], options.strict)


def check_photos(source: Path, strict: bool) -> int:
    """Report the contents of a user's data set and remarks on it; with ``strict``, return 1 if there are any."""
    from selfprompt.data.dataset import SPLITS
    from selfprompt.data.readers.read import read_dataset
    from selfprompt.data.survey import survey_dataset
    from selfprompt.utils.wording import listing, plural

    output, console = Output(make_console(stderr=True)), make_console()
    dataset = read_dataset(source, holdout=0)
    with output.stage("reading images") as progress:
        survey = survey_dataset(dataset, progress)
    counts = survey.counts()
    splits = [split for split in SPLITS if survey.dataset.select(split)]
    shown = sorted(counts, key=lambda row: row[1]["train"])[:MOST_CLASSES] if len(counts) > MOST_CLASSES else counts
    title = f"{source}: {plural(len(counts), 'class')}, {plural(len(survey.dataset.select('all')), 'image')}"
    title += f"; the {MOST_CLASSES} smallest classes" if len(shown) < len(counts) else ""
    console.print_text(f"{title}.")
    console.print(table("", ["class", *splits], [[name, *(str(images[s]) for s in splits)] for name, images in shown]))
    lines = [*survey.dataset.notes, *(f"  {image}" for image in survey.bad), *survey.remarks]
    for line in [*lines, survey.sizes]:
        console.print_text(line)
    if not survey.dataset.test:
        console.print_text("There is no test split; training holds out some images.")
    few = [name for name, images in counts if images["train"] < FEW]
    if few:
        console.print_text(f"Fewer than {FEW} training images: {listing(few)}.")
    if not (lines or few):
        console.print("No problems found.")
    return int(strict and bool(lines or few))


def _verdict(states: "Sequence[State]", strict: bool) -> int:
    """Print which data sets cannot be used or compared, and return the exit status."""
    from selfprompt.utils.wording import plural

    wrong, differing = states.count("wrong"), states.count("differs")
    parts = [f"{plural(wrong, 'data set')} cannot be used as it is"] if wrong else []
    if differing:
        allowed = "an error with --strict" if strict else "not an error without --strict"
        parts.append(f"{plural(differing, 'data set')} can be used, but not compared with published results: {allowed}")
    if parts:
        make_console().print()
        make_console().print_text(f"{'; '.join(parts)}.")
    return int(bool(wrong or (strict and differing)))


def _results_table(findings: "Sequence[CheckResult]", root: Path) -> Table:
    result = Table(title=Text(f"{root}"), title_justify="left")
    for name, justify in (
        ("data set", "left"),
        ("state", "left"),
        ("train / val / test", "right"),
        ("classes", "right"),
    ):
        result.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    result.add_column("folder", overflow="fold")
    for finding in findings:
        counts = " / ".join(f"{count:,}" for count in finding.counts) if finding.counts else ""
        classes = "" if finding.classes is None else str(finding.classes)
        folder = "" if finding.folder is None else str(finding.folder.relative_to(root))
        state = Text(finding.state, style=STYLES[finding.state])
        result.add_row(finding.spec.key, state, counts, classes, Text(folder))
    return result


def _print_missing(findings: "Sequence[CheckResult]", suite: str, root: Path) -> None:
    """Print the missing data sets of a suite and how to get them."""
    from selfprompt.data.suites.sources import SOURCES, VTAB_SOURCE

    missing = [finding.spec for finding in findings if finding.state == "missing"]
    if not missing:
        return
    console = make_console()
    names = ", ".join(spec.name for spec in missing)
    console.print()
    console.print_text(f"Missing of {suite} ({len(missing)} of {len(findings)}): {names}.")
    if suite == "vtab":
        console.print_text(f"  all: selfprompt data get vtab --root {root}  (from {VTAB_SOURCE.home})")
        return
    fetched = [spec.key for spec in missing if SOURCES[spec.key].downloads]
    if fetched:
        console.print_text(f"  selfprompt data get NAME --root {root}")
    for spec in missing:
        source = SOURCES[spec.key]
        tail = f" Manual steps: {source.manual_steps}" if source.manual_steps and not source.downloads else ""
        console.print_text(f"  {spec.name}: {source.home}.{tail}")
