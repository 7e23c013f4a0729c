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
    from selfprompt.data.readers.read import read_dataset
    from selfprompt.estimator import PromptClassifier
    from selfprompt.inference.classifier import Classifier
    from selfprompt.inference.hub import push
    from selfprompt.inference.loading import load
    from selfprompt.inference.predictions import Prediction
    from selfprompt.methods import list_methods
    from selfprompt.methods.registry import build_method
    from selfprompt.models.loading.by_name import list_backbones, load_backbone
    from selfprompt.recipes.recipe import Recipe, load_recipe
    from selfprompt.reviewing.review import review
    from selfprompt.training.tune import tune

_HOMES = {
    "Classifier": "selfprompt.inference.classifier",
    "Prediction": "selfprompt.inference.predictions",
    "PromptClassifier": "selfprompt.estimator",
    "Recipe": "selfprompt.recipes.recipe",
    "build_method": "selfprompt.methods.registry",
    "list_backbones": "selfprompt.models.loading.by_name",
    "list_methods": "selfprompt.methods",
    "load": "selfprompt.inference.loading",
    "load_backbone": "selfprompt.models.loading.by_name",
    "load_recipe": "selfprompt.recipes.recipe",
    "push": "selfprompt.inference.hub",
    "read_dataset": "selfprompt.data.readers.read",
    "review": "selfprompt.reviewing.review",
    "tune": "selfprompt.training.tune",
}

__all__ = [
    "Classifier",
    "Prediction",
    "PromptClassifier",
    "Recipe",
    "build_method",
    "list_backbones",
    "list_methods",
    "load",
    "load_backbone",
    "load_recipe",
    "push",
    "read_dataset",
    "review",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'selfprompt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
