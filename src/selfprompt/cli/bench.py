"""``selfprompt bench``: a published protocol over data sets, methods and seeds, cell by cell."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.cli.console import Console, make_console
from selfprompt.cli.printable import printable
from selfprompt.cli.usage import UsageError, usage
from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.recipe import Recipe

if TYPE_CHECKING:
    from selfprompt.benchmarks.cells import Cell
    from selfprompt.benchmarks.rows import Row
    from selfprompt.benchmarks.runner import Outcome
    from selfprompt.data.suites.task import SuiteTask

SUITE_OF = {"vtab": "vtab", "fgvc": "fgvc"}
METHODS = {
    "vtab": "linear,vpt-deep,spt-deep",
    "fgvc": "linear,vpt-deep,spt-deep",
}
TEXT_METHODS = "zero-shot,coop,sep"
NOT_FOR_ALL = {"shots", "classes", "holdout", "class_names", "devices", "log_tensorboard"}
KINDS = (Recipe, DataOptions, TrainOptions)


def override_types() -> dict[str, Any]:
    """Values of a recipe that may be set for all rows, with their types."""
    own = {"statistics", "eval_batch_size"}
    names = [f.name for f in (*fields(DataOptions), *fields(TrainOptions)) if f.name not in NOT_FOR_ALL]
    hints = {name: hint for kind in KINDS for name, hint in get_type_hints(kind).items()}
    return {name: hints[name] for name in ("backbone", *sorted(own), *names)}


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    from selfprompt.benchmarks.protocols import PROTOCOLS
    from selfprompt.data.suites import SUITES
    from selfprompt.data.suites.vtab import PREPROCESSING

    listed = "; ".join(f"{name}: {protocol.about}" for name, protocol in PROTOCOLS.items())
    parser.add_argument("protocol", type=Literal[tuple(PROTOCOLS)], help=listed)
    parser.add_argument("--out", type=str | None, help="folder of all runs; a later call goes on there")
    parser.add_argument("--suite", type=Literal[SUITES] | None, help="tasks (selfprompt data list); default: embedded")
    parser.add_argument("--root", type=str | None, help="folder of the data, for suites that do not ship")
    parser.add_argument(
        "--methods", type=str | None, help="rows: a,b or 'sep[epochs=10,options.layers=[1,2]]' or recipe.yaml"
    )
    parser.add_argument("--trust", action="store_true", help="let the code run that recipe files name as methods")
    parser.add_argument("--datasets", type=str, default="all", help="tasks to tune on: x,y or all")
    parser.add_argument("--seeds", type=str, default="1,2,3", help="seeds of draws and starts")
    parser.add_argument("--shots", type=str | None, help="training images a class: 16, or 1,2,4,8,16; 0 is all")
    parser.add_argument(
        "--preprocessing",
        type=Literal[tuple(PREPROCESSING)] | None,
        help="for vtab: whose way from image to pixels; default: squash, bicubic, the backbone's statistics",
    )
    parser.add_argument("--retry_failed", action="store_true", help="run cells again that an earlier call left broken")
    parser.add_argument("--list", action="store_true", help="show what would run, and stop")
    parser.add_argument(
        "--cluster", type=Literal["local", "slurm"] | None, help="run in jobs of their own, through submitit"
    )
    parser.add_argument("--jobs", type=int, default=2, help="with --cluster: jobs that share the cells")
    parser.add_argument(
        "--cluster_options", type=dict[str, Any], default={}, help="with --cluster: {timeout_min: 60, ...}"
    )
    group = parser.add_argument_group("Values of the recipe, for all rows (selfprompt train --help-all explains them)")
    for name, kind in override_types().items():
        group.add_argument(f"--{name}", type=kind | None, default=None)


def bench(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.benchmarks.cells import is_done

    console = make_console()
    cells, missing = planned(options)
    for name, reason in missing.items():
        console.print_text(f"Left out {name}: {reason}")
    show_settings(cells, console)
    if options.list:
        for cell in cells:
            console.print_text(f"{cell}  {cell.folder}")
        return 0
    if options.out is None:
        raise UsageError("--out is needed: the folder that all runs are kept in.")
    out = Path(options.out)
    left = [cell for cell in cells if not is_done(out / cell.folder, cell.id)]
    console.print(f"{plural(len(cells), 'cell')}, {len(cells) - len(left)} of them done before")
    with usage():
        check_methods(left)
    root = None if options.root is None else Path(options.root)
    lost: list[str] = []
    if options.cluster and left:
        lost = run_jobs(left, out, root, options, console)
    elif left:
        run_here(left, out, root, options, console)
    unfinished = [cell for cell in left if not is_done(out / cell.folder, cell.id)]
    return summary(unfinished, out, lost, console)


def planned(options: Namespace) -> "tuple[tuple[Cell, ...], dict[str, str]]":
    """The grid of a command line, and the tasks that are left out because their data are not there."""
    from selfprompt.benchmarks.protocols import PROTOCOLS, build_grid, default_sources
    from selfprompt.benchmarks.rows import parse_rows
    from selfprompt.data.suites import list_tasks

    protocol = PROTOCOLS[options.protocol]
    suite = options.suite or SUITE_OF.get(options.protocol, "embedded")
    if suite not in protocol.suites:
        raise UsageError(f"{options.protocol} is defined for the suites {', '.join(protocol.suites)}, got {suite!r}.")
    tasks = list_tasks(suite)
    every = options.datasets == "all"
    chosen = tasks if every else tuple(_words(options.datasets, "datasets"))
    unknown = [name for name in chosen if name not in tasks]
    if unknown:
        raise UsageError(f"{suite} has no task {unknown[0]!r}. Its tasks: {', '.join(tasks)}.")
    with usage():
        rows = parse_rows(options.methods or METHODS.get(options.protocol, TEXT_METHODS), trust=options.trust)
        changes = overrides(options, rows)
    names = tasks if options.protocol == "cross-dataset" else chosen
    found, missing = readable(suite, names, options.root)
    if not every and (gone := [name for name in chosen if name in missing]):
        raise ValueError(f"{gone[0]}: {missing[gone[0]]}")
    sources = default_sources(options.protocol, suite) if every else chosen
    if every and not sources:
        sources = tasks[:1] if options.protocol == "cross-dataset" else tasks
    targets = {}
    if options.protocol == "cross-dataset":
        targets = {source: [name for name in found if name != source] for source in sources}
    if options.protocol == "domain-generalization":
        targets = {name: list(task.domains) for name, task in found.items()}
    cells = build_grid(
        options.protocol,
        suite,
        rows,
        [name for name in sources if name in found],
        _numbers(options.seeds, "seeds"),
        protocol.shots if options.shots is None else _numbers(options.shots, "shots"),
        changes,
        targets,
        (options.preprocessing or "default") if suite == "vtab" else "",
    )
    if not cells:
        raise ValueError(f"No data set of {suite} can be read: {'; '.join(missing.values())}")
    return cells, missing


def readable(suite: str, names: Sequence[str], root: str | None) -> "tuple[dict[str, SuiteTask], dict[str, str]]":
    """The tasks that can be read, and why the others cannot."""
    from selfprompt.data.suites import load_task

    found, reasons = {}, {}
    for name in names:
        try:
            found[name] = load_task(f"{suite}/{name}", root)
        except ValueError as error:
            reasons[name] = str(error)
    return found, reasons


def overrides(options: Namespace, rows: "Sequence[Row]") -> dict[str, Any]:
    """What the command line changes for all rows.

    Raises:
        ValueError: If a value does not fit one of the recipes.
    """
    changed = {name: value for name in override_types() if (value := getattr(options, name)) is not None}
    for row in rows:
        row.recipe().changed(changed)
    return changed


def check_methods(cells: "Sequence[Cell]") -> None:
    """Raise ValueError for options that a method does not take, before anything runs."""
    from selfprompt.methods.registry import find, make_options

    for cell in {cell.row: cell for cell in cells}.values():
        make_options(find(cell.recipe.method), cell.recipe.options)


def show_settings(cells: "Sequence[Cell]", console: Console) -> None:
    """Tell which rules of settings.yaml hold somewhere in the grid."""
    from selfprompt.benchmarks.rows import parse_row
    from selfprompt.benchmarks.settings import settings_for

    told: dict[str, None] = {}
    for cell in cells:
        row = parse_row(cell.row, trust=True)  # the grid was made of it
        facts = {"suite": cell.suite, "protocol": cell.protocol, "dataset": cell.dataset, "recipe": row.name}
        for rule in settings_for(row.recipe(), shots=cell.shots, **facts):
            steps = {"steps_per_shot": rule.steps_per_shot} if rule.steps_per_shot else {}
            options = {f"options.{key}": value for key, value in rule.values.get("options", {}).items()}
            plain = {key: value for key, value in rule.values.items() if key != "options"}
            values = ", ".join(f"{key} {value}" for key, value in {**plain, **options, **steps}.items())
            where = ", ".join(
                f"{key} {'|'.join(rule.when[key])}" for key in rule.when if key not in ("suite", "protocol")
            )
            told[f"Setting{f' for {where}' if where else ''}: {values} ({rule.why})"] = None
    for line in told:
        console.print_text(line)


class GridProgress:
    """Tells how a grid goes: a bar in a terminal, a line for each cell elsewhere; a ``training.reporter.Reporter``."""

    def __init__(self, console: Console, total: int, done: int = 0) -> None:
        self.console = console
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[state]}", markup=False, style="dim"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            speed_estimate_period=3600,
        )
        self.task = self.bar.add_task("", total=total, completed=done, state="")
        self.start, self.done, self.before, self.total = time.monotonic(), done, done, total

    def begin(self, cell: "Cell") -> None:
        """A cell starts."""
        self.bar.update(self.task, description=printable(str(cell)), state="")

    def end(self, outcome: "Outcome") -> None:
        """A cell has ended."""
        self.bar.advance(self.task)
        self.done += 1
        if outcome.state in ("skipped", "locked") or (self.console.is_terminal and outcome.state == "done"):
            return
        left = (self.total - self.done) * (time.monotonic() - self.start) / max(1, self.done - self.before)
        line = f"{self.done}/{self.total}  {outcome.cell}  {outcome.state} in {outcome.seconds:.1f} s"
        self.console.print_text(f"{line}, about {left:.0f} s left" if left else line)

    def message(self, line: str) -> None:
        """How the run goes."""
        self.bar.update(self.task, state=printable(line))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A step of the run."""
        self.bar.update(self.task, state=name)
        yield lambda done, total: self.bar.update(self.task, state=f"{name} {done}/{total}")


def run_here(cells: "Sequence[Cell]", out: Path, root: Path | None, options: Namespace, console: Console) -> None:
    """Run the cells in this process."""
    from selfprompt.benchmarks.runner import RunCache, run_grid

    progress = GridProgress(console, len(cells))
    with progress.bar:
        for outcome in run_grid(
            cells, out, RunCache(root), retry_failed=options.retry_failed, reporter=progress, on_start=progress.begin
        ):
            progress.end(outcome)


def run_jobs(cells: "Sequence[Cell]", out: Path, root: Path | None, options: Namespace, console: Console) -> list[str]:
    """Run the cells in jobs and wait for them; returns how jobs went wrong."""
    from selfprompt.benchmarks.cells import is_done
    from selfprompt.benchmarks.cluster import failed_jobs, submit_jobs

    jobs = submit_jobs(
        cells,
        out,
        root,
        cluster=options.cluster,
        jobs=options.jobs,
        options=options.cluster_options,
        retry_failed=options.retry_failed,
    )
    ids = ", ".join(str(job.job_id) for job in jobs)
    console.print_text(f"submitted {len(jobs)} jobs ({ids}); their logs: {out / 'jobs'}")
    progress = GridProgress(console, len(cells))
    with progress.bar:
        while not all(job.done() for job in jobs):
            done = sum(is_done(out / cell.folder, cell.id) for cell in cells)
            progress.bar.update(
                progress.task, completed=done, state=f"{sum(not job.done() for job in jobs)} jobs at work"
            )
            time.sleep(1)
    return failed_jobs(jobs)


def summary(unfinished: "Sequence[Cell]", out: Path, lost: Sequence[str], console: Console) -> int:
    """Say how the grid ended; 1 if something has to be done again."""
    from selfprompt.benchmarks.cells import error_summary, error_time

    def tell(line: str) -> None:
        console.print_text(line)

    broken = [cell for cell in unfinished if error_time(out / cell.folder)]
    count = len(unfinished) - len(broken)
    for line in lost:
        tell(f"A job ended early: {line}")
    for cell in broken:
        tell(f"Broken: {cell}: {error_summary(out / cell.folder)}")
        tell(f"  {out / cell.folder / 'error.txt'}")
    if broken:
        tell(f"{plural(len(broken), 'cell')} broken; --retry-failed runs them again.")
    if count:
        tell(f"{plural(count, 'cell')} unfinished: {'the same command runs them' if lost else 'others are at work'}.")
    tell(f"The tables: selfprompt report {out}")
    return 1 if broken or lost else 0


def plural(count: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be names with commas between them, each once, got {text!r}.")
    return words


def _numbers(text: str, option: str) -> list[int]:
    """The numbers of "1,2,3".

    Raises:
        UsageError: If they are no whole numbers from 0, or one occurs twice.
    """
    words = [word.strip() for word in text.strip("[]").split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be whole numbers with commas between them, each once, got {text!r}.")
    return [int(word) for word in words]
