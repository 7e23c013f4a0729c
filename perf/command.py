"""``python -m perf``: speed and memory of the library against plain baselines with equal results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from perf.cases import SHAPES, WORKLOADS, Case, select_cases
from selfprompt.cli.console import make_console
from selfprompt.utils.files import write_json
from selfprompt.utils.matmul import Float32
from selfprompt.utils.wording import plural

if TYPE_CHECKING:
    from perf.measurement import Measurement

JSON, PLOT = "perf.json", "perf.png"


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--cases", type=str, default="all", help="workloads to measure: a,b or all (see --list)")
    parser.add_argument("--list", action="store_true", help="list the workloads with their sizes and targets")
    parser.add_argument(
        "--backbone",
        type=Literal[tuple(SHAPES)],
        default="embedded",
        help="embedded: the small backbones of the package, a few minutes; others: shapes with random weights",
    )
    parser.add_argument("--classes", type=str | None, help="class counts to use instead of the defaults: 10,100,1000")
    parser.add_argument("--batch", type=str | None, help="batch sizes to use instead of the defaults: 4,32")
    parser.add_argument(
        "--precision", type=Literal["32-true", "bf16-mixed"], default="32-true", help="precision of both contenders"
    )
    parser.add_argument(
        "--float32",
        type=Float32,
        default="auto",
        help="path of the library's float32 products, as in training; the baseline takes torch's default",
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda or cuda:NUMBER")
    parser.add_argument("--threads", type=int | None, help="CPU threads; default: torch's choice")
    parser.add_argument(
        "--rounds", type=int, default=3, help="minimum number of rounds; each runs both contenders once"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="keep adding rounds to a case for this long")
    parser.add_argument("--compile", action="store_true", help="compile the losses of the library with torch.compile")
    parser.add_argument("--out", type=str | None, help=f"folder for {JSON} and {PLOT}")


def perf(options: Namespace) -> int:
    """Run the command; returns 1 if results differ."""
    names = [] if options.cases == "all" else _words(options.cases)
    cases = select_cases(names, _numbers(options.classes, "classes", 2), _numbers(options.batch, "batch", 1))
    if options.list:
        show_cases(make_console())
        return 0
    if options.rounds < 1 or options.seconds < 0:
        raise ValueError(f"--rounds must be at least 1 and --seconds 0, got {options.rounds} and {options.seconds:g}.")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}.")
    out = None if options.out is None else Path(options.out)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out must be a folder, got the file {out}.")
        out.mkdir(parents=True, exist_ok=True)
    report = run_cases(options, cases)
    console = make_console()
    console.print(results_table(report["rows"]))
    for line in remarks(report):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        from perf.plots import ratio_bars

        write_json(out / JSON, report)
        ratio_bars(report["rows"]).savefig(out / PLOT, dpi=110)
        print(f"wrote {(out / JSON).resolve()} and {PLOT}")
    return 0 if all(row["equal"] for row in report["rows"]) else 1


def run_cases(options: Namespace, cases: Sequence[Case]) -> dict[str, Any]:
    """Measure the cases, showing a bar in a terminal and a line per case elsewhere."""
    import torch

    from perf.measurement import TimeBudget, measure_cases
    from perf.setup import PerfSetup
    from selfprompt.inference.loading import pick_device

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setup = PerfSetup(
        options.backbone, pick_device(options.device), options.precision, options.compile, options.float32
    )
    progress, budget = PerfProgress(make_console(), len(cases)), TimeBudget(options.rounds, options.seconds)
    with progress.bar:
        return measure_cases(setup, cases, budget, on_step=progress.step, on_done=progress.done)


class PerfProgress:
    """Shows the progress of the measurements."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[state]}", markup=False, style="dim"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("", total=total, state="")

    def step(self, case: Case, step: str) -> None:
        """Show the current step of a case."""
        self.bar.update(self.task, description=str(case), state=step)

    def done(self, row: "Measurement") -> None:
        """Count a finished case."""
        self.bar.advance(self.task)
        if not self.console.is_terminal:
            line = f"{row.case}: {row.faster.median:.2f} times as fast"
            self.console.print(line, markup=False, soft_wrap=True)


def show_cases(console: Console) -> None:
    """Print the workloads with their sizes and targets."""
    table = Table(title="workloads of python -m perf", title_justify="left")
    for column in ("workload", "description", "sizes and targets"):
        table.add_column(column)
    for workload in WORKLOADS:
        sizes = [f"{size}: {_target_text(vars(target))}".removesuffix(": ") for size, target in workload.sizes]
        table.add_row(workload.name, workload.description, "\n".join(sizes))
    console.print(table)


def _target_text(target: Mapping[str, float | None]) -> str:
    """Describe a target in words."""
    words = {
        "faster": "{:g} times as fast",
        "memory": "{:g} of the memory",
        "megabytes": "{:g} MB",
        "of_peak": "{:.0%} of the matmul rate",
    }
    return ", ".join(words[name].format(value) for name, value in target.items() if value is not None)


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the rows of ``measure_cases`` as a table that fits 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    table.title = Text("images or classes per second, and the speedup of ours over the plain baseline", justify="left")
    table.add_column("case", overflow="fold", max_width=24)
    for column in ("plain\n1/s", "ours\n1/s", "speedup", "CPU\nspeedup", "memory", "of\npeak", "target", "equal\nto"):
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    faster, by_cpu = row["faster"], row["faster_cpu"]
    return [
        row["name"].replace(", ", "\n", row["case"]["workload"]["title"].count(", ") + 1),
        f"{_short(row['plain'])}{'*' if row['measured_at'] else ''}",
        _short(row["ours"]),
        f"{_short(faster['median'])}\n[{_short(faster['low'])}, {_short(faster['high'])}]",
        "" if by_cpu is None else _short(by_cpu["median"]),
        _memory_cell(row),
        "" if row["of_peak"] is None else f"{row['of_peak']:.0%}",
        _target_cell(row),
        f"{_largest(row['differences']):.0e}" if row["equal"] else "DIFFER",
    ]


def _memory_cell(row: Mapping[str, Any]) -> str:
    """Format our memory and its fraction of the baseline's."""
    ours, plain = row["memory"]["ours"], row["memory"]["plain"]
    if ours is None:
        return ""
    each = "/image" if row["case"]["workload"]["memory"] == "activations" else ""
    return f"{_short(ours / 1e6)} MB{each}" + (f"\n{_short(ours / plain)} of plain" if plain else "")


def _target_cell(row: Mapping[str, Any]) -> str:
    """Format the targets and whether they were met."""
    forms = {"faster": "≥ {:g}x", "memory": "≤ {:g}", "megabytes": "≤ {:g} MB", "of_peak": "≥ {:.0%}"}
    target = row["case"]["target"]
    return "\n".join(
        f"{forms[name].format(target[name])} {'met' if met else 'missed'}" for name, met in row["met"].items()
    )


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Return the lines below the table: settings and machine, extrapolated baselines, results that differ."""
    settings, machine, peak = report["settings"], report["machine"], report["peak"]
    processor = machine["gpu"] or machine["processor"]
    threads = f"{plural(settings['threads'], 'thread')} on {machine['cores']} cores"
    lines = [
        f"{settings['backbone']}, {settings['precision']}, {settings['device']}, {threads}, {processor}; "
        f"float32 products by torch's path {settings['float32']}; "
        f"matmul {peak['best']['wall'] / 1e9:,.0f} GFLOP/s."
    ]
    for row in report["rows"]:
        if row["measured_at"]:
            grows = row["case"]["workload"]["grows"]
            sizes = " and ".join(str(size) for size in row["measured_at"])
            lines.append(
                f"* {row['name']}: the plain baseline is extrapolated from {sizes} {grows}; ours was measured."
            )
        if not row["equal"]:
            listed = ", ".join(f"{name} {_difference(value)}" for name, value in row["differences"].items())
            lines.append(
                f"{row['name']}: results differ by more than {row['case']['workload']['tolerance']:g}: {listed}."
            )
    if not settings["targets_hold"]:
        lines.append("Targets apply to ViT-B shapes on a CPU in float32: --backbone ViT-B-16.")
    return lines


def _largest(differences: Mapping[str, float | None]) -> float:
    return max(value for value in differences.values() if value is not None)


def _difference(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.1e}"


def _short(value: float | None) -> str:
    """Format a number with three digits at most."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise ValueError(f"--cases must be names separated by commas, each once, got {text!r}.")
    return words


def _numbers(text: str | None, option: str, least: int) -> list[int]:
    """Parse numbers such as "10,100"; empty if the option is not given."""
    if text is None:
        return []
    words = [word.strip() for word in text.strip("[]").split(",")]
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise ValueError(f"--{option} must be whole numbers from {least}, separated by commas, got {text!r}.")
    return [int(word) for word in words]
