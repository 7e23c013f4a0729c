"""The tables of each protocol as papers print them, from measured results."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfprompt.benchmarks.results import (
    CellResult,
    Scores,
    Spread,
    accuracy_by_seed,
    difference,
    mean_of_spreads,
    mean_scores,
    spread,
    spread_over_draws,
)
from selfprompt.reports import strict_tables
from selfprompt.reports.table_parts import (
    BASE_NEW,
    SPREADS,
    Row,
    at_shots,
    base_new_averages,
    base_new_h,
    by_shots_used,
    count_datasets,
    datasets,
    labels,
    make_table,
    pick,
    some_of,
)
from selfprompt.reports.tables import Gain, Table, Value

DRAWS = (
    "Each seed draws other test images, the same for all methods. Means over seeds ± sample standard deviation; from "
    "three seeds on, the 95 % interval (t) in parentheses, widened as the draws share images (Nadeau and Bengio 2003)."
)


def all_tables(
    results: Sequence[CellResult], *, baseline: str = "zero-shot", with_published: bool = False
) -> list[Table]:
    """Return all tables of all protocols and suites.

    Args:
        results: Results from ``read_results``.
        baseline: Row that gains are measured against.
        with_published: Whether to add published averages.
    """
    tables: list[Table] = []
    for title, group in grouped(results):
        protocol = group[0].protocol
        whole, *others = PROTOCOL_TABLES[protocol](group, title, with_published)
        whole = replace(whole, notes=(*whole.notes, *class_notes(group)))
        tables += without_repetition([whole, *others, *DIFFERENCES.get(protocol, gain_table)(group, title, baseline)])
    return tables


def without_repetition(tables: Sequence[Table]) -> list[Table]:
    """Return the tables of a group with the notes on how to read them below the first one alone."""
    said: set[str] = set()
    result = []
    for table in tables:
        result.append(replace(table, notes=tuple(note for note in table.notes if note not in said)))
        said |= {note for note in table.notes if note in (SPREADS, DRAWS, strict_tables.BOOTSTRAP)}
    return result


def grouped(results: Sequence[CellResult]) -> list[tuple[str, list[CellResult]]]:
    """Return the results that tables have in common, with a heading: of a protocol, a suite and a way of drawing."""
    groups: dict[tuple[str, str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.protocol, result.suite, result.supports), []).append(result)
    return [(heading(*key), group) for key, group in groups.items()]


def heading(protocol: str, suite: str, supports: str = "") -> str:
    """Return the heading of a group of tables."""
    drawn = "" if supports in ("", "balanced") else f", supports: {supports}"
    return protocol if protocol == suite else f"{protocol}, {suite}{drawn}"


def class_notes(results: Sequence[CellResult]) -> list[str]:
    """Return notes on missing numbers, and on methods evaluated on a part of their classes."""
    without = sorted({result.label for result in results if None in result.evaluations.values()})
    notes = [f"No number if a method cannot distinguish the classes: {', '.join(without)}."] if without else []
    parts = {(result.label, name) for result in results for name in result.record.get("restricted", ())}
    if parts:
        rows, names = (", ".join(sorted(set(words))) for words in zip(*parts, strict=True))
        notes.append(f"On {names}, predictions were restricted to the classes of the test set: {rows}.")
    return notes


def base_to_new(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return base, new and H: first the averages, with H computed both ways, then each data set."""
    names, rows = datasets(results), labels(results)
    single = {name: {row: base_new_h(pick(results, name, row)) for row in rows} for name in names}
    tables = [
        make_table(
            f"{title}: {name}", ("base", "new", "H"), {row: single[name][row] for row in rows if single[name][row]}
        )
        for name in names
    ]
    averages = base_new_averages(results, names)
    whole = make_table(
        f"{title}: average over {count_datasets(names)}",
        BASE_NEW,
        averages,
        results,
        with_published=with_published,
        sizes=True,
    )
    h = {row: {name: single[name][row].get("H") for name in names} for row in rows if averages[row]["new"]}
    return [whole, *([make_table(f"{title}: H", names, h)] if len(names) > 1 else []), *tables]


def few_shot(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return accuracy by shots: the average, then each data set. Methods without shots are under 0.

    With a single number of shots, one table has a column per data set.
    """
    names, rows = datasets(results), labels(results)
    shots = sorted({result.shots for result in results})

    def by_shots(row: str, count: int, chosen: Sequence[str]) -> Spread | None:
        scores = [accuracy_by_seed(at_shots(pick(results, name, row), count), "test") for name in chosen]
        have = [by_seed for by_seed in scores if by_seed]
        return spread(mean_scores(have), some_of(len(have), len(chosen)))

    def table(title: str, chosen: Sequence[str], *, whole: bool) -> Table:
        shown = {row: {str(count): by_shots(row, count, chosen) for count in shots} for row in rows}
        return make_table(
            title, tuple(map(str, shots)), shown, results if whole else (), with_published=with_published and whole
        )

    whole = table(f"{title}: accuracy by shots, average over {count_datasets(names)}", names, whole=True)
    if len(names) == 1:
        return [whole]
    if len(set(shots) - {0}) == 1:
        return [whole, per_dataset(results, f"{title}: accuracy with {max(shots)} shots", mean=True)]
    return [whole, *(table(f"{title}: accuracy by shots, {name}", [name], whole=False) for name in names)]


def transfer(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return accuracy on source, targets and their average for each source, after the average over sources."""
    word = "shifted" if results[0].protocol == "domain-generalization" else "targets"
    names, rows = datasets(results), labels(results)
    tables, sources, targets = [], {}, {}
    for name in names:
        of_source = [result for result in results if result.dataset == name]
        columns = list(dict.fromkeys(key for result in of_source for key in result.evaluations))
        shown = {}
        for row in rows:
            row_results = pick(of_source, name, row)
            scores = {column: accuracy_by_seed(row_results, column) for column in columns}
            sources[name, row] = scores["source"]
            have = [scores[column] for column in columns if column != "source" and scores[column]]
            targets[name, row] = mean_scores(have) if len(have) == len(columns) - 1 else {}
            if row_results:
                shown[row] = {column: spread(values) for column, values in scores.items()}
                shown[row][f"average of {word}"] = spread(targets[name, row])
        tables.append(
            make_table(
                f"{title}: from {name}",
                (*columns, f"average of {word}"),
                shown,
                of_source,
                with_published=with_published,
            )
        )
    if len(names) == 1:
        return tables
    rows_of = {row: _transfer_averages(row, names, sources, targets, word) for row in rows}
    whole = make_table(
        f"{title}: average over {count_datasets(names)}", ("source", f"average of {word}"), rows_of, results, sizes=True
    )
    return [whole, *tables]


def _transfer_averages(
    row: str,
    names: Sequence[str],
    sources: Mapping[tuple[str, str], Scores],
    targets: Mapping[tuple[str, str], Scores],
    word: str,
) -> Row:
    """Return the averages over data sets of source and target accuracy."""
    columns = {"source": sources, f"average of {word}": targets}
    known = {column: [scores[name, row] for name in names if scores[name, row]] for column, scores in columns.items()}
    return {column: spread(mean_scores(have), some_of(len(have), len(names))) for column, have in known.items()}


def vtab(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return the means of the three groups, of the tasks and of the groups; then each task."""
    from selfprompt.data.suites.vtab import GROUPS

    names, rows = datasets(results), labels(results)
    scores = {(name, row): accuracy_by_seed(pick(results, name, row), "test") for name in names for row in rows}
    shown = {}
    for row in rows:
        groups = {
            group: spread(mean_scores(have), some_of(len(have), len(tasks)))
            for group, tasks in GROUPS.items()
            for have in [[scores[name, row] for name in tasks if scores.get((name, row))]]
        }
        every = [scores[name, row] for name in names if scores[name, row]]
        total = sum(len(tasks) for tasks in GROUPS.values())
        whole = {group: entry for group, entry in groups.items() if entry}
        shown[row] = {
            **groups,
            f"mean of {total} tasks": spread(mean_scores(every), some_of(len(every), total)),
            "mean of groups": mean_of_spreads(list(whole.values()), some_of(len(whole), len(GROUPS), "groups")),
        }
    columns = tuple(dict.fromkeys(column for row in shown.values() for column in row))
    return [
        make_table(f"{title}: groups", columns, shown, results, with_published=with_published, sizes=True),
        per_dataset(results, f"{title}: every task"),
    ]


def fgvc(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return each data set and the mean."""
    return [per_dataset(results, f"{title}: every task", mean=True)]


def per_dataset(results: Sequence[CellResult], title: str, *, mean: bool = False) -> Table:
    """Return a table with a column per data set, and optionally the mean."""
    names, rows = datasets(results), labels(results)
    shown: dict[str, dict[str, Spread | None]] = {}
    for row in rows:
        scores = {name: accuracy_by_seed(pick(results, name, row), "test") for name in names}
        have = [entry for entry in scores.values() if entry]
        shown[row] = {name: spread(entry) for name, entry in scores.items()}
        if mean:
            shown[row]["mean"] = spread(mean_scores(have), some_of(len(have), len(names)))
    return make_table(title, (*names, *(["mean"] if mean else [])), shown, results, sizes=mean)


def holdout(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return, for each number of shots, the accuracy on each folder and the mean over folders."""
    tables = []
    for suffix, chosen in by_shots_used(results):
        names, rows = datasets(results), labels(chosen)
        shown: dict[str, dict[str, Spread | None]] = {}
        for row in rows:
            of_row = {name: pick(chosen, name, row) for name in names}
            have = {name: accuracy_by_seed(given, "test") for name, given in of_row.items() if given}
            shown[row] = {name: spread_over_draws(scores, of_row[name]) for name, scores in have.items()}
            if len(names) > 1:
                every = [result for given in of_row.values() for result in given]
                note = some_of(len(have), len(names))
                shown[row]["mean"] = spread_over_draws(mean_scores(list(have.values())), every, note)
        columns = (*names, *(["mean"] if len(names) > 1 else []))
        table = make_table(f"{title}: accuracy, {suffix}", columns, shown, chosen, sizes=True)
        drawn = any(result.record.get("held_out") for result in chosen)
        notes = [DRAWS if drawn and note == SPREADS else note for note in table.notes]
        tables.append(replace(table, notes=(*notes, *choices(chosen))))
    return tables


def paired_tables(results: Sequence[CellResult], title: str, baseline: str) -> list[Table]:
    """Return, for each number of shots, the difference of each method to the baseline on the same images.

    Without the baseline, auto takes its place, or else ridge.
    """
    tables = []
    for suffix, chosen in by_shots_used(results):
        names, rows = datasets(results), labels(chosen)
        ground = next((row for row in (baseline, "auto", "ridge") if row in rows), None)
        if ground is None:
            continue
        shown: dict[str, dict[str, Spread | None]] = {}
        for row in rows:
            if row != ground:
                shown[row] = {name: difference(pick(chosen, name, row), pick(chosen, name, ground)) for name in names}
        if shown:
            heading = f"{title}: points ahead of {ground} on the same images, {suffix}"
            tables.append(replace(make_table(heading, tuple(names), shown), notes=()))
    return tables


def gain_table(results: Sequence[CellResult], title: str, baseline: str) -> list[Table]:
    """Return the gain of each method over the baseline on each data set; empty without a baseline."""
    gains = gains_over(results, baseline)
    if not gains:
        return []
    names = datasets(results)
    rows: list[tuple[Value, ...]] = []
    for row, by_name in gains.items():
        values = [Gain(by_name[name]) if name in by_name else None for name in names]
        mean = Gain(statistics.fmean(by_name.values())) if len(by_name) == len(names) else None
        rows.append((row, *values, mean))
    return [Table(f"{title}: gain of {headline(results[0])} over {baseline}", ("method", *names, "mean"), tuple(rows))]


def gains_over(results: Sequence[CellResult], baseline: str) -> dict[str, dict[str, float]]:
    """Return the gains over the baseline by row and data set, in percentage points of the headline number."""
    rows, names = labels(results), datasets(results)
    if baseline not in rows:
        return {}
    level = {name: headline_value(pick(results, name, baseline)) for name in names}
    gains: dict[str, dict[str, float]] = {}
    for row in rows:
        for name in names:
            value, ground = headline_value(pick(results, name, row)), level[name]
            if row != baseline and value is not None and ground is not None:
                gains.setdefault(row, {})[name] = value - ground
    return gains


def headline(result: CellResult) -> str:
    """Return the name of the headline number of a protocol."""
    names = {
        "base-to-new": "H",
        "strict": "H",
        "few-shot": "accuracy with the most shots",
        "strict-few-shot": "ACA with the most shots",
        "cross-dataset": "the average of targets",
        "domain-generalization": "the average of shifted",
    }
    return names.get(result.protocol, "accuracy")


def headline_value(results: Sequence[CellResult]) -> float | None:
    """Return the headline number of one method on one data set; None if missing."""
    if not results:
        return None
    protocol = results[0].protocol
    if protocol in ("base-to-new", "strict"):
        value = base_new_h(at_shots(results, most_shots(results)))["H"]
    elif protocol == "strict-few-shot":
        value = spread(accuracy_by_seed(at_shots(results, most_shots(results)), "test", "macro"))
    elif protocol in ("cross-dataset", "domain-generalization"):
        scores = [accuracy_by_seed(results, name) for name in results[0].evaluations if name != "source"]
        value = spread(mean_scores(scores)) if all(scores) else None
    else:
        value = spread(accuracy_by_seed(at_shots(results, most_shots(results)), "test"))
    return value.mean if value else None


PROTOCOL_TABLES: dict[str, Callable[[Sequence[CellResult], str, bool], list[Table]]] = {
    "base-to-new": base_to_new,
    "few-shot": few_shot,
    "cross-dataset": transfer,
    "domain-generalization": transfer,
    "vtab": vtab,
    "fgvc": fgvc,
    "holdout": holdout,
    "strict": strict_tables.averages,
    "strict-few-shot": strict_tables.averages,
}
DIFFERENCES: dict[str, Callable[[Sequence[CellResult], str, str], list[Table]]] = {
    "holdout": paired_tables,
    "strict": strict_tables.comparisons,
    "strict-few-shot": strict_tables.comparisons,
}
"""Tables of differences; the other protocols have a table of gains."""


def choices(results: Sequence[CellResult]) -> list[str]:
    """Return a sentence on what auto chose, for each row and data set."""
    chosen: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        if "selection" in result.record:
            chosen.setdefault((result.label, result.dataset), Counter())[result.record["selection"]["chosen"]] += 1
    words = {key: [f"{m} ({n} of {counts.total()})" for m, n in counts.most_common()] for key, counts in chosen.items()}
    return [f"{row} chose on {name}: {'; '.join(methods)}." for (row, name), methods in words.items()]


def most_shots(results: Sequence[CellResult]) -> int:
    """Return the largest number of shots; 0 without results, or if a method was trained on all images of a folder."""
    if any(result.protocol == "holdout" and result.trained and not result.shots for result in results):
        return 0
    return max((result.shots for result in results), default=0)


def evaluation_records(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return every evaluation of every cell as JSON values: counts, accuracies, calibration, cost."""
    return [
        {
            **{
                name: getattr(result, name) for name in ("protocol", "suite", "dataset", "label", "seed", "shots", "id")
            },
            "evaluation": name,
            **{key: getattr(metrics, key) for key in ("correct", "total", "accuracy", "macro", "calibration_error")},
            **{key: result.record[key] for key in ("trainable_parameters", "train_seconds", "seconds", "peak_memory")},
        }
        for result in results
        for name, metrics in result.evaluations.items()
        if metrics is not None
    ]
