"""The vision tower runs once an image: over epochs, evaluations, methods and processes; counted in the tower itself."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selfprompt import tune
from selfprompt.benchmarks.protocols import build_grid
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import RunCache, run_grid
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier
from selfprompt.methods import coop, linear
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.models.tower import VisionTower
from tests.benchmarks.drawn_suite import draw_suite

QUICK = {"shots": 4, "epochs": 3, "workers": 0, "lr": 0.01}
TRAIN, VAL, TEST = 8, 6, 8  # of ``split_photos`` with 4 shots


@contextmanager
def counted(vision: VisionTower) -> Iterator[dict[str, int]]:
    """Count the images that run through a tower, with prompts and without."""
    seen = {"frozen": 0, "prompted": 0}

    def note(_: object, inputs: tuple[object, ...], __: object) -> None:
        images, *prompter = inputs
        assert isinstance(images, Tensor)
        seen["prompted" if any(prompter) else "frozen"] += len(images)

    handle = vision.register_forward_hook(note)
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def clip() -> Backbone:
    return load_backbone("embedded/clip")


@pytest.mark.parametrize(
    ("method", "options", "views"),
    [
        ("linear", {}, 1),
        ("coop", {"prompts": 2, "init_text": ""}, 1),
        ("tip-adapter", {"finetune": True, "views": 3}, 1),
        ("lpclip", {}, 1),
        ("coop", {"prompts": 2, "init_text": ""}, 2),
    ],
    ids=["linear", "coop", "tip-adapter", "lpclip", "coop, two views"],
)
def test_each_view_of_an_image_runs_once(clip, split_photos, method, options, views):
    own = {"augment": "none"} if views == 1 else {"views": views}
    with counted(clip.vision) as seen:
        tuned = tune(split_photos, method=method, backbone=clip, options=options, **QUICK, **own)
    plain = TRAIN if views > 1 else 0  # for the floor, and the accuracy on the training images
    assert seen == {"frozen": views * TRAIN + plain + VAL + TEST, "prompted": 0}
    assert tuned.results["tuned"]["total"] == tuned.results["zero_shot"]["total"] == TEST


@pytest.mark.parametrize(("augment", "passes"), [("none", 0), ("crop-flip", 3 + 1)])
def test_sep_runs_its_prompted_branch_alone_where_the_view_is_known(clip, split_photos, augment, passes):
    with counted(clip.vision) as seen:
        tune(split_photos, method="sep", backbone=clip, options={"layers": [1]}, augment=augment, **QUICK)
    assert seen["frozen"] == TRAIN + passes * TRAIN + VAL + TEST  # an epoch each, and the class means
    assert seen["prompted"] == 3 * (TRAIN + VAL) + TRAIN + TEST  # at last the training images as they are


def test_results_are_what_they_are_without_a_store(clip, split_photos, monkeypatch):
    settings = {"method": "coop", "backbone": clip, "augment": "none", **QUICK}
    kept = tune(split_photos, **settings)
    monkeypatch.setattr(FeatureStore, "has_room", lambda *_: False)
    plain = tune(split_photos, **settings)
    for name, tensor in kept.method.adapter_state_dict().items():
        torch.testing.assert_close(tensor, plain.method.adapter_state_dict()[name], rtol=0, atol=1e-5)
    assert kept.results["tuned"]["accuracy"] == plain.results["tuned"]["accuracy"]
    assert [r["loss"] for r in kept.results["history"]] == pytest.approx(
        [r["loss"] for r in plain.results["history"]], abs=1e-4
    )


def test_a_later_process_runs_no_tower(split_photos, tmp_path):
    settings = {"method": "linear", "backbone": "embedded/mae", "augment": "none", "feature_cache": str(tmp_path)}
    tune(split_photos, **settings, **QUICK)
    again = load_backbone("embedded/mae")
    with counted(again.vision) as seen:
        tune(split_photos, **settings | {"backbone": again}, **QUICK)
        assert seen["frozen"] == 0
        tune(split_photos, **settings | {"backbone": again, "options": {"pooling": "cls"}}, **QUICK)
        assert seen["frozen"] == TRAIN + VAL + TEST
        with torch.no_grad():
            again.vision.vit.norm.bias.add_(0.1)
        changed = Backbone(**{name: getattr(again, name) for name in Backbone.__dataclass_fields__})
        tune(split_photos, **settings | {"backbone": changed}, **QUICK)
        assert seen["frozen"] == 2 * (TRAIN + VAL + TEST), "other weights, another fingerprint"


def test_cells_of_a_bench_share_features(tmp_path):
    cache = RunCache(draw_suite(tmp_path / "suite"))
    rows = "zero-shot,coop[options.prompts=2,options.init_text=''],linear,sep[options.layers=[1]]"
    cells = build_grid("few-shot", "embedded", parse_rows(rows), ["animals"], (1, 2), (2,), {"epochs": 1, "workers": 0})
    with counted(cache.get_backbone("embedded/clip").vision) as seen:
        outcomes = list(run_grid(cells, tmp_path / "out", cache))
    assert [outcome.state for outcome in outcomes] == ["done"] * 7
    test, train, val = 10, 10, 5
    # Of so few images each seed draws the same for validation; the suite's settings have no augmentation.
    assert seen == {"frozen": test + val + 2 * train, "prompted": 2 * (train + val + test)}


class OwnLinear(linear.Linear):
    """A subclass of a method of features that reads pixels itself."""

    @classmethod
    def traits_for(cls, options):
        return replace(super().traits_for(options), inputs="pixels")

    def logits(self, views: Views) -> Tensor:
        assert views.pixels.shape[1:] == (3, 64, 64)
        return self.head(self.vision(views.pixels))


class OwnCoOp(coop.CoOp):
    """The same with a loss."""

    @classmethod
    def traits_for(cls, options):
        return replace(super().traits_for(options), inputs="pixels")

    def loss(self, views):
        assert views.pixels.shape[1:] == (3, 64, 64)
        return super().loss(views)


class Prompted(Method):
    """A custom method that declares nothing about features."""

    def build(self, generator):
        self.bias = torch.nn.Parameter(torch.zeros(len(self.classes)))

    def logits(self, views):
        return self.vision(views.pixels)[:, : len(self.classes)] + self.bias


@pytest.mark.parametrize("name", ["OwnLinear", "OwnCoOp", "Prompted"])
def test_a_custom_method_that_reads_only_pixels_gets_them(clip, split_photos, name):
    with counted(clip.vision) as seen:
        tuned = tune(split_photos, method=f"{__name__}:{name}", backbone=clip, augment="none", **QUICK)
    of_floors = TRAIN + TEST
    assert seen["frozen"] == 3 * (TRAIN + VAL) + TRAIN + TEST + of_floors
    assert tuned.results["tuned"]["total"] == TEST


def test_a_classifier_evaluates_with_features_that_are_known(clip, split_photos):
    dataset, store = read_dataset(split_photos), FeatureStore()
    classifier = Classifier(build_method("sep", clip, dataset.classes, layers=(1,)), clip.preprocess, batch_size=3)
    with counted(clip.vision) as seen:
        metrics = [classifier.evaluate(dataset.test, features=found) for found in (None, store, store)]
    assert seen == {"frozen": 2 * TEST, "prompted": 3 * TEST}
    assert metrics[0].to_json() == metrics[1].to_json() == metrics[2].to_json()
    with torch.inference_mode(), counted(clip.vision) as seen:
        untuned = Classifier(build_method("zero-shot", clip, dataset.classes), clip.preprocess, batch_size=3)
        untuned.evaluate(dataset.test, features=store)
    assert seen["frozen"] == 0


def test_the_same_folder_under_another_name_is_the_same_set(clip, split_photos):
    dataset, store = read_dataset(split_photos), FeatureStore()
    classifier = Classifier(build_method("linear", clip, dataset.classes), clip.preprocess)
    with counted(clip.vision) as seen:
        for test in (dataset.test, read_dataset(Path(str(split_photos))).test, dataset.test[::-1]):
            classifier.evaluate(test, features=store)
    assert seen["frozen"] == 2 * TEST, "other order, other set"


@pytest.fixture(params=["torch.backends.cuda.matmul", "torch.backends.mkldnn.matmul", "torch.backends"])
def switch(request):
    """A setting of newer versions of torch for the precision of products; it is restored afterwards."""
    try:
        module = operator.attrgetter(request.param.removeprefix("torch."))(torch)
    except AttributeError:
        module = None
    if not hasattr(module, "fp32_precision"):
        pytest.skip("this version of torch has no such switch")
    yield module
    module.fp32_precision = "none"


def test_torch_s_newer_precision_switches_can_be_used(clip, split_photos, switch):
    method = build_method("coop", clip, ["cat", "dog"])
    usual = method.encoder().key
    assert " highest cpu" in usual, "the word that files of kept features have always had"
    switch.fp32_precision = "ieee"
    assert method.encoder().key == usual, "float32 is what it was: kept features stay valid"
    switch.fp32_precision = "tf32"
    about_gpus = switch is torch.backends.cuda.matmul
    assert (method.encoder().key == usual) is about_gpus
    classifier = Classifier(method, clip.preprocess)
    assert classifier.evaluate(read_dataset(split_photos).test, features=FeatureStore()).total == TEST
