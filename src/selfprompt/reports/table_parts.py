"""Parts of the tables of benchmarks: which rows and data sets there are, their averages, and a table of spreads."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from selfprompt.benchmarks.published import published_tables
from selfprompt.benchmarks.results import (
    CellResult,
    Spread,
    accuracy_by_seed,
    harmonic_spread,
    mean_of_spreads,
    mean_scores,
    spread,
)
from selfprompt.reports.tables import Table, Value
from selfprompt.utils.wording import plural

SPREADS = "Means over seeds ± sample standard deviation; from three seeds on, the 95 % interval (t) in parentheses."
Row = Mapping[str, Spread | None]
"""The values of one method by column."""
BASE_NEW = ("base", "new", "H of averages", "average of H")


def base_new_h(results: Sequence[CellResult]) -> Row:
    """Return base, new and H of one method on one data set; empty without results."""
    if not results:
        return {}
    base, new = accuracy_by_seed(results, "base"), accuracy_by_seed(results, "new")
    return {"base": spread(base), "new": spread(new), "H": harmonic_spread(base, new)}


def by_shots_used(results: Sequence[CellResult]) -> list[tuple[str, list[CellResult]]]:
    """Return a title and the results for each number of shots; methods that use no images are in each of them."""
    counts = sorted({result.shots for result in results if result.trained}) or [0]
    titles = {count: plural(count, "shot") if count else "all images" for count in counts}
    return [(titles[n], [r for r in results if not r.trained or r.shots == n]) for n in counts]


def make_table(
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Row],
    results: Sequence[CellResult] = (),
    *,
    with_published: bool = False,
    sizes: bool = False,
) -> Table:
    """Return a table of spreads, optionally with costs and published rows."""
    lines: list[tuple[Value, ...]] = []
    for row, values in rows.items():
        cost: tuple[Value, ...] = costs([r for r in results if r.label == row]) if sizes else ()
        lines.append((row, *(values.get(column) for column in columns), *cost))
    notes = [SPREADS] if any(isinstance(v, Spread) and v.deviation is not None for line in lines for v in line) else []
    added = 0
    for table in published_tables() if with_published and results else ():
        if (table.protocol, table.suite) == (results[0].protocol, results[0].suite):
            for name, numbers in table.rows.items():
                shown = dict(zip(table.columns, numbers, strict=True))
                lines.append((f"{name} (published)", *(shown.get(column) for column in columns), *([None] * 2 * sizes)))
            added += len(table.rows)
            notes.append(f"Published rows are not ours: {table.about}.")
    header = ("method", *columns, *(("trainable parameters", "training, s") if sizes else ()))
    return Table(title, header, tuple(lines), tuple(notes), added)


def costs(results: Sequence[CellResult]) -> tuple[Value, Value]:
    """Return the number of trainable parameters (maximum over data sets) and the mean time of choosing and training."""
    if not results:
        return None, None
    seconds = statistics.fmean(r.record["train_seconds"] + sum(c["seconds"] for c in candidates(r)) for r in results)
    return max(result.record["trainable_parameters"] for result in results), f"{seconds:.1f}"


def candidates(result: CellResult) -> Sequence[Mapping[str, Any]]:
    """Return what auto compared; empty for other methods."""
    compared: Sequence[Mapping[str, Any]] = result.record.get("selection", {}).get("candidates", ())
    return compared


def datasets(results: Sequence[CellResult]) -> list[str]:
    """Return the data sets of the results, in the order of the suite."""
    from selfprompt.data.suites import SUITES, list_tasks

    present, suite = {result.dataset for result in results}, results[0].suite
    order = list_tasks(suite) if suite in SUITES else ()
    return [name for name in order if name in present] + sorted(present - set(order))


def labels(results: Sequence[CellResult]) -> list[str]:
    """Return the rows of the results: untrained ones first, then by name."""
    first = {result.label: result.trained for result in results}
    return sorted(first, key=lambda label: (first[label], label))


def pick(results: Sequence[CellResult], dataset: str, label: str) -> list[CellResult]:
    """Return the results of one row on one data set."""
    return [result for result in results if (result.dataset, result.label) == (dataset, label)]


def at_shots(results: Sequence[CellResult], shots: int) -> list[CellResult]:
    """Return the results with this number of shots."""
    return [result for result in results if result.shots == shots]


def count_datasets(names: Sequence[str]) -> str:
    """Return how many data sets there are, in words: "7 data sets"."""
    return plural(len(names), "data set")


def some_of(have: int, all_: int, what: str = "data sets") -> str:
    """Return a note on an average over some of the data sets, "4 of 7 data sets"; empty if it is over all."""
    return "" if have == all_ else f"{have} of {all_} {what}"


def base_new_averages(results: Sequence[CellResult], names: Sequence[str]) -> dict[str, Row]:
    """Return base, new and both kinds of H by row, as averages over data sets."""
    averages: dict[str, Row] = {}
    for row in labels(results):
        single = {name: base_new_h(pick(results, name, row)) for name in names}
        have = [name for name in names if single[name]]
        note = some_of(len(have), len(names))
        base = mean_scores([accuracy_by_seed(pick(results, name, row), "base") for name in have])
        new = mean_scores([accuracy_by_seed(pick(results, name, row), "new") for name in have])
        averages[row] = {
            "base": spread(base, note),
            "new": spread(new, note),
            "H of averages": harmonic_spread(base, new, note),
            "average of H": mean_of_spreads([single[name]["H"] for name in have], note),
        }
    return averages
