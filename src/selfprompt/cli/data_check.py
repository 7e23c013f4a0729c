"""``selfprompt data check``: are one's own photos, or a folder of published data sets, as they should be?"""

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
"""Classes up to which all are shown."""
FEW = 4
"""Training images of a class that are few."""
STYLES = {"ok": "green", "differs": "yellow", "wrong": "red"}


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "root", type=str, help="your photos, as for `selfprompt train`; or the folder that holds published data sets"
    )
    parser.add_argument("--suite", type=Literal["coop", "vtab", "fgvc"] | None, help="only the data sets of one suite")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="what deserves a look counts as wrong, too",
    )


def check(options: Namespace) -> int:
    """Show what is there, what is wrong and what is missing; 1 if something that is there is wrong."""
    from selfprompt.data.readers.manifest import MANIFEST_SUFFIXES
    from selfprompt.data.readers.walk import contains_images
    from selfprompt.data.suites.check import SPECS_BY_SUITE, check_published

    root = Path(options.root)
    if root.is_file() and root.suffix.lower() in MANIFEST_SUFFIXES:
        return check_photos(root, options.strict)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: name the one that holds the data sets.")
    output, console = Output(make_console(stderr=True)), make_console()
    suites = [options.suite] if options.suite else list(SPECS_BY_SUITE)
    findings: list[CheckResult] = []
    with output.stage("looking at the data") as progress:
        specs = [spec for suite in suites for spec in SPECS_BY_SUITE[suite]]
        for done, spec in enumerate(specs, start=1):
            findings.append(check_published(spec, root))
            progress(done, len(specs))
    there = [finding for finding in findings if finding.state != "missing"]
    if not (there or options.suite) and contains_images(root):
        return check_photos(root, options.strict)
    if there:
        console.print(_present(there, root))
    for finding in there:
        for remark in finding.remarks:
            console.print_text(f"{finding.spec.key}: {remark}")
    for suite in suites:
        _tell_missing([finding for finding in findings if finding.spec.suite == suite], suite, root)
    return _verdict([finding.state for finding in there], options.strict)


def check_photos(source: Path, strict: bool) -> int:
    """Show what a data set of one's own holds and what is odd about it; 1 with ``strict`` if anything is."""
    from selfprompt.data.dataset import SPLITS
    from selfprompt.data.readers.read import read_dataset
    from selfprompt.data.survey import survey_dataset
    from selfprompt.utils.wording import listing, plural

    output, console = Output(make_console(stderr=True)), make_console()
    dataset = read_dataset(source, holdout=0)
    with output.stage("reading images") as progress:
        found = survey_dataset(dataset, progress)
    counts = found.counts()
    splits = [split for split in SPLITS if found.dataset.select(split)]
    shown = sorted(counts, key=lambda row: row[1]["train"])[:MOST_CLASSES] if len(counts) > MOST_CLASSES else counts
    title = f"{source}: {plural(len(counts), 'class')}, {plural(len(found.dataset.select('all')), 'image')}"
    title += f"; the {MOST_CLASSES} smallest classes" if len(shown) < len(counts) else ""
    console.print(f"{title}.", markup=False, soft_wrap=True)
    console.print(table("", ["class", *splits], [[name, *(str(own[s]) for s in splits)] for name, own in shown]))
    lines = [*found.dataset.notes, *(f"  {image}" for image in found.bad), *found.remarks]
    for line in [*lines, found.sizes]:
        console.print(line, markup=False, soft_wrap=True)
    if not found.dataset.test:
        console.print("There is no test split: training holds some images out.", markup=False, soft_wrap=True)
    few = [name for name, own in counts if own["train"] < FEW]
    if few:
        told = f"Fewer than {FEW} training images: {listing(few)}."
        console.print(told, markup=False, soft_wrap=True)
    if not (lines or few):
        console.print("Nothing odd was found.")
    return int(strict and bool(lines or few))


def _verdict(states: "Sequence[State]", strict: bool) -> int:
    """Tell in a line what can be used and compared; the command's status."""
    from selfprompt.utils.wording import plural

    wrong, differing = states.count("wrong"), states.count("differs")
    told = [f"{plural(wrong, 'data set')} cannot be used as it is"] if wrong else []
    if differing:
        allowed = "--strict takes that for an error" if strict else "no error (--strict makes it one)"
        told.append(f"{plural(differing, 'data set')} can be used, but not compared with published results: {allowed}")
    if told:
        make_console().print()
        make_console().print_text(f"{'; '.join(told)}.")
    return int(bool(wrong or (strict and differing)))


def _present(findings: "Sequence[CheckResult]", root: Path) -> Table:
    made = Table(title=Text(f"{root}"), title_justify="left")
    for name, justify in (
        ("data set", "left"),
        ("state", "left"),
        ("train / val / test", "right"),
        ("classes", "right"),
    ):
        made.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    made.add_column("folder", overflow="fold")
    for finding in findings:
        counts = " / ".join(f"{count:,}" for count in finding.counts) if finding.counts else ""
        classes = "" if finding.classes is None else str(finding.classes)
        folder = "" if finding.folder is None else str(finding.folder.relative_to(root))
        state = Text(finding.state, style=STYLES[finding.state])
        made.add_row(finding.spec.key, state, counts, classes, Text(folder))
    return made


def _tell_missing(findings: "Sequence[CheckResult]", suite: str, root: Path) -> None:
    """The data sets of a suite that are not there, and how to get them."""
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
        tail = f" By hand: {source.manual_steps}" if source.manual_steps and not source.downloads else ""
        console.print_text(f"  {spec.name}: {source.home}.{tail}")
