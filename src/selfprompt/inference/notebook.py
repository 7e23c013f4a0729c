"""A small HTML table on a classifier, for notebooks; all text from outside is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from selfprompt.metrics import FLOORS
from selfprompt.utils.wording import listing


def classifier_table(method: str, backbone: str, classes: Sequence[str], results: Mapping[str, Any]) -> str:
    """Return a table with the accuracy and its interval, the floors, the classes and the backbone.

    Args:
        method: Name of the method.
        backbone: Name of the backbone.
        classes: Class names.
        results: ``Classifier.results``; may be empty.
    """
    tuned, estimate = results.get("tuned"), (results.get("selection") or {}).get("estimate")
    if tuned:
        accuracy = f"{_percent(tuned)} of {tuned['total']} test images"
    else:
        accuracy = f"{_percent(estimate)}, estimated by cross-validation" if estimate else "unknown"
    floors = {name: _percent(results[key]) for key, name in FLOORS.items() if tuned and results.get(key)}
    shown = listing([name if name.isprintable() else ascii(name)[1:-1] for name in classes], 10)
    rows = {"method": method, "backbone": backbone, "accuracy": accuracy, **floors}
    rows |= {"classes": f"{len(classes)}: {shown}", "warning": " ".join(results.get("warnings") or ())}
    return html_table({name: value for name, value in rows.items() if value})


def html_table(rows: Mapping[str, str]) -> str:
    """Return an HTML table with a name and a value in each row, both escaped."""
    lines = (
        f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def _percent(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["interval"]
    return f"{metrics['accuracy']:.1f} % (95 % interval {low:.1f} - {high:.1f} %)"
