"""``selfprompt bench``: run a protocol over data sets, methods and seeds: a published one, or one's own folders."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.cli.bench_plan import Plan, make_plan, override_types
from selfprompt.cli.console import Console, make_console
from selfprompt.cli.engine import add_engine_options, check_engine, count_gpus, is_in_this_process, threads_per_job
from selfprompt.cli.parsing import Parser
from selfprompt.cli.usage import UsageError
from selfprompt.recipes.renamed import RECIPE_KEYS
from selfprompt.utils.wording import plural, printable

if TYPE_CHECKING:
    from selfprompt.benchmarks.cells import Cell
    from selfprompt.benchmarks.runner import Outcome


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.former_names |= {**RECIPE_KEYS, "cluster": "engine", "cluster_options": "engine_options"}
    from selfprompt.benchmarks.protocols import PROTOCOLS
    from selfprompt.benchmarks.strict import SUPPORTS
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
    parser.add_argument(
        "--seeds",
        type=str | None,
        help="seeds of the few-shot draw and of initialisation: 1,2,3 or 1..10; default: 1..3, strict 1..10",
    )
    parser.add_argument("--shots", type=str | None, help="training images per class: 16, or 1,2,4,8,16; 0 for all")
    parser.add_argument(
        "--preprocessing",
        type=Literal[tuple(PREPROCESSING)] | None,
        help="for vtab: published preprocessing; default: squash, bicubic, the backbone's statistics",
    )
    parser.add_argument(
        "--supports", type=Literal[SUPPORTS], default="balanced", help="for strict-few-shot: how many images of a class"
    )
    parser.add_argument("--splits", type=str | None, help="for strict: folder of 2SFS's lists of training images")
    parser.add_argument("--retry_failed", action="store_true", help="run failed cells again")
    parser.add_argument("--list", action="store_true", help="list the cells without running them")
    add_engine_options(parser, "cells")
    group = parser.add_argument_group("Values of the recipe for all rows (explained by selfprompt train --help-all)")
    for name, kind in override_types().items():
        group.add_argument(f"--{name}", type=kind | None, default=None)


def bench(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.benchmarks.cells import is_done

    console = make_console()
    check_engine(options)
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
    trouble = run_cells(remaining, out, plan, options, console) if remaining else ""
    unfinished = [cell for cell in remaining if not is_done(out / cell.folder, cell.id)]
    return summarize(unfinished, out, trouble, console)


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
        if outcome.state == "skipped" or (self.console.is_terminal and outcome.state == "done"):
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


def run_cells(cells: "Sequence[Cell]", out: Path, plan: Plan, options: Namespace, console: Console) -> str:
    """Run the cells; returns why workers or jobs ended early, or "".

    Raises:
        ValueError: If another command runs a benchmark in the folder.
    """
    from selfprompt.benchmarks.runner import forget_failures, start_worker
    from selfprompt.engines.run import run_all
    from selfprompt.engines.work import EngineError
    from selfprompt.utils.locks import lock_folder

    progress = GridProgress(console, len(cells))
    start = partial(start_worker, out, plan.root, plan.loader, threads_per_job(options))
    if is_in_this_process(options):
        start = partial(start, reporter=progress, on_start=progress.begin)
    devices = {cell.recipe.train.device for cell in cells}
    with lock_folder(out) as is_ours, progress.bar:
        if not is_ours:
            raise ValueError(f"Another command runs a benchmark in {out}. Wait until it has ended.")
        if options.retry_failed:
            forget_failures(cells, out)
        try:
            for _, outcome in run_all(
                options.engine,
                start,
                cells,
                options.jobs,
                folder=out,
                gpus=count_gpus(options, *devices),
                options=options.engine_options,
                alike=lambda cell: (cell.suite, cell.dataset, cell.recipe.backbone),
                say=console.print_text,
            ):
                progress.end(outcome)
        except EngineError as error:
            cells_lost = "; ".join(map(str, error.items))
            return f"{error} {cells_lost}: --jobs 1 shows why." if error.items else str(error)
    return ""


def summarize(unfinished: "Sequence[Cell]", out: Path, trouble: str, console: Console) -> int:
    """Print how the grid ended; returns 1 if a cell or a job failed."""
    from selfprompt.benchmarks.cells import error_summary, has_failed

    failed = [cell for cell in unfinished if has_failed(out / cell.folder)]
    count = len(unfinished) - len(failed)
    if trouble:
        console.print_text(f"Ended early: {trouble}")
    for cell in failed:
        console.print_text(f"Failed: {cell}: {error_summary(out / cell.folder)}")
        console.print_text(f"  {out / cell.folder / 'error.txt'}")
    if failed:
        console.print_text(f"{plural(len(failed), 'cell')} failed; --retry-failed runs them again.")
    if count:
        console.print_text(f"{plural(count, 'cell')} unfinished: repeat the command to run them.")
    console.print_text(f"For the tables: selfprompt report {out}")
    return 1 if failed or trouble else 0
