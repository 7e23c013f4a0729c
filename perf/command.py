"""``python -m perf``: speed and memory of the library against plain baselines with equal results, on this machine."""

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

if TYPE_CHECKING:
    from perf.measurement import Measurement

JSON, PLOT = "perf.json", "perf.png"


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--cases", type=str, default="all", help="what to measure: a,b or all; --list names them")
    parser.add_argument("--list", action="store_true", help="show the cases with their sizes and targets, and stop")
    parser.add_argument(
        "--backbone",
        type=Literal[tuple(SHAPES)],
        default="embedded",
        help="embedded: the small ones that ship, a few minutes; the others: those shapes with random weights",
    )
    parser.add_argument("--classes", type=str | None, help="class counts in place of the cases' own: 10,100,1000")
    parser.add_argument("--batch", type=str | None, help="images a step in place of the cases' own: 4,32")
    parser.add_argument(
        "--precision", type=Literal["32-true", "bf16-mixed"], default="32-true", help="of both contenders"
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda or cuda:NUMBER")
    parser.add_argument("--threads", type=int | None, help="threads of the CPU; default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=3, help="rounds at least; in each both contenders run once")
    parser.add_argument("--seconds", type=float, default=5.0, help="go on with a row's rounds for so long")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of ours with torch.compile")
    parser.add_argument("--out", type=str | None, help=f"folder for {JSON} and {PLOT}")


def perf(options: Namespace) -> int:
    """Run the command; 1 if results differ."""
    names = [] if options.cases == "all" else _words(options.cases)
    rows = select_cases(names, _numbers(options.classes, "classes", 2), _numbers(options.batch, "batch", 1))
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
            raise ValueError(f"--out must be a folder, and {out} is a file; choose another name.")
        out.mkdir(parents=True, exist_ok=True)
    found = run(options, rows)
    console = make_console()
    console.print(results_table(found["rows"]))
    for line in remarks(found):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        from perf.plots import ratio_bars

        write_json(out / JSON, found)
        ratio_bars(found["rows"]).savefig(out / PLOT, dpi=110)
        print(f"Written: {(out / JSON).resolve()}, {PLOT}")
    return 0 if all(row["equal"] for row in found["rows"]) else 1


def run(options: Namespace, rows: Sequence[Case]) -> dict[str, Any]:
    """Measure the rows, with a bar in a terminal and a line for each row elsewhere."""
    import torch

    from perf.measurement import TimeBudget, measure_cases
    from perf.setup import PerfSetup
    from selfprompt.inference.classifier import pick_device

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setup = PerfSetup(options.backbone, pick_device(options.device), options.precision, options.compile)
    show = PerfShow(make_console(), len(rows))
    with show.bar:
        return measure_cases(setup, rows, TimeBudget(options.rounds, options.seconds), tell=show.tell, done=show.done)


class PerfShow:
    """Tells how the measuring goes."""

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

    def tell(self, case: Case, doing: str) -> None:
        """What is being done."""
        self.bar.update(self.task, description=str(case), state=doing)

    def done(self, row: "Measurement") -> None:
        """A row is finished."""
        self.bar.advance(self.task)
        if not self.console.is_terminal:
            line = f"{row.case}: {row.faster.median:.2f} times as fast"
            self.console.print(line, markup=False, soft_wrap=True)


def show_cases(console: Console) -> None:
    """What can be measured."""
    shown = Table(title="cases of python -m perf", title_justify="left")
    for column in ("case", "what it is", "sizes and targets"):
        shown.add_column(column)
    for workload in WORKLOADS:
        sizes = [f"{size}: {_wanted(vars(target))}".removesuffix(": ") for size, target in workload.sizes]
        shown.add_row(workload.name, workload.description, "\n".join(sizes))
    console.print(shown)


def _wanted(target: Mapping[str, float | None]) -> str:
    """A target in words."""
    words = {
        "faster": "{:g} times as fast",
        "memory": "{:g} of the memory",
        "megabytes": "{:g} MB",
        "of_peak": "{:.0%} of the matmul rate",
    }
    return ", ".join(words[name].format(value) for name, value in target.items() if value is not None)


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of ``measure_cases`` as a table that fits 100 columns."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    made.title = Text("images or classes a second, and how many times as fast ours is", justify="left")
    made.add_column("case", overflow="fold", max_width=24)
    for column in ("plain\n1/s", "ours\n1/s", "times\nas fast", "by\nCPU", "memory", "of\npeak", "target", "equal\nto"):
        made.add_column(column, justify="right", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, _cells(row)))
    return made


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
    """Our memory, and its part of the plain baseline's."""
    ours, plain = row["memory"]["ours"], row["memory"]["plain"]
    if ours is None:
        return ""
    each = "/image" if row["case"]["workload"]["memory"] == "activations" else ""
    return f"{_short(ours / 1e6)} MB{each}" + (f"\n{_short(ours / plain)} of plain" if plain else "")


def _target_cell(row: Mapping[str, Any]) -> str:
    """What was to be reached, and whether it was."""
    forms = {"faster": "≥ {:g}x", "memory": "≤ {:g}", "megabytes": "≤ {:g} MB", "of_peak": "≥ {:.0%}"}
    target = row["case"]["target"]
    return "\n".join(
        f"{forms[name].format(target[name])} {'met' if met else 'missed'}" for name, met in row["met"].items()
    )


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What must be said below the table."""
    settings, machine, peak = found["settings"], found["machine"], found["peak"]
    place = machine["gpu"] or machine["processor"]
    lines = [
        f"{settings['backbone']}, {settings['precision']}, {settings['device']}, threads {settings['threads']} of "
        f"{machine['cores']} cores, {place}; matmul {peak['best']['wall'] / 1e9:,.0f} GFLOP/s."
    ]
    for row in found["rows"]:
        if row["measured_at"]:
            grows = row["case"]["workload"]["grows"]
            sizes = " and ".join(str(size) for size in row["measured_at"])
            lines.append(f"* {row['name']}: the plain baseline is extrapolated from {sizes} {grows}; ours was run.")
        if not row["equal"]:
            told = ", ".join(f"{name} {_apart(value)}" for name, value in row["differences"].items())
            lines.append(
                f"{row['name']}: results differ by more than {row['case']['workload']['tolerance']:g}: {told}."
            )
    if not settings["targets_hold"]:
        lines.append("Targets are for ViT-B shapes on a CPU in float32: --backbone ViT-B-16.")
    return lines


def _largest(differences: Mapping[str, float | None]) -> float:
    return max(value for value in differences.values() if value is not None)


def _apart(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.1e}"


def _short(value: float | None) -> str:
    """Three digits at most."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise ValueError(f"--cases must be names with commas between them, each once, got {text!r}.")
    return words


def _numbers(text: str | None, option: str, least: int) -> list[int]:
    """The numbers of "10,100"; none where nothing is given."""
    if text is None:
        return []
    words = [word.strip() for word in text.strip("[]").split(",")]
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise ValueError(f"--{option} must be whole numbers from {least} with commas between them, got {text!r}.")
    return [int(word) for word in words]
