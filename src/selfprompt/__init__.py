"""Adapt a frozen vision transformer or CLIP to your own images with a few prompts made from the model's own tokens.

    import selfprompt

    classifier = selfprompt.tune("photos/", method="sep", shots=16)
    classifier.save("my-classifier")
    selfprompt.load("my-classifier").predict(["new.jpg"])

The names below are imported when they are first used, so that ``import selfprompt`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from selfprompt.api import build_method
    from selfprompt.classifier import Classifier, load
    from selfprompt.data.sources import read_dataset
    from selfprompt.methods import list_methods
    from selfprompt.prediction import Prediction
    from selfprompt.recipe import Recipe, load_recipe
    from selfprompt.towers.load import list_backbones, load_backbone
    from selfprompt.tuning import tune

_HOMES = {
    "Classifier": "selfprompt.classifier",
    "Prediction": "selfprompt.prediction",
    "Recipe": "selfprompt.recipe",
    "build_method": "selfprompt.api",
    "list_backbones": "selfprompt.towers.load",
    "list_methods": "selfprompt.methods",
    "load": "selfprompt.classifier",
    "load_backbone": "selfprompt.towers.load",
    "load_recipe": "selfprompt.recipe",
    "read_dataset": "selfprompt.data.sources",
    "tune": "selfprompt.tuning",
}

__all__ = [
    "Classifier",
    "Prediction",
    "Recipe",
    "build_method",
    "list_backbones",
    "list_methods",
    "load",
    "load_backbone",
    "load_recipe",
    "read_dataset",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'selfprompt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
