"""The accuracy table of commands and pages."""

from collections.abc import Mapping
from typing import Any

ACCURACY_COLUMNS = ("model", "accuracy", "95 % interval", "mean of classes", "test images")


def accuracy_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the accuracy table: zero-shot if the backbone has a text tower, and the method."""
    untouched = results["weights"] == "untouched"
    zero_shot, tuned = results.get("zero_shot"), results.get("tuned")
    label = results["method"] if untouched else f"tuned ({results['method']})"
    rows = {"zero-shot": None if untouched and zero_shot == tuned else zero_shot, label: tuned}
    return [[name, *accuracy_cells(metrics)] for name, metrics in rows.items() if metrics]


def accuracy_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Return accuracy, interval, macro accuracy and number of images as text."""
    low, high = metrics["interval"]
    return [
        f"{metrics['accuracy']:.1f} %",
        f"{low:.1f} - {high:.1f} %",
        f"{metrics['macro']:.1f} %",
        f"{metrics['total']}",
    ]
