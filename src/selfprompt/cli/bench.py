"""``selfprompt bench``: run a published protocol over data sets, methods and seeds."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from jsonargparse import Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.cli.console import Console, make_console
from selfprompt.cli.parsing import Parser
from selfprompt.cli.terminal_text import printable
from selfprompt.cli.usage import UsageError, usage
from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.recipe import Recipe
from selfprompt.recipes.renamed import RECIPE_KEYS
from selfprompt.utils.wording import plural

if TYPE_CHECKING:
    from selfprompt.benchmarks.cells import Cell
    from selfprompt.benchmarks.rows import Row
    from selfprompt.benchmarks.runner import Outcome
    from selfprompt.data.suites.task import SuiteTask

DEFAULT_SUITES = {"vtab": "vtab", "fgvc": "fgvc"}
DEFAULT_METHODS = {"vtab": "linear,vpt-deep,spt-deep", "fgvc": "linear,vpt-deep,spt-deep"}
DEFAULT_TEXT_METHODS = "zero-shot,coop,sep"
NOT_OVERRIDABLE = {"shots", "classes", "holdout", "class_names", "devices", "log_tensorboard"}


def override_types() -> dict[str, Any]:
    """Return the values of a recipe that can be set for all rows, with their types."""
    options = [f.name for f in (*fields(DataOptions), *fields(TrainOptions)) if f.name not in NOT_OVERRIDABLE]
    hints = {name: hint for kind in (Recipe, DataOptions, TrainOptions) for name, hint in get_type_hints(kind).items()}
    return {name: hints[name] for name in ("backbone", "eval_batch_size", "statistics", *options)}


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.former_names |= RECIPE_KEYS
    from selfprompt.benchmarks.protocols import PROTOCOLS
    from selfprompt.data.suites import SUITES
    from selfprompt.data.suites.vtab import PREPROCESSING

    protocols = "; ".join(f"{name}: {protocol.about}" for name, protocol in PROTOCOLS.items())
    parser.add_argument("protocol", type=Literal[tuple(PROTOCOLS)], help=protocols)
    parser.add_argument("--out", type=str | None, help="output folder; repeating the command resumes there")
    parser.add_argument("--suite", type=Literal[SUITES] | None, help="tasks (selfprompt data list); default: embedded")
    parser.add_argument("--root", type=str | None, help="folder of the data, for all suites but embedded")
    parser.add_argument(
        "--methods", type=str | None, help="rows: a,b or 'sep[epochs=10,options.layers=[1,2]]' or recipe.yaml"
    )
    parser.add_argument(
        "--trust", action="store_true", help="allow recipe files to import their methods from other modules"
    )
    parser.add_argument("--datasets", type=str, default="all", help="tasks to tune on: x,y or all")
    parser.add_argument("--seeds", type=str, default="1,2,3", help="seeds of the few-shot draw and of initialisation")
    parser.add_argument("--shots", type=str | None, help="training images per class: 16, or 1,2,4,8,16; 0 for all")
    parser.add_argument(
        "--preprocessing",
        type=Literal[tuple(PREPROCESSING)] | None,
        help="for vtab: published preprocessing; default: squash, bicubic, the backbone's statistics",
    )
    parser.add_argument("--retry_failed", action="store_true", help="run failed cells again")
    parser.add_argument("--list", action="store_true", help="list the cells without running them")
    parser.add_argument(
        "--cluster", type=Literal["local", "slurm"] | None, help="run in separate jobs, started by submitit"
    )
    parser.add_argument("--jobs", type=int, default=2, help="with --cluster: number of jobs that share the cells")
    parser.add_argument(
        "--cluster_options", type=dict[str, Any], default={}, help="with --cluster: {timeout_min: 60, ...}"
    )
    group = parser.add_argument_group("Values of the recipe for all rows (explained by selfprompt train --help-all)")
    for name, kind in override_types().items():
        group.add_argument(f"--{name}", type=kind | None, default=None)


def bench(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.benchmarks.cells import is_done

    console = make_console()
    cells, unreadable = plan_cells(options)
    for name, reason in unreadable.items():
        console.print_text(f"Skipping {name}: {reason}")
    show_settings(cells, console)
    if options.list:
        for cell in cells:
            console.print_text(f"{cell}  {cell.folder}")
        return 0
    if options.out is None:
        raise UsageError("--out is needed: the folder to write results to.")
    out = Path(options.out)
    remaining = [cell for cell in cells if not is_done(out / cell.folder, cell.id)]
    console.print(f"{plural(len(cells), 'cell')}, {len(cells) - len(remaining)} already done")
    root = None if options.root is None else Path(options.root)
    dead_jobs: list[str] = []
    if options.cluster and remaining:
        dead_jobs = run_jobs(remaining, out, root, options, console)
    elif remaining:
        run_here(remaining, out, root, options, console)
    unfinished = [cell for cell in remaining if not is_done(out / cell.folder, cell.id)]
    return summarize(unfinished, out, dead_jobs, console)


def plan_cells(options: Namespace) -> "tuple[tuple[Cell, ...], dict[str, str]]":
    """Build the grid of a command line; also returns why tasks were left out that cannot be read."""
    from selfprompt.benchmarks.protocols import PROTOCOLS, build_grid
    from selfprompt.benchmarks.rows import parse_rows
    from selfprompt.data.suites import list_tasks

    protocol = PROTOCOLS[options.protocol]
    suite = options.suite or DEFAULT_SUITES.get(options.protocol, "embedded")
    if suite not in protocol.suites:
        raise UsageError(f"{options.protocol} is defined for the suites {', '.join(protocol.suites)}, got {suite!r}.")
    tasks = list_tasks(suite)
    selected = None if options.datasets == "all" else tuple(_words(options.datasets, "datasets"))
    unknown = [name for name in selected or () if name not in tasks]
    if unknown:
        raise UsageError(f"{suite} has no task {unknown[0]!r}. Its tasks: {', '.join(tasks)}.")
    with usage():
        default_methods = DEFAULT_METHODS.get(options.protocol, DEFAULT_TEXT_METHODS)
        rows = parse_rows(options.methods or default_methods, trust=options.trust)
        changes = overrides(options, rows)
        check_options(rows)
    names = tasks if selected is None or options.protocol == "cross-dataset" else selected
    readable, unreadable = read_tasks(suite, names, options.root)
    if missing := [name for name in selected or () if name in unreadable]:
        raise ValueError(f"{missing[0]}: {unreadable[missing[0]]}")
    sources, targets = sources_and_targets(options.protocol, suite, tasks, selected, readable)
    cells = build_grid(
        options.protocol,
        suite,
        rows,
        [name for name in sources if name in readable],
        _numbers(options.seeds, "seeds"),
        protocol.shots if options.shots is None else _numbers(options.shots, "shots"),
        changes,
        targets,
        (options.preprocessing or "default") if suite == "vtab" else "",
    )
    if not cells:
        raise ValueError(f"No data set of {suite} can be read: {'; '.join(unreadable.values())}")
    return cells, unreadable


def sources_and_targets(
    protocol: str,
    suite: str,
    tasks: Sequence[str],
    selected: Sequence[str] | None,
    readable: "Mapping[str, SuiteTask]",
) -> tuple[Sequence[str], dict[str, list[str]]]:
    """Return the tasks to tune on, and the tasks or domains that each is also evaluated on."""
    from selfprompt.benchmarks.protocols import default_sources

    sources = selected or default_sources(protocol, suite) or (tasks[:1] if protocol == "cross-dataset" else tasks)
    if protocol == "cross-dataset":
        return sources, {source: [name for name in readable if name != source] for source in sources}
    if protocol == "domain-generalization":
        return sources, {name: list(task.domains) for name, task in readable.items()}
    return sources, {}


def read_tasks(suite: str, names: Sequence[str], root: str | None) -> "tuple[dict[str, SuiteTask], dict[str, str]]":
    """Read tasks; returns those that can be read, and why the others cannot."""
    from selfprompt.data.suites import load_task

    tasks, reasons = {}, {}
    for name in names:
        try:
            tasks[name] = load_task(f"{suite}/{name}", root)
        except ValueError as error:
            reasons[name] = str(error)
    return tasks, reasons


def overrides(options: Namespace, rows: "Sequence[Row]") -> dict[str, Any]:
    """Return the values that the command line sets for all rows.

    Raises:
        ValueError: If a value does not fit one of the recipes.
    """
    changes = {name: value for name in override_types() if (value := getattr(options, name)) is not None}
    for row in rows:
        row.recipe().changed(changes)
    return changes


def check_options(rows: "Sequence[Row]") -> None:
    """Check the options of all methods before any data are read.

    Raises:
        ValueError: If a method does not take an option or its value.
    """
    from selfprompt.training import auto

    for row in rows:
        recipe = row.recipe().changed(row.changes)
        try:
            auto.check_options(recipe)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{row.label}: {error}") from error


def show_settings(cells: "Sequence[Cell]", console: Console) -> None:
    """Print the rules of settings.yaml that apply somewhere in the grid."""
    from selfprompt.benchmarks.rows import parse_row
    from selfprompt.benchmarks.settings import settings_for

    lines: dict[str, None] = {}
    for cell in cells:
        row = parse_row(cell.row, trust=True)  # whether to trust it was settled when the grid was built
        facts = {"suite": cell.suite, "protocol": cell.protocol, "dataset": cell.dataset, "recipe": row.name}
        for rule in settings_for(row.recipe(), shots=cell.shots, **facts):
            steps = {"steps_per_shot": rule.steps_per_shot} if rule.steps_per_shot else {}
            options = {f"options.{key}": value for key, value in rule.values.get("options", {}).items()}
            others = {key: value for key, value in rule.values.items() if key != "options"}
            values = ", ".join(f"{key} {value}" for key, value in {**others, **options, **steps}.items())
            conditions = ", ".join(
                f"{key} {'|'.join(rule.when[key])}" for key in rule.when if key not in ("suite", "protocol")
            )
            lines[f"Setting{f' for {conditions}' if conditions else ''}: {values} ({rule.why})"] = None
    for line in lines:
        console.print_text(line)


class GridProgress:
    """Shows the progress of a grid: a bar in a terminal, else a line per cell; a ``training.reporter.Reporter``."""

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
        """Show the cell that starts."""
        self.bar.update(self.task, description=printable(str(cell)), state="")

    def end(self, outcome: "Outcome") -> None:
        """Count a finished cell."""
        self.bar.advance(self.task)
        self.done += 1
        if outcome.state in ("skipped", "locked") or (self.console.is_terminal and outcome.state == "done"):
            return
        left = (self.total - self.done) * (time.monotonic() - self.start) / max(1, self.done - self.before)
        line = f"{self.done}/{self.total}  {outcome.cell}  {outcome.state} in {outcome.seconds:.1f} s"
        self.console.print_text(f"{line}, about {left:.0f} s left" if left else line)

    def message(self, line: str) -> None:
        """Show a message of the run."""
        self.bar.update(self.task, state=printable(line))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a stage of the run and its progress."""
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
    """Run the cells in jobs and wait for them; returns one line for each job that failed."""
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
    console.print_text(f"submitted {len(jobs)} jobs ({ids}); logs: {out / 'jobs'}")
    progress = GridProgress(console, len(cells))
    with progress.bar:
        while not all(job.done() for job in jobs):
            done = sum(is_done(out / cell.folder, cell.id) for cell in cells)
            progress.bar.update(
                progress.task, completed=done, state=f"{sum(not job.done() for job in jobs)} jobs running"
            )
            time.sleep(1)
    return failed_jobs(jobs)


def summarize(unfinished: "Sequence[Cell]", out: Path, dead_jobs: Sequence[str], console: Console) -> int:
    """Print how the grid ended; returns 1 if a cell or a job failed."""
    from selfprompt.benchmarks.cells import error_summary, error_time

    failed = [cell for cell in unfinished if error_time(out / cell.folder)]
    count = len(unfinished) - len(failed)
    for line in dead_jobs:
        console.print_text(f"A job ended early: {line}")
    for cell in failed:
        console.print_text(f"Failed: {cell}: {error_summary(out / cell.folder)}")
        console.print_text(f"  {out / cell.folder / 'error.txt'}")
    if failed:
        console.print_text(f"{plural(len(failed), 'cell')} failed; --retry-failed runs them again.")
    if count:
        remedy = "repeat the command to run them" if dead_jobs else "other processes are running them"
        console.print_text(f"{plural(count, 'cell')} unfinished: {remedy}.")
    console.print_text(f"For the tables: selfprompt report {out}")
    return 1 if failed or dead_jobs else 0


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be names separated by commas, each once, got {text!r}.")
    return words


def _numbers(text: str, option: str) -> list[int]:
    """Parse numbers such as "1,2,3".

    Raises:
        UsageError: If one is not a whole number, or occurs twice.
    """
    words = [word.strip() for word in text.strip("[]").split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be whole numbers separated by commas, each once, got {text!r}.")
    return [int(word) for word in words]
