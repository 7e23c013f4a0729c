"""The scikit-learn estimator: its contract, and what scikit-learn's own tools do with it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from selfprompt import PromptClassifier, load
from tests.conftest import COLOURS, photo

LABELS = sorted(["dark red", "blue", "green apple"])
BACKBONE = "embedded/mae"


def pictures(count: int, first: int = 0) -> tuple[list[Image.Image], list[str]]:
    """Pictures of three colours, ``count`` of each, and their labels, one class after the other."""
    colours = {"dark red": COLOURS["dark_red"], "blue": COLOURS["blue"], "green apple": COLOURS["green apple"]}
    pairs = [(photo(rgb, first + seed), name) for name, rgb in colours.items() for seed in range(count)]
    return [image for image, _ in pairs], [name for _, name in pairs]


X, y = pictures(4)
OTHERS, TRUE = pictures(3, first=50)


@pytest.fixture(scope="module")
def fitted() -> PromptClassifier:
    """Ridge regression on twelve pictures."""
    return PromptClassifier("ridge", backbone=BACKBONE).fit(X, y)


def test_it_learns_the_classes(fitted: PromptClassifier) -> None:
    assert fitted.classes_.tolist() == LABELS
    assert fitted.predict(OTHERS).tolist() == TRUE
    assert fitted.score(OTHERS, TRUE) == 1
    probabilities = fitted.predict_proba(OTHERS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert fitted.classes_[probabilities.argmax(axis=1)].tolist() == TRUE
    assert len(fitted.classifier_.results["images"]) >= 1


def test_every_image_is_trained_on(fitted: PromptClassifier) -> None:
    assert fitted.classifier_.results["images"]["train"] == len(X)


def test_images_of_every_kind_give_the_same(fitted: PromptClassifier, tmp_path: Path) -> None:
    expected = fitted.predict_proba(OTHERS)
    paths = [tmp_path / f"{index}.png" for index in range(len(OTHERS))]
    for path, image in zip(paths, OTHERS, strict=True):
        image.save(path)
    arrays = np.stack([np.asarray(image) for image in OTHERS])
    kinds = (paths, [str(path) for path in paths], np.array([str(path) for path in paths]), arrays, list(arrays),
             tuple(OTHERS), [path.read_bytes() for path in paths])  # fmt: skip
    for images in kinds:
        np.testing.assert_allclose(fitted.predict_proba(images), expected, atol=1e-6)
    again = PromptClassifier("ridge", backbone=BACKBONE).fit(arrays, TRUE)
    np.testing.assert_allclose(
        again.predict_proba(paths), PromptClassifier("ridge", backbone=BACKBONE).fit(paths, TRUE).predict_proba(arrays),
        atol=1e-6,
    )  # fmt: skip


def test_labels_may_be_numbers_with_names() -> None:
    numbers = np.array([LABELS.index(name) * 10 for name in y])
    names = {0: "blue", 10: "dark red", 20: "green apple"}
    estimator = PromptClassifier("zero-shot", backbone="embedded/clip", class_names=names).fit(X, numbers)
    assert estimator.classes_.tolist() == [0, 10, 20]
    assert estimator.classifier_.classes == tuple(LABELS)
    assert set(estimator.predict(OTHERS).tolist()) <= {0, 10, 20}
    assert estimator.predict(OTHERS).dtype == numbers.dtype
    plain = PromptClassifier("ridge", backbone=BACKBONE).fit(X, numbers)
    assert plain.classifier_.classes == ("0", "10", "20")
    assert plain.predict(OTHERS).tolist() == [LABELS.index(name) * 10 for name in TRUE]


def test_a_copy_has_the_same_parameters_and_no_memory(fitted: PromptClassifier) -> None:
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not hasattr(copied, "classifier_")
    with pytest.raises(Exception, match="is not fitted yet"):
        copied.predict(X)


def test_the_same_seed_gives_the_same_numbers() -> None:
    def probabilities(random_state: object) -> np.ndarray:
        settings = {"epochs": 2, "lr": 0.01}
        estimator = PromptClassifier("linear", backbone=BACKBONE, settings=settings, random_state=random_state)
        return np.asarray(estimator.fit(X, y).predict_proba(OTHERS))

    np.testing.assert_array_equal(probabilities(3), probabilities(3))
    np.testing.assert_array_equal(probabilities(np.random.RandomState(0)), probabilities(np.random.RandomState(0)))
    assert (probabilities(3) != probabilities(4)).any()


def test_cross_validation_and_grids_work() -> None:
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    estimator = PromptClassifier("ridge", backbone=BACKBONE)
    assert cross_val_score(estimator, X, y, cv=folds).tolist() == [1, 1]
    search = GridSearchCV(estimator, {"method": ["ridge", "simpleshot"]}, cv=folds, error_score=0.0)
    search.fit(np.stack([np.asarray(image) for image in X]), y)
    assert search.best_params_["method"] in ("ridge", "simpleshot")
    assert search.best_estimator_.predict(OTHERS).tolist() == TRUE


def test_it_ends_a_pipeline() -> None:
    shrink = FunctionTransformer(lambda images: [image.resize((16, 16)) for image in images])
    pipeline = make_pipeline(shrink, PromptClassifier("simpleshot", backbone=BACKBONE))
    assert pipeline.fit(X, y).score(OTHERS, TRUE) == 1
    pipeline.set_params(promptclassifier__method="ridge")
    assert pipeline.fit(X, y).named_steps["promptclassifier"].classifier_.method.name == "ridge"


def test_it_is_pickled_and_saved(fitted: PromptClassifier, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(OTHERS), fitted.predict_proba(OTHERS), atol=1e-6)
    fitted.classifier_.save(tmp_path)
    assert [one.label for one in load(tmp_path).predict(OTHERS)] == TRUE


def test_the_default_chooses_by_itself() -> None:
    estimator = PromptClassifier(backbone=BACKBONE, options={"candidates": ("ridge", "simpleshot"), "repeats": 1})
    assert estimator.fit(X, y).predict(OTHERS).tolist() == TRUE
    assert estimator.classifier_.results["selection"]["chosen"]


@pytest.mark.parametrize(
    ("images", "labels", "changes", "reason"),
    [
        (X, y[:-1], {}, "inconsistent numbers of samples"),
        (X, ["a"] * len(X), {}, "y must have at least two classes, got 1 class"),
        (X, np.linspace(0, 1, len(X)), {}, "Unknown label type: continuous"),
        ([], [], {}, "got 0 sample"),
        ("photos", ["a"], {}, "got a single str; put it in a list"),
        (np.zeros((12, 5)), y, {}, r"got an array of shape \(12, 5\)"),
        (["none.png", *X[1:]], y, {}, "none.png"),
        (X, y, {"settings": {"seed": 3}}, "settings must not have 'seed': random_state determines it"),
        (X, y, {"settings": {"epoch": 3}}, "epoch"),
        (X, y, {"method": "rigde"}, "ridge"),
        (X, y, {"class_names": {"blue": "sea"}}, "class_names must have a name for every label, but 'dark red' has"),
        (X, [name.replace("dark red", "_blue") for name in y], {}, "have the same name 'blue'"),
    ],
)
def test_wrong_input_is_named(images, labels, changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        PromptClassifier(**{"method": "ridge", "backbone": BACKBONE, **changes}).fit(images, labels)


def test_an_unreadable_image_ends_a_prediction(fitted: PromptClassifier) -> None:
    with pytest.raises(ValueError, match=r"none\.png cannot be read: the file does not exist"):
        fitted.predict([OTHERS[0], "none.png"])


CHECKS = (
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)
"""scikit-learn's checks that need no table of numbers; the others fit one, and an image classifier refuses it."""


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_checks_pass(check: str) -> None:
    getattr(estimator_checks, check)("PromptClassifier", PromptClassifier())
