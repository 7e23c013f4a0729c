"""The page of a benchmark: tables and plots in one self-contained HTML file."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfprompt.benchmarks.results import CellResult, GridResults, accuracy_by_seed, mean_scores
from selfprompt.benchmarks.strict import FROM_FILES
from selfprompt.metrics import Metrics
from selfprompt.reports import plots
from selfprompt.reports.bench_tables import (
    all_tables,
    gains_over,
    grouped,
    headline,
    headline_value,
    most_shots,
)
from selfprompt.reports.html import Block, figure, side_by_side, table, text, write_page
from selfprompt.reports.table_parts import at_shots, datasets, labels, pick
from selfprompt.reports.tables import Table, lay_out

MATRICES = 12
"""Largest number of confusion matrices on a page."""


def write_bench_page(path: Path, grid: GridResults, *, baseline: str, with_published: bool) -> None:
    """Write the page of a folder of runs.

    Args:
        path: Path of the HTML file.
        grid: Results from ``read_results``.
        baseline: Row that gains are measured against.
        with_published: Whether to show published averages.
    """
    sections: list[tuple[str, list[Block]]] = []
    for title, group in grouped(grid.results):
        order = ranking(group)
        tables = all_tables(group, baseline=baseline, with_published=with_published)
        first_table, *others = [as_block(sort_rows(entry, order)) for entry in tables]
        sections.append((title, [first_table, *overview(group)]))
        if others:
            sections.append((f"{title}: all tables", others))
        if gained := gains(group, baseline):
            sections.append((f"{title}: gains over {baseline}", [side_by_side(gained)]))
        details = [side_by_side(blocks) for blocks in (calibration(group), confusion(group)) if blocks]
        if details:
            sections.append((f"{title}: confidence and confusion", details))
    if grid.failed:
        rows = [[folder, reason] for folder, reason in grid.failed.items()]
        sections.append(("Failed cells", [table(["cell", "error"], rows)]))
    sections.append(("How to read this", [text(sentence) for sentence in HOW]))
    notes = " ".join(f"{note.rstrip('.')}." for note in grid.notes)
    write_page(path, "Benchmark", sections, note=notes, facts=facts(grid.results))


def facts(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """Return date, seeds, data sets, backbones and versions of the runs, and the commands that repeat them."""
    dates = sorted({result.record["finished"][:10] for result in results})
    backbones = sorted({result.record["backbone"]["name"] for result in results})
    versions = sorted({result.record.get("versions", {}).get("selfprompt", "") for result in results} - {""})
    known = [
        ("date", dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"),
        ("seeds", ", ".join(map(str, sorted({result.seed for result in results})))),
        ("data sets", ", ".join(dict.fromkeys(result.dataset for result in results))),
        ("backbone", ", ".join(backbones)),
        ("version", ", ".join(versions)),
        *(("command", command) for command in commands(results)),
    ]
    return [(name, value) for name, value in known if value]


def commands(results: Sequence[CellResult]) -> list[str]:
    """Return a command line for each protocol, suite and set of changed values, which repeats its runs."""
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        changed = json.dumps(result.record["overrides"], sort_keys=True)
        preprocessing = result.record.get("preprocessing") or ""
        key = (result.protocol, result.suite, result.supports, preprocessing, changed)
        groups.setdefault(key, []).append(result)
    return [
        _command(protocol, suite, preprocessing, {**drawn(supports), **json.loads(changed)}, group)
        for (protocol, suite, supports, preprocessing, changed), group in groups.items()
    ]


def drawn(supports: str) -> dict[str, str]:
    """Return the options that say how training images are drawn."""
    if supports == FROM_FILES:
        return {"splits": "SPLITS"}
    return {} if supports in ("", "balanced") else {"supports": supports}


def _command(
    protocol: str, suite: str, preprocessing: str, changed: Mapping[str, Any], results: Sequence[CellResult]
) -> str:
    """Return the command line of runs that differ only in data set, row, seed and shots."""
    options: dict[str, Any] = {
        "suite": suite,
        "datasets": ",".join(datasets(results)),
        "methods": ",".join(dict.fromkeys(result.row for result in results)),
        "seeds": ",".join(map(str, sorted({result.seed for result in results}))),
        "shots": ",".join(map(str, sorted({result.shots for result in results if result.trained}))),
        "preprocessing": "" if preprocessing == "default" else preprocessing,
        **changed,
    }
    words = [word for key, value in options.items() if value != "" for word in (f"--{key.replace('_', '-')}", value)]
    return shlex.join(["selfprompt", "bench", protocol, *(_word(word) for word in words)])


def _word(value: Any) -> str:
    """Return a value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def ranking(results: Sequence[CellResult]) -> list[str]:
    """Return the rows by the mean of the headline number over data sets, best first; incomplete ones last."""
    names = datasets(results)

    def rank(row: str) -> tuple[int, float]:
        values = [headline_value(pick(results, name, row)) for name in names]
        known = [value for value in values if value is not None]
        return len(known), math.fsum(known) / max(1, len(known))

    return sorted(labels(results), key=rank, reverse=True)


def sort_rows(entry: Table, order: Sequence[str]) -> Table:
    """Return a table with the measured rows in this order; published ones stay at the end."""
    count = len(entry.rows) - entry.published
    measured = sorted(entry.rows[:count], key=lambda row: order.index(str(row[0])))
    return replace(entry, rows=(*measured, *entry.rows[count:]))


HOW = (
    "Every number is an accuracy on test images in percent, computed from the results in the folder; nothing is "
    "selected on test images. Means are over seeds, with the sample standard deviation and, with three or more seeds, "
    "the 95 % interval of the mean from Student's t.",
    "H is the harmonic mean of base and new accuracy. H of averages first averages over data sets, as papers do; the "
    "average of H first computes H per data set.",
    "The calibration error compares the confidence of predictions with their accuracy.",
)


def as_block(entry: Table) -> Block:
    """Return a table with all intervals; the best number of a column is bold, the row with the most of them marked."""
    layout = lay_out(entry, intervals=True)
    caption = " ".join((f"{entry.title}.", *entry.notes))
    wins = Counter(row for row, _ in layout.best)
    turned = layout.columns[1:] != entry.columns[1:]
    marked = [] if turned else [row for row, count in wins.items() if count == max(wins.values())]
    return table(layout.columns, layout.rows, caption, best=layout.best, marked=marked)


def overview(results: Sequence[CellResult]) -> list[Block]:
    """Return the plot of the protocol: base against new accuracy, or accuracy by shots."""
    names, rows = datasets(results), labels(results)
    if results[0].protocol in ("base-to-new", "strict"):
        points = {}
        for row in rows:
            parts = [
                mean_scores([accuracy_by_seed(pick(results, name, row), part) for name in names])
                for part in ("base", "new")
            ]
            if all(parts):
                points[row] = tuple(math.fsum(part.values()) / len(part) for part in parts)
        if not points:
            return []
        alt = "; ".join(f"{row}: base {base:.1f}, new {new:.1f}" for row, (base, new) in points.items())
        caption = "Averages over data sets, with lines of equal H."
        return [figure(plots.base_new_scatter({row: (b, n) for row, (b, n) in points.items()}), caption, alt)]
    if results[0].protocol == "few-shot":
        return [shots_figure(results, names, "average over data sets"), *_each_shots(results, names)]
    return []


def _each_shots(results: Sequence[CellResult], names: Sequence[str]) -> list[Block]:
    return [side_by_side([shots_figure(results, [name], name) for name in names])] if len(names) > 1 else []


def shots_figure(results: Sequence[CellResult], names: Sequence[str], caption: str) -> Block:
    """Return accuracy by shots over some data sets; methods without shots are horizontal lines."""
    curves: dict[str, dict[int, list[float]]] = {}
    reference = {}
    for row in labels(results):
        for count in sorted({result.shots for result in results}):
            scores = mean_scores(
                [accuracy_by_seed(at_shots(pick(results, name, row), count), "test") for name in names]
            )
            if scores and count:
                curves.setdefault(row, {})[count] = list(scores.values())
            elif scores:
                reference[row] = math.fsum(scores.values()) / len(scores)
    alt = f"accuracy by shots of {', '.join([*curves, *reference])}"
    return figure(plots.shots_curves(curves, reference=reference), f"Accuracy by shots: {caption}.", alt)


def gains(results: Sequence[CellResult], baseline: str) -> list[Block]:
    """Return a plot per method of its gains over the baseline on each data set."""
    blocks = []
    for row, by_name in gains_over(results, baseline).items():
        drawn = plots.gain_bars(by_name, method=row, baseline=baseline, quantity=headline(results[0]))
        alt = "; ".join(f"{name} {gain:+.1f}" for name, gain in by_name.items())
        blocks.append(figure(drawn, f"{row}: gain in {headline(results[0])} over {baseline}.", alt))
    return blocks


def calibration(results: Sequence[CellResult]) -> list[Block]:
    """Return a reliability diagram per method, over all its first evaluations."""
    blocks = []
    for row in labels(results):
        measured = [first(result) for result in results if result.label == row]
        metrics = [entry for entry in measured if entry is not None and entry.reliability]
        bins: dict[int, list[list[float]]] = {}
        for entry in metrics:
            for confidence, accuracy, count in entry.reliability:
                bins.setdefault(math.ceil(confidence * 15), []).append([confidence, accuracy, count])
        pooled = [_pooled(bins[number]) for number in sorted(bins)]
        if pooled:
            total = sum(count for _, _, count in pooled)
            error = sum(count * abs(accuracy - confidence) for confidence, accuracy, count in pooled) / total
            drawn = plots.reliability_diagram(pooled, error)
            alt = f"calibration error {100 * error:.1f} %"
            blocks.append(figure(drawn, f"{row}: confidence and accuracy, {total} predictions of all cells.", alt))
    return blocks


def _pooled(entries: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """Return mean confidence and accuracy of bins, weighted by their images."""
    count = math.fsum(entry[2] for entry in entries)
    confidence, accuracy = (math.fsum(entry[column] * entry[2] for entry in entries) / count for column in (0, 1))
    return confidence, accuracy, int(count)


def confusion(results: Sequence[CellResult]) -> list[Block]:
    """Return a confusion matrix per data set, of its best method over all seeds."""
    blocks = []
    for name in datasets(results)[:MATRICES]:
        values = {row: headline_value(pick(results, name, row)) for row in labels(results)}
        best = max(values, key=lambda row: -1.0 if values[row] is None else float(values[row] or 0))
        best_results = pick(results, name, best)
        best_results = at_shots(best_results, most_shots(best_results))
        matrices = [
            (metrics.confusion, result) for result in best_results if (metrics := first(result)) and metrics.confusion
        ]
        matrices = [entry for entry in matrices if len(entry[0]) == len(matrices[0][0])]  # of the same classes
        if not matrices:
            continue
        classes = matrices[0][1].record["classes"]
        counts = [
            [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*(m for m, _ in matrices), strict=True)
        ]
        runs = "1 run" if len(matrices) == 1 else f"{len(matrices)} runs"
        caption = f"{name}: {best}, {next(iter(best_results[0].evaluations))} images of {runs}."
        blocks.append(figure(plots.confusion_matrix(counts, classes), caption, f"confusion matrix of {name}"))
    return blocks


def first(result: CellResult) -> Metrics | None:
    """Return the metrics on the tuned classes."""
    return next(iter(result.evaluations.values()))
