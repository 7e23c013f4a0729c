"""``tune`` from Python: its inputs, its results, and that equal inputs give equal results."""

import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import selfprompt
from selfprompt import tune
from selfprompt.data.views import Views
from selfprompt.inference.artifact import read_artifact
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.recipes.recipe import load_recipe
from tests.conftest import COLOURS, photo, write_photos

QUICK = {"epochs": 2, "shots": 2, "workers": 0}
LINEAR = {"method": "linear", "backbone": "embedded/mae", **QUICK}
RIDGE = {"method": "ridge", "backbone": "embedded/mae", "shots": 0}
COOP = {"method": "coop", "backbone": "embedded/clip", **QUICK}
SPT = {"method": "spt-deep", "backbone": "embedded/mae", "options": {"prompts": 2}, **QUICK}


def tensors(classifier):
    return {name: tensor.clone() for name, tensor in classifier.method.adapter_state_dict().items()}


def equal(one, other):
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class RecordingReporter:
    """A reporter that records everything."""

    def __init__(self):
        self.messages, self.stages = [], []

    def message(self, line):
        self.messages.append(line)

    @contextmanager
    def stage(self, name):
        counts = []
        self.stages.append((name, counts))
        yield lambda done, total: counts.append((done, total))


def test_learns_and_measures(photos):
    tuned = tune(photos, **LINEAR | {"epochs": 15, "lr": 0.02, "augment": "none"})
    results = tuned.results
    assert results["tuned"]["accuracy"] == 100
    assert results["zero_shot"] is None, "embedded/mae reads no class names"
    assert [record["epoch"] for record in results["history"]] == list(range(1, 16))
    assert results["history"][-1]["loss"] < results["history"][0]["loss"]
    assert results["images"] == {"train": 8, "val": 0, "test": 8}
    assert results["trainable_parameters"] == 4 * 128 + 4
    assert results["weights"] == "last"
    assert tuned.predict(photos / "blue" / "0.png")[0].label == "blue"
    assert tuned.recipe["backbone"] == "embedded/mae"


def test_the_frozen_backbone_stays_bit_for_bit(photos):
    backbone = load_backbone("embedded/clip")
    before = {name: tensor.clone() for name, tensor in backbone.vision.state_dict().items()}
    tune(photos, **COOP | {"backbone": backbone})
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.vision.state_dict().items())
    assert backbone.fingerprint == load_backbone("embedded/clip").fingerprint


@pytest.mark.parametrize("settings", [LINEAR, COOP, SPT], ids=["linear", "coop", "spt"])
def test_the_seed_decides_everything(photos, settings):
    first = tune(photos, **settings)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    state = torch.get_rng_state()
    assert equal(tune(photos, **settings | {"workers": 2}), first), "not the number of threads, no global state"
    assert torch.equal(torch.get_rng_state(), state), "and the caller's random state is left alone"
    assert not equal(tune(photos, **settings, seed=0), first)


def test_a_reporter_receives_stages_and_messages(photos):
    reporter = RecordingReporter()
    tune(photos, **SPT, reporter=reporter)
    stages = dict(reporter.stages)
    expected = [
        "loading embedded/mae",
        "reading images",
        "building spt",
        "initialising from the training images",
        "evaluating on the test images",
    ]
    assert [name for name in stages if name in expected] == expected
    assert stages["reading images"][-1] == (16, 16)
    assert stages["evaluating on the test images"][-1] == (8, 8)
    notes = [line for line in reporter.messages if "held out 8 images of 32" in line]
    assert len(notes) == 1
    assert reporter.messages[-1].startswith("epoch 2/2  loss ")


def test_every_choice_is_kept_with_the_results(photos):
    results = tune(photos, **LINEAR | {"shots": 7, "holdout": 0.5}).results
    notes = " ".join(results["notes"])
    assert "held out 16 images of 32 for testing (50% of each class, seed 1)" in notes
    assert "Drew up to 7 training images per class (seed 1): 16 in all." in notes
    assert "Fewer than 7 training images in 4 of 4 classes." in notes
    assert results["backbone_note"] in notes


@pytest.mark.parametrize(
    ("classes", "names", "train"),
    [("base", ["blue", "dark red"], 4), ("new", ["green apple", "猫, klein"], 4), ("all", None, 8)],
)
def test_halves_of_the_classes(photos, classes, names, train):
    results = tune(photos, **LINEAR | {"classes": classes}).results
    assert results["images"]["train"] == train
    assert results["images"]["test"] == train
    assert names is None or results["classes"] == names


def test_zero_shots_take_all(split_photos):
    assert tune(split_photos, **LINEAR | {"shots": 0}).results["images"] == {"train": 12, "val": 6, "test": 8}
    assert tune(split_photos, **LINEAR).results["images"] == {"train": 4, "val": 4, "test": 8}


def test_a_recipe_can_be_given(photos):
    recipe = load_recipe("linear").changed({"backbone": "embedded/mae", "epochs": 1, "seed": 4})
    tuned = tune(photos, recipe=recipe, lr=0.5)
    assert (tuned.recipe["lr"], tuned.recipe["seed"], tuned.recipe["epochs"]) == (0.5, 4, 1)


def test_options_are_merged_over_the_recipe(photos):
    tuned = tune(photos, **COOP | {"options": {"class_token_position": "front"}})
    assert tuned.method.options.class_token_position == "front"
    assert tuned.method.options.init_text == "a photo of a", "the recipe's, untouched"


def test_imagenet_statistics(photos):
    tuned = tune(photos, **COOP, statistics="imagenet")
    assert tuned.preprocess.mean == (0.485, 0.456, 0.406)
    assert tuned.recipe["statistics"] == "imagenet"
    assert load_backbone("embedded/clip").preprocess.mean != tuned.preprocess.mean


class TestChoices:
    def test_best_on_val(self, split_photos):
        settings = LINEAR | {"epochs": 5, "lr": 0.3}
        best = tune(split_photos, **settings, select="best-val")
        accuracies = [record["val_accuracy"] for record in best.results["history"]]
        epoch = best.results["best_epoch"]
        assert best.results["weights"] == "best-val"
        assert accuracies[epoch - 1] == max(accuracies)
        assert max(accuracies) not in accuracies[: epoch - 1], "the first on a tie"
        last = tune(split_photos, **settings)
        assert last.results["weights"] == "last"
        assert equal(best, last) is (epoch == 5)

    def test_the_average_over_the_steps(self, photos):
        plain, average = tune(photos, **LINEAR), tune(photos, **LINEAR, ema_decay=0.5)
        assert average.results["weights"] == "ema"
        assert not equal(plain, average)

    def test_parts_of_a_batch_give_the_whole_batch(self, photos):
        settings = COOP | {"batch_size": 12}
        whole, parts = tune(photos, **settings), tune(photos, **settings, accumulate=3)
        for name, tensor in tensors(whole).items():  # float32: the gradient is summed in another order
            torch.testing.assert_close(tensors(parts)[name], tensor, rtol=0, atol=1e-5)

    def test_bfloat16(self, photos):
        tuned = tune(photos, **COOP, precision="bf16-mixed")
        assert all(tensor.dtype == torch.float32 for tensor in tensors(tuned).values())
        assert np.isfinite(tuned.results["history"][-1]["loss"])

    def test_one_epoch(self, photos):
        for method in ("vpt-shallow", "spt-kmeans", "gatevpt"):
            settings = SPT | {"method": method, "epochs": 1}
            assert len(tune(photos, **settings).results["history"]) == 1

    def test_nothing_to_train(self, photos):
        results = tune(photos, method="zero-shot-ensemble", backbone="embedded/clip").results
        assert (results["weights"], results["history"], results["trainable_parameters"]) == ("untouched", [], 0)
        assert results["tuned"]["total"] == results["zero_shot"]["total"] == 8


@pytest.fixture
def panoramas(tmp_path):
    """Grey images of two classes, five times as wide as high, that differ in the colour of their left end only."""
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        (tmp_path / name).mkdir()
        for seed in range(8):
            image = photo((120, 120, 120), seed).resize((160, 32))
            image.paste(colour, (0, 0, 40, 32))
            image.save(tmp_path / name / f"{seed}.png")
    return tmp_path


class TestResizing:
    @pytest.mark.parametrize(("resize", "mode"), [("pad", "pad"), ("squash", "squash"), ("crop", "shortest")])
    def test_decides_what_training_and_prediction_see(self, panoramas, tmp_path, resize, mode):
        tuned = tune(panoramas, **RIDGE, resize=resize, out=tmp_path / "out")
        loaded = selfprompt.load(tmp_path / "out")
        assert loaded.preprocess.mode == tuned.results["preprocess"]["mode"] == mode
        assert loaded.recipe["resize"] == resize
        expected = 50 if resize == "crop" else 100  # the centre shows nothing of the difference
        assert tuned.results["tuned"]["accuracy"] == loaded.evaluate(panoramas).accuracy == expected

    def test_to_a_larger_size_than_the_crop_is_stored(self, panoramas, tmp_path):
        backbone = load_backbone("embedded/mae")
        squashing = replace(backbone, preprocess=replace(backbone.preprocess, mode="squash", resize=80))
        kept = tune(panoramas, **RIDGE | {"backbone": squashing}, out=tmp_path / "kept")
        assert kept.preprocess == selfprompt.load(tmp_path / "kept").preprocess == squashing.preprocess
        cropped = tune(panoramas, **RIDGE | {"backbone": squashing}, resize="crop")  # a choice replaces all of it
        assert cropped.preprocess == backbone.preprocess
        chosen = tune(panoramas, **RIDGE, resize=72, out=tmp_path / "chosen")
        assert selfprompt.load(tmp_path / "chosen").preprocess == chosen.preprocess
        assert (chosen.preprocess.size, chosen.preprocess.resize) == (64, 72)
        with pytest.raises(ValueError, match="at least the 64 pixels that are cropped, got 63"):
            tune(panoramas, **RIDGE, resize=63)

    def test_is_that_of_the_backbone_by_default(self, panoramas):
        tuned = tune(panoramas, **RIDGE)
        assert tuned.preprocess == load_backbone("embedded/mae").preprocess

    def test_random_views_are_options_of_their_own(self, photos):
        plain = tune(photos, **LINEAR, augment="none")
        assert equal(plain, tune(photos, **LINEAR, crop=1.0, flip=False))
        assert not equal(plain, tune(photos, **LINEAR, augment="none", flip=True))
        published = tune(photos, **LINEAR, published=True)
        assert equal(published, tune(photos, **LINEAR, published=True, augment="none", crop=0.08, flip=True))
        assert not equal(published, tune(photos, **LINEAR, published=True, crop=1.0, flip=False))

    def test_a_run_is_not_resumed_with_another_one(self, panoramas, tmp_path):
        class Impatient(RecordingReporter):
            def message(self, line):
                if line.startswith("epoch 1/"):
                    raise KeyboardInterrupt

        settings = LINEAR | {"resize": "pad", "out": tmp_path / "out"}
        with pytest.raises(KeyboardInterrupt):
            tune(panoramas, **settings, reporter=Impatient())
        with pytest.raises(ValueError, match="resize was 'pad' and is absent"):
            tune(panoramas, **settings | {"resize": "backbone"}, resume=True)
        tune(panoramas, **settings, resume=True)


class TestImageSize:
    def test_is_stored_and_read_back(self, photos, tmp_path):
        tuned = tune(photos, **RIDGE, image_size=32, out=tmp_path / "out")
        loaded = selfprompt.load(tmp_path / "out")
        assert (loaded.preprocess.size, loaded.method.image_size, loaded.recipe["image_size"]) == (32, (32, 32), 32)
        assert (
            tuned.results["backbone"]["image_size"] == read_artifact(tmp_path / "out").config["backbone"]["image_size"]
        )
        assert loaded.evaluate(photos).accuracy == tuned.evaluate(photos).accuracy
        own = tune(photos, **RIDGE, out=tmp_path / "own")
        assert own.results["backbone"]["fingerprint"] != tuned.results["backbone"]["fingerprint"]
        assert "image_size" not in read_artifact(tmp_path / "own").config["backbone"]
        assert load_recipe(str(tmp_path / "out" / "recipe.yaml")).image_size == 32

    def test_of_a_loaded_backbone_is_kept(self, photos, tmp_path):
        backbone = load_backbone("embedded/mae", image_size=32)
        tuned = tune(photos, **RIDGE | {"backbone": backbone}, out=tmp_path / "out")
        assert selfprompt.load(tmp_path / "out").method.backbone.fingerprint == tuned.method.backbone.fingerprint
        assert tuned.recipe["image_size"] == 32
        with pytest.raises(
            ValueError, match=r"64 for a loaded one of 32 pixels; use load_backbone\('embedded/mae', image"
        ):
            tune(photos, **RIDGE | {"backbone": backbone}, image_size=64)

    def test_must_suit_the_patches(self, photos):
        with pytest.raises(ValueError, match=r"image_size must be a multiple of 8, .*: 32 or 40, got 33"):
            tune(photos, **RIDGE, image_size=33)
        with pytest.raises(ValueError, match="image_size must be a whole number or null, got '32'"):
            tune(photos, **RIDGE, image_size="32")

    def test_holds_for_the_candidates_of_auto(self, photos):
        tuned = tune(photos, backbone="embedded/mae", image_size=32, options={"candidates": ["ridge"], "views": []})
        assert (tuned.method.image_size, tuned.recipe["image_size"]) == ((32, 32), 32)


class TestInterrupted:
    def test_a_resumed_run_ends_with_the_same_tensors(self, photos, tmp_path):
        class Impatient(RecordingReporter):
            def message(self, line):
                if line.startswith("epoch 2/"):
                    raise KeyboardInterrupt
                super().message(line)

        settings = SPT | {"epochs": 4, "ema_decay": 0.9}
        with pytest.raises(KeyboardInterrupt):
            tune(photos, **settings, out=tmp_path / "out", reporter=Impatient())
        assert not (tmp_path / "out" / "result.json").exists()
        with pytest.raises(ValueError, match=r"holds an unfinished run\. Resume it with"):
            tune(photos, **settings, out=tmp_path / "out")
        reporter = RecordingReporter()
        resumed = tune(photos, **settings, out=tmp_path / "out", resume=True, reporter=reporter)
        assert "resuming from the last checkpoint" in reporter.messages
        assert not [line for line in reporter.messages if line.startswith("epoch 2/")]
        assert "initialising from the training images" not in [name for name, _ in reporter.stages]
        assert equal(resumed, tune(photos, **settings))
        assert equal(resumed, selfprompt.load(tmp_path / "out"))
        assert not (tmp_path / "out" / "checkpoint.safetensors").exists()
        assert [record["epoch"] for record in resumed.results["history"]] == [1, 2, 3, 4]

    def test_resuming_needs_a_folder(self, photos):
        with pytest.raises(ValueError, match="resume needs out, the folder of the interrupted run"):
            tune(photos, **LINEAR, resume=True)


class TestData:
    def test_a_list_of_images(self, tmp_path):
        pairs = [(photo(colour, seed), name) for name, colour in COLOURS.items() for seed in range(4)]
        results = tune(pairs, **LINEAR).results
        assert results["images"] == {"train": 8, "val": 0, "test": 4}
        assert results["data_key"] == ""

    def test_a_data_set_object_for_each_split(self):
        class Pictures:
            classes = ("red", "blue")

            def __len__(self):
                return 6

            def __getitem__(self, index):
                return photo(list(COLOURS.values())[2 * (index % 2)], index), index % 2

        tuned = tune({"train": Pictures(), "test": Pictures()}, **LINEAR | {"lr": 0.05, "epochs": 10})
        assert tuned.classes == ("red", "blue")
        assert tuned.results["images"] == {"train": 4, "val": 0, "test": 6}
        assert tuned.results["tuned"]["accuracy"] == 100

    def test_names_that_are_one_to_the_model(self):
        """A head that reads no names is trained nevertheless, and a message says what the text tower cannot do."""
        pairs = [
            (photo(COLOURS["blue" if name == "Cat" else "dark_red"], seed), name)
            for name in ("Cat", "cat")
            for seed in range(4)
        ]
        with pytest.raises(ValueError, match="'Cat' and 'cat' are the same tokens to embedded/clip"):
            tune(pairs, **COOP)
        reporter = RecordingReporter()
        tuned = tune(pairs, **LINEAR | {"backbone": "embedded/clip"}, reporter=reporter)
        assert (tuned.classes, tuned.results["zero_shot"]) == (("Cat", "cat"), None)
        assert any(
            line.startswith("Class names that differ only in case: 'Cat' and 'cat'.") for line in reporter.messages
        )
        assert any(
            line.startswith("No zero-shot accuracy: The class names 'Cat' and 'cat'") for line in reporter.messages
        )

    def test_gray_images_in_a_folder(self, tmp_path):
        root = write_photos(tmp_path / "photos", {"a": 3, "b": 3})
        Image.open(root / "a" / "0.png").convert("L").save(root / "a" / "0.png")
        assert tune(root, **LINEAR).results["images"]["train"] == 4


WRONG = {
    "unknown name": ({"epohcs": 3}, "unknown key 'epohcs'. Did you mean 'epochs'?"),
    "wrong kind": ({"epochs": "3"}, "epochs must be a whole number, got '3'."),
    "unknown method": ({"method": "seep"}, "Unknown method or recipe 'seep'. Did you mean 'sep'?"),
    "unknown backbone": ({"backbone": "embedded/vit"}, "Unknown backbone 'embedded/vit'."),
    "unknown option": ({"options": {"prompts": 2}}, "linear has no option 'prompts'."),
    "own method that is none": ({"method": "json:loads"}, "'json:loads' must name a subclass of"),
    "own method that is not there": ({"method": "nowhere:Mine"}, "'nowhere:Mine' could not be imported"),
    "unreadable names": ({"class_names": "none.txt"}, "none.txt must be a readable UTF-8 text file"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_arguments_are_refused(fault, photos, tmp_path):
    changes, message = WRONG[fault]
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the message is compared below)
        tune(photos, **LINEAR | changes, out=tmp_path / "out")
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_build_method_takes_a_recipes_name_and_a_backbones_name():
    method = selfprompt.build_method("sep-authors", "embedded/clip", ["cat", "dog"], text_prompts=2)
    assert method.traits.batch_independent is False
    assert method.options.text_prompts == 2
    assert method.image_size == (64, 64)
    assert method(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
    deep = selfprompt.build_method("spt", load_backbone("embedded/mae"), ["cat", "dog"], prompts=2)
    assert deep.traits.batch_independent
    loss = deep.loss(Views(torch.zeros(2, 3, 64, 64), labels=torch.tensor([0, 1])))
    assert loss.total.requires_grad


def test_public_names_are_there_and_no_others():
    assert all(hasattr(selfprompt, name) for name in selfprompt.__all__)
    with pytest.raises(AttributeError, match="module 'selfprompt' has no attribute 'nonsense'"):
        _ = selfprompt.nonsense
