"""Arguments of the commands that load a saved classifier, and the loading itself."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.usage import UsageError, usage
from selfprompt.utils.matmul import Float32

if TYPE_CHECKING:
    from selfprompt.inference.classifier import Classifier

CLASSES_HELP = 'other class names, without training: a,b,"c, d"; or a classes.yaml'


def add_classifier_argument(parser: ArgumentParser) -> None:
    """Declare the classifier, the first argument of a command."""
    parser.add_argument("classifier", type=str, help="output folder of `selfprompt train`, or owner/name on the hub")


def add_backbone_options(parser: ArgumentParser) -> None:
    """Declare where the backbone is, and whether code of others may be imported."""
    parser.add_argument("--backbone", type=str | None, help="present location of the backbone, if it has moved")
    parser.add_argument(
        "--trust", action="store_true", help="allow the classifier to import its method from another module"
    )


def add_loading_options(parser: ArgumentParser) -> None:
    """Declare how the classifier is loaded."""
    add_backbone_options(parser)
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument(
        "--precision",
        type=Literal["32-true", "bf16-mixed", "16-mixed"],
        default="32-true",
        help="bf16-mixed is faster on GPUs and on CPUs with bfloat16 units; its rounding changes scores by a few "
        "thousandths; 16-mixed needs a GPU",
    )
    parser.add_argument(
        "--float32",
        type=Float32,
        default="auto",
        help="path of float32 products, in torch's words; auto: the fastest exact one on a CPU, TF32 on a GPU",
    )


def load_saved_classifier(options: Namespace, output: Output) -> "Classifier":
    """Load the classifier.

    Raises:
        UsageError: If there is no such device.
        ValueError: If the classifier cannot be loaded.
    """
    from selfprompt.inference.loading import load, pick_device

    with usage("device"):
        device = pick_device(options.device)
    if options.precision == "16-mixed" and device.type == "cpu":
        raise UsageError("--precision 16-mixed needs a GPU. Use bf16-mixed or 32-true on a CPU.")
    with output.stage("loading"):
        classifier = load(
            options.classifier,
            backbone=options.backbone,
            device=options.device,
            trust=options.trust,
            say=output.message,
        )
    classifier.precision, classifier.float32 = options.precision, options.float32
    return classifier


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
