"""The model card of a saved classifier, README.md: what it is, its accuracy, how to use it and how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfprompt.utils.wording import printable

EVALUATED = {"zero_shot": "zero-shot", "ridge": "ridge regression on frozen features", "tuned": "tuned"}
"""Evaluated models by their key in the results, and how the table calls them."""


@dataclass(frozen=True)
class Publication:
    """What the card of a published classifier adds.

    Attributes:
        repository: Its repository, "owner/name".
        license: Identifier of its licence on the hub, such as "apache-2.0" or "other".
        data: What the training images are, where they are from and under which terms; Markdown.
        base_model: Repository of the backbone on the hub; empty if it has none.
    """

    repository: str
    license: str
    data: str
    base_model: str = ""


def model_card(config: Mapping[str, Any], tensors: str, published: Publication | None = None) -> str:
    """Return a model card in Markdown, with the hub's metadata at its beginning.

    Args:
        config: Content of config.json.
        tensors: Name of the file with the trained tensors.
        published: What the card of a published classifier adds.
    """
    backbone, classes = config["backbone"], config["classes"]
    title = published.repository if published else f"{config['method']} on {backbone['name']}"
    ellipsis = " ..." if len(classes) > 20 else ""
    lines = [
        *_metadata(config, published),
        "",
        f"# {title}",
        "",
        f"An image classifier for {len(classes)} classes: {', '.join(classes[:20])}{ellipsis}.",
        f"Method {config['method']} on the frozen backbone {backbone['name']}, which is not part of this folder; only "
        f"the tensors in `{tensors}` were trained.",
    ]
    if backbone.get("note"):
        lines += ["", f"**{backbone['note']}**"]
    lines += ["", "## Accuracy", "", *_accuracy(config.get("results") or {})]
    lines += ["", "## Use", "", *_use(published.repository if published else "this/folder")]
    if published:
        lines += ["", "## Data", "", published.data]
    lines += ["", "## Training", ""]
    lines += [f"- {name}: {value}" for name, value in (config.get("recipe") or {}).items() if value not in ({}, None)]
    lines += [f"- {note}" for note in (config.get("results") or {}).get("notes", [])]
    return "\n".join(lines) + "\n"


def _metadata(config: Mapping[str, Any], published: Publication | None) -> list[str]:
    """Return the YAML block at the beginning."""
    lines = ["---", "library_name: selfprompt", "pipeline_tag: image-classification"]
    if published:
        lines += [f"license: {published.license}"]
        lines += [f"base_model: {published.base_model}"] if published.base_model else []
        lines += ["tags:", "- few-shot", "- prompt-tuning"]
    return [*lines, "---"]


def _use(source: str) -> list[str]:
    """Return an example of use."""
    return [
        "```python",
        "import selfprompt",
        "",
        f'classifier = selfprompt.load("{source}")',
        'print(classifier.predict(["photo.jpg"]))',
        "```",
    ]


def _accuracy(results: Mapping[str, Any]) -> list[str]:
    """Return the table of accuracies, or the estimate from the training images if there are no test images."""
    evaluated = [name for name in EVALUATED if results.get(name)]
    if not evaluated:
        return _estimate(results)
    table = ["| model | accuracy | 95 % interval | test images |", "|---|---|---|---|"]
    for name in evaluated:
        (low, high), metrics = results[name]["interval"], results[name]
        label = "untuned" if name == "tuned" and results.get("weights") == "untouched" else EVALUATED[name]
        table.append(f"| {label} | {metrics['accuracy']:.1f} % | {low:.1f} to {high:.1f} % | {metrics['total']} |")
    return [*table, *(f"\n{printable(warning)}" for warning in results.get("warnings", ()))]


def _estimate(results: Mapping[str, Any]) -> list[str]:
    estimate = (results.get("selection") or {}).get("estimate")
    if not estimate:
        return ["Not measured."]
    low, high = estimate["interval"]
    return [
        f"{estimate['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f} %), estimated by cross-validation on "
        f"{estimate['images']} training images."
    ]
