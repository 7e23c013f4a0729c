"""``selfprompt bench``: run a protocol over data sets, methods and seeds: a published one, or one's own folders."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.cli.bench_plan import Plan, make_plan, override_types
from selfprompt.cli.console import Console, make_console
from selfprompt.cli.parsing import Parser
from selfprompt.cli.usage import UsageError
from selfprompt.recipes.renamed import RECIPE_KEYS
from selfprompt.utils.wording import plural, printable

if TYPE_CHECKING:
    from selfprompt.benchmarks.cells import Cell
    from selfprompt.benchmarks.runner import Outcome


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.former_names |= RECIPE_KEYS
    from selfprompt.benchmarks.protocols import PROTOCOLS
    from selfprompt.data.suites import SUITES
    from selfprompt.data.suites.vtab import PREPROCESSING

    protocols = "; ".join(f"{name}: {protocol.about}" for name, protocol in PROTOCOLS.items())
    parser.add_argument("protocol", type=Literal[tuple(PROTOCOLS)] | None, nargs="?", help=protocols)
    parser.add_argument("--out", type=str | None, help="output folder; repeating the command resumes there")
    parser.add_argument(
        "--suite",
        type=Literal[(*SUITES, "folder")] | None,
        help="tasks (selfprompt data list); folder: your own, given with --datasets; default: embedded",
    )
    parser.add_argument("--root", type=str | None, help="folder of the data of a published suite")
    parser.add_argument(
        "--methods", type=str | None, help="rows: a,b or 'sep[epochs=10,options.layers=[1,2]]' or recipe.yaml"
    )
    parser.add_argument(
        "--trust", action="store_true", help="allow recipe files to import their methods from other modules"
    )
    parser.add_argument(
        "--datasets", type=str, default="all", help="tasks to tune on: x,y or all; for folder: folders or manifests"
    )
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
    plan = make_plan(options)
    cells = plan.cells
    for note in plan.notes:
        console.print_text(note)
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
    dead_jobs: list[str] = []
    if options.cluster and remaining:
        dead_jobs = run_jobs(remaining, out, plan, options, console)
    elif remaining:
        run_here(remaining, out, plan, options, console)
    unfinished = [cell for cell in remaining if not is_done(out / cell.folder, cell.id)]
    return summarize(unfinished, out, dead_jobs, console)


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


def run_here(cells: "Sequence[Cell]", out: Path, plan: Plan, options: Namespace, console: Console) -> None:
    """Run the cells in this process."""
    from selfprompt.benchmarks.runner import RunCache, run_grid

    progress = GridProgress(console, len(cells))
    with progress.bar:
        for outcome in run_grid(
            cells,
            out,
            RunCache(plan.root, plan.loader),
            retry_failed=options.retry_failed,
            reporter=progress,
            on_start=progress.begin,
        ):
            progress.end(outcome)


def run_jobs(cells: "Sequence[Cell]", out: Path, plan: Plan, options: Namespace, console: Console) -> list[str]:
    """Run the cells in jobs and wait for them; returns one line for each job that failed."""
    from selfprompt.benchmarks.cells import is_done
    from selfprompt.benchmarks.cluster import failed_jobs, submit_jobs

    jobs = submit_jobs(
        cells,
        out,
        plan.root,
        cluster=options.cluster,
        jobs=options.jobs,
        options=options.cluster_options,
        retry_failed=options.retry_failed,
        loader=plan.loader,
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
