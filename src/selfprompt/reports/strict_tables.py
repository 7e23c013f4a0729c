"""The tables of the strict protocols: averages over held-out tasks and over all, paired differences, every task."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfprompt.benchmarks.comparison import Comparison, Lead, Quantity, compare
from selfprompt.benchmarks.results import (
    CellResult,
    Scores,
    Spread,
    accuracy_by_seed,
    auc_by_seed,
    harmonic_spread,
    mean_of_spreads,
    mean_scores,
    spread,
)
from selfprompt.benchmarks.strict import DEVELOPMENT_TASKS, is_held_out
from selfprompt.reports.table_parts import (
    BASE_NEW,
    Row,
    base_new_averages,
    base_new_h,
    by_shots_used,
    datasets,
    labels,
    make_table,
    pick,
    some_of,
)
from selfprompt.reports.tables import Estimate, Table, Value
from selfprompt.utils.wording import listing, plural

UNION = ("union", "base part", "new part", "H", "OpenworldAUC")
QUANTITIES: Mapping[str, tuple[Quantity, ...]] = {
    "strict": ("H", "union accuracy"),
    "strict-few-shot": ("ACA", "accuracy"),
}
BOOTSTRAP = (
    "Differences are paired, image by image; 95 % intervals and p from 10,000 bootstrap samples of seeds and images. "
    "Ahead (behind): the intervals over all tasks and without the task that matters most are both above (below) 0."
)


def averages(results: Sequence[CellResult], title: str, with_published: bool) -> list[Table]:
    """Return the averages of each number of shots, over held-out tasks first."""
    make = _base_new_tables if results[0].protocol == "strict" else _few_shot_table
    tables = []
    for suffix, chosen in by_shots_used(results):
        for group, names in task_groups(datasets(chosen), results[0].suite):
            tables += make(chosen, names, f"{title}, {suffix}: average over {plural(len(names), group)}")
    return tables


def task_groups(names: Sequence[str], suite: str) -> list[tuple[str, list[str]]]:
    """Return a noun and the names of the tasks to average over: those that are held out, and all."""
    held = [name for name in names if is_held_out(suite, name)]
    if suite not in DEVELOPMENT_TASKS:
        return [("task", list(names))]
    if len(held) in (0, len(names)):
        return [("held-out task" if held else "development task", list(names))]
    return [("held-out task", held), ("task", list(names))]


def _base_new_tables(results: Sequence[CellResult], names: Sequence[str], title: str) -> list[Table]:
    base_new = base_new_averages(results, names)
    union = {row: _union_average(results, names, row) for row in labels(results)}
    together = {row: values for row, values in union.items() if values}
    tables = [make_table(title, BASE_NEW, base_new, [r for r in results if r.dataset in names], sizes=True)]
    return tables + ([make_table(f"{title}, all classes together", UNION, together)] if together else [])


def _union_average(results: Sequence[CellResult], names: Sequence[str], row: str) -> Row:
    """Return the columns of ``UNION`` as averages over tasks; empty if the row has no union."""
    have = [name for name in names if accuracy_by_seed(pick(results, name, row), "union")]
    note = some_of(len(have), len(names), "tasks")

    def mean(scores: Sequence[Scores]) -> Spread | None:
        return spread(mean_scores(scores), note)

    def by_name(evaluation: str) -> list[Scores]:
        return [accuracy_by_seed(pick(results, name, row), evaluation) for name in have]

    if not have:
        return {}
    halves = list(zip(by_name("union-base"), by_name("union-new"), strict=True))
    return {
        "union": mean(by_name("union")),
        "base part": mean([base for base, _ in halves]),
        "new part": mean([new for _, new in halves]),
        "H": mean_of_spreads([harmonic_spread(base, new) for base, new in halves], note),
        "OpenworldAUC": mean([auc_by_seed(pick(results, name, row)) for name in have]),
    }


def _few_shot_table(results: Sequence[CellResult], names: Sequence[str], title: str) -> list[Table]:
    shown: dict[str, Row] = {}
    for row in labels(results):
        have = [name for name in names if pick(results, name, row)]
        note = some_of(len(have), len(names), "tasks")
        shown[row] = {
            column: spread(mean_scores([_scores(results, name, row, column) for name in have]), note)
            for column in ("ACA", "accuracy")
        }
    return [make_table(title, ("ACA", "accuracy"), shown, [r for r in results if r.dataset in names], sizes=True)]


def _scores(results: Sequence[CellResult], name: str, row: str, column: str) -> Scores:
    return accuracy_by_seed(pick(results, name, row), "test", "macro" if column == "ACA" else "accuracy")


def comparisons(results: Sequence[CellResult], title: str, baseline: str) -> list[Table]:
    """Return the paired differences of each number of shots, to the baseline and of all pairs; then every task."""
    tables: list[Table] = []
    for suffix, chosen in by_shots_used(results):
        group, names = task_groups(datasets(chosen), results[0].suite)[0]
        where = f"{title}, {suffix}"
        for quantity in QUANTITIES[results[0].protocol]:
            found = compare(chosen, names, quantity)
            about = f"{quantity} on {plural(len(names), group)}"
            tables += [] if found is None else comparison_tables(found, labels(chosen), where, about, baseline)
        tables += [_each_task(chosen, where, quantity) for quantity in QUANTITIES[results[0].protocol]]
    return tables


def comparison_tables(found: Comparison, order: Sequence[str], where: str, about: str, baseline: str) -> list[Table]:
    """Return the table against the baseline, if there is one, and that of all pairs, if there are more than two rows.

    Args:
        found: The comparison.
        order: Labels of rows in their order.
        where: Begin of the titles.
        about: Quantity and tasks.
        baseline: Row that the others are compared with.
    """
    rows, tables = [row for row in order if row in found.rows], []
    notes = [BOOTSTRAP, f"Seeds: {listing(list(map(str, found.seeds)))}."] if found.seeds else [BOOTSTRAP]
    if baseline in rows:
        against = [(row, found.lead(row, baseline)) for row in rows if row != baseline]
        lines = [(row, *_lead_cells(lead)) for row, lead in against]
        header = ("method", "points ahead", "p", "without one task", "claim")
        tables.append(Table(f"{where}: points ahead of {baseline}, {about}", header, tuple(lines), tuple(notes)))
    if len(rows) > 2 or baseline not in rows:
        pairs = [(row, *(None if row == rival else _pair(found.lead(row, rival)) for rival in rows)) for row in rows]
        marked = ("* The row is ahead of the column.", *([] if tables else notes))
        heading = f"{where}: points ahead of each other row, {about}"
        tables.append(Table(heading, ("method", *rows), tuple(pairs), marked, turnable=False))
    return tables


def _lead_cells(lead: Lead) -> tuple[Value, ...]:
    claim = "ahead" if lead.is_ahead else "behind" if lead.is_behind else None
    whole = Estimate(lead.difference, (lead.interval.low, lead.interval.high))
    return whole, f"{lead.interval.p:.4f}", _without(lead), claim


def _without(lead: Lead) -> Estimate | None:
    if lead.others is None or lead.others_interval is None:
        return None
    return Estimate(lead.others, (lead.others_interval.low, lead.others_interval.high), note=lead.task)


def _pair(lead: Lead) -> Estimate:
    interval = (lead.interval.low, lead.interval.high)
    return Estimate(lead.difference, interval, mark="*" if lead.is_ahead else "", brief=True)


def _each_task(results: Sequence[CellResult], where: str, quantity: Quantity) -> Table:
    """Return one quantity of each row on each task."""
    names = datasets(results)
    shown: dict[str, dict[str, Any]] = {}
    for row in labels(results):
        values = {name: _of_task(results, name, row, quantity) for name in names}
        if any(values.values()):
            shown[row] = values
    return make_table(f"{where}: {quantity} on every task", names, shown)


def _of_task(results: Sequence[CellResult], name: str, row: str, quantity: Quantity) -> Spread | None:
    if quantity == "H":
        return base_new_h(pick(results, name, row)).get("H")
    if quantity == "union accuracy":
        return spread(accuracy_by_seed(pick(results, name, row), "union"))
    return spread(_scores(results, name, row, quantity))
