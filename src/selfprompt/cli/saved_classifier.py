"""Arguments of the commands that load a saved classifier, and the loading itself."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.usage import usage

if TYPE_CHECKING:
    from selfprompt.inference.classifier import Classifier

CLASSES_HELP = 'other class names, without training: a,b,"c, d"; or a classes.yaml'


def add_classifier_argument(parser: ArgumentParser) -> None:
    """Declare the classifier, the first argument of a command."""
    parser.add_argument("classifier", type=str, help="output folder of `selfprompt train`, or owner/name on the hub")


def add_loading_options(parser: ArgumentParser) -> None:
    """Declare how the classifier is loaded."""
    parser.add_argument("--backbone", type=str | None, help="present location of the backbone, if it has moved")
    parser.add_argument(
        "--trust", action="store_true", help="allow the classifier to import its method from another module"
    )
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")


def load_saved_classifier(options: Namespace, output: Output) -> "Classifier":
    """Load the classifier.

    Raises:
        UsageError: If there is no such device.
        ValueError: If the classifier cannot be loaded.
    """
    from selfprompt.inference.loading import load, pick_device

    with usage("device"):
        pick_device(options.device)
    with output.stage("loading"):
        return load(
            options.classifier,
            backbone=options.backbone,
            device=options.device,
            trust=options.trust,
            say=output.message,
        )


def parse_classes(text: str) -> list[str] | Path:
    """Split ``a,b,c`` into class names, or return the path of a YAML file.

    Quotes enclose a name with a comma: ``"salt, pepper",b``.

    Raises:
        UsageError: If there are fewer than two names, or two are equal.
    """
    if text.lower().endswith((".yaml", ".yml")):
        return Path(text)
    from selfprompt.methods.checks import check_names

    with usage():
        names = [name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name.strip()]
        return list(check_names(names))
