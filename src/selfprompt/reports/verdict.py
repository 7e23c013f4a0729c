"""The verdict on a result: is the classifier good, and is it better than what needs no tuning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfprompt.metrics import FLOORS

SIGNIFICANT = 0.05
WIDE = 15.0
"""Width of an interval in points from which on the page says that more test images are needed."""

Kind = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Comparison:
    """The tuned classifier against a floor: a classifier that needs no tuning, on the same frozen backbone.

    Attributes:
        key: Its key in the results.
        metrics: Its metrics as JSON values.
        outcome: Whether the tuned classifier is clearly "better", clearly "worse", or "level".
        test: The paired test in one sentence; empty if there is none.
    """

    key: str
    metrics: Mapping[str, Any]
    outcome: Literal["better", "worse", "level"]
    test: str = ""

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return FLOORS[self.key]

    @property
    def method(self) -> str:
        """Its name on the command line."""
        return self.key.replace("_", "-")


def compare_floors(results: Mapping[str, Any]) -> list[Comparison]:
    """Compare the tuned classifier with each floor that was measured, unless it is that method itself."""
    return list(_comparisons(results))


def _comparisons(results: Mapping[str, Any]) -> Iterator[Comparison]:
    tuned = results.get("tuned")
    for key, name in FLOORS.items():
        floor, paired = results.get(key), (results.get("against") or {}).get(key)
        if not (tuned and floor) or results["method"] == key.replace("_", "-"):
            continue
        if paired:
            gain, clear = paired["tuned_only"] - paired["floor_only"], paired["p"] < SIGNIFICANT
            test = (
                f"Of the same {tuned['total']} images, {paired['tuned_only']} are right only with "
                f"{results['method']} and {paired['floor_only']} only with {name} (McNemar's p = {paired['p']:.2g})."
            )
        else:
            gain = tuned["accuracy"] - floor["accuracy"]
            clear = tuned["interval"][0] > floor["interval"][1] or floor["interval"][0] > tuned["interval"][1]
            test = ""
        outcome: Literal["better", "worse", "level"] = "level" if not clear or not gain else "better"
        yield Comparison(key, floor, "worse" if clear and gain < 0 else outcome, test)


def chance_level(results: Mapping[str, Any]) -> float:
    """Return the accuracy of guessing, in percent."""
    return 100 / len(results["classes"])


def judge(results: Mapping[str, Any]) -> tuple[str, Kind]:
    """Return a sentence that says whether the classifier is good, and its kind.

    Args:
        results: ``Classifier.results``, or a part of it with method, classes and tuned.
    """
    tuned, compared = results.get("tuned"), compare_floors(results)
    if tuned is None:
        estimated = (results.get("selection") or {}).get("estimate")
        if estimated:
            return "An estimate from the training images alone: there are no test images.", "open"
        return "The accuracy on new images is unknown: there are no test images.", "open"
    chance = chance_level(results)
    if tuned["interval"][0] <= chance:
        return f"Not clearly better than guessing, which is right for {chance:.1f} % of images.", "bad"
    by_outcome = {
        outcome: " and ".join(one.name for one in compared if one.outcome == outcome)
        for outcome in ("better", "worse", "level")
    }
    if by_outcome["worse"]:
        best = max(compared, key=lambda one: one.metrics["accuracy"])
        return f"Worse than {by_outcome['worse']}: train with --method {best.method} instead.", "bad"
    if by_outcome["level"]:
        better = f"Clearly better than {by_outcome['better']}, but not" if by_outcome["better"] else "Not"
        return f"{better} clearly better than {by_outcome['level']} on the same frozen features.", "open"
    if by_outcome["better"]:
        return f"Clearly better than {by_outcome['better']} on the same frozen backbone.", "good"
    return f"Clearly better than guessing, which is right for {chance:.1f} % of images.", "open"


def expectation(results: Mapping[str, Any]) -> str:
    """Return what the accuracy means for new images, in one or two plain sentences; empty if it is unknown."""
    measured = results.get("tuned") or (results.get("selection") or {}).get("estimate")
    if not measured:
        return ""
    low, high = measured["interval"]
    sentence = (
        f"Of 100 new images of this kind, expect about {measured['accuracy']:.0f} to be classified right; "
        f"with 95 % confidence between {low:.0f} and {high:.0f}."
    )
    if high - low < WIDE:
        return sentence
    return f"{sentence} The range is wide: more labelled images to test on would narrow it."
