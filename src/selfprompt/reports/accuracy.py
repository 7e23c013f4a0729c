"""The accuracy table of commands and pages."""

from collections.abc import Mapping
from typing import Any

from selfprompt.metrics import FLOORS
from selfprompt.utils.wording import plural

ACCURACY_COLUMNS = ("model", "accuracy", "95 % interval", "mean of classes", "test images")
SELECTION_COLUMNS = ("candidate", "accuracy", "standard error", "time", "")


def accuracy_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the accuracy table: the floors that were measured, and the method."""
    untouched = results["weights"] == "untouched"
    tuned, label = results.get("tuned"), results["method"] if results["weights"] == "untouched" else ""
    rows = {title: results.get(name) for name, title in FLOORS.items()}
    if untouched and rows["zero-shot"] == tuned:
        rows["zero-shot"] = None
    rows[label or f"tuned ({results['method']})"] = tuned
    return [[name, *accuracy_cells(metrics)] for name, metrics in rows.items() if metrics]


def floor_sentences(results: Mapping[str, Any]) -> list[str]:
    """Return the difference to each floor with its paired test, one sentence each."""
    sentences = []
    for name, test in results.get("against", {}).items():
        difference = results["tuned"]["accuracy"] - results[name]["accuracy"]
        sentences.append(
            f"{difference:+.1f} points against {FLOORS[name]}: right alone on {plural(test['tuned_only'], 'image')}, "
            f"wrong alone on {test['floor_only']} (McNemar's test: p = {test['p']:.2g})."
        )
    return sentences


def selection_rows(selection: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the comparison that ``auto`` made: one per candidate, the chosen one marked."""
    rows = []
    for candidate in selection["candidates"]:
        compared = "accuracy" in candidate
        accuracy = f"{candidate['accuracy']:.1f} %" if compared else "skipped"
        error = f"{candidate['standard_error']:.1f}" if compared else ""
        mark = "chosen" if candidate["name"] == selection["chosen"] else candidate["note"]
        rows.append([candidate["name"], accuracy, error, f"{candidate['seconds']:.0f} s", mark])
    return rows


def estimate_sentence(estimate: Mapping[str, Any]) -> str:
    """Return the accuracy to expect on new images, in one sentence."""
    low, high = estimate["interval"]
    return (
        f"Expected accuracy on new images: {estimate['accuracy']:.1f} % (95 % interval {low:.1f} - {high:.1f} %), "
        f"from cross-validation on {estimate['images']} training images, corrected for the choice of the method."
    )


def calibration_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the promises of a calibrated classifier came to on the images; nothing for another one."""
    check = metrics.get("calibration")
    if not check:
        return []
    return [
        f"Calibration error: {metrics['calibration_error']:.3f}, before calibration {check['error_before']:.3f}.",
        f"predict --unknown {check['unknown'] / 100:g} refuses {check['refused']:.1f} % of these {metrics['total']} "
        f"images (promised: at most {check['unknown']:g} %).",
        f"predict --coverage {check['coverage'] / 100:g}: the true class is in the set for {check['covered']:.1f} % "
        f"(promised: {check['coverage']:g} %), with {check['set_size']:.1f} classes on average.",
    ]


def accuracy_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Return accuracy, interval, macro accuracy and number of images as text."""
    low, high = metrics["interval"]
    return [
        f"{metrics['accuracy']:.1f} %",
        f"{low:.1f} - {high:.1f} %",
        f"{metrics['macro']:.1f} %",
        f"{metrics['total']}",
    ]
