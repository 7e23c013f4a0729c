"""Calibrated answers: right probabilities, "unknown" and sets of classes at the promised rates, from file to output."""

import copy
import csv
import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from scipy.stats import binom

import selfprompt
from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.inference.artifact import CONFIG
from selfprompt.inference.calibration import Calibration, calibrated_metrics, class_sets, is_unknown
from selfprompt.inference.predictions import UNKNOWN, Request
from selfprompt.inference.record_checks import MAX_CALIBRATION
from selfprompt.inference.schema import check_config
from selfprompt.metrics import Metrics
from selfprompt.training import crossfit
from selfprompt.training.calibrate import fit_calibration, fit_temperature, logits_in_scale
from tests.conftest import ran, write_photos


def draw(images: int, classes: int, seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax at temperature ``scale`` is the truth, and labels drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return scale * logits, labels


class TestTemperature:
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
    def test_is_found_whatever_the_scale_of_the_logits(self, scale):
        assert fit_temperature(*draw(5000, 5, 0, scale)) == pytest.approx(scale, rel=0.05)

    def test_is_the_minimum_of_the_cross_entropy(self):
        logits, labels = draw(400, 4, 1)
        best = fit_temperature(logits, labels)

        def loss(temperature):
            log_p = (logits.double() / temperature).log_softmax(dim=1)
            return -(log_p.gather(1, labels[:, None]).sum() + log_p.mean(dim=1).mean())  # one more image of all classes

        assert loss(best) < min(loss(0.999 * best), loss(1.001 * best))

    def test_perfect_logits_of_few_images_do_not_claim_certainty(self):
        logits, labels = torch.eye(4).repeat(2, 1), torch.arange(4).repeat(2)
        p = (logits / fit_temperature(logits, labels)).softmax(dim=1).amax(dim=1)
        assert 0.7 < float(p.min()) < 0.95  # 8 images of 8 right, and a ninth with all labels

    def test_logits_that_say_nothing_become_nearly_equal_probabilities(self):
        logits = torch.eye(4)
        p = (logits / fit_temperature(logits, torch.tensor([1, 2, 3, 0]))).softmax(dim=1)
        assert float(p.max()) < 0.251
        assert fit_temperature(torch.zeros(3, 4), torch.tensor([0, 1, 2])) == 1.0


def share_held(test, runs: int = 200, images: int = 60) -> list[float]:
    """Values of ``test(calibration, logits, labels)`` for calibrations from ``images`` images and as many new ones."""
    values = []
    for seed in range(runs):
        logits, labels = draw(2 * images, 5, seed)
        calibration = fit_calibration(logits[:images], labels[:images], "cross-validation", temperature=3.0)
        values.append(float(test(calibration, logits[images:], labels[images:]).mean()))
    return values


class TestPromises:
    """200 calibrations from 60 images: the mean share over all new images is the one promised."""

    @pytest.mark.parametrize("rate", [0.02, 0.05, 0.3])
    def test_known_images_are_refused_at_the_promised_rate(self, rate):
        shares = share_held(lambda calibration, logits, _: is_unknown(logits, calibration, rate))
        promised = math.floor(61 * rate) / 61
        assert 0.4 * promised - 0.01 < sum(shares) / 200 < promised + 0.005

    @pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
    def test_sets_contain_the_true_class_at_the_promised_rate(self, coverage):
        shares = share_held(
            lambda calibration, logits, labels: class_sets(logits, calibration, coverage)[range(len(labels)), labels]
        )
        mean, least = sum(shares) / 200, binom.ppf(1e-4, 12_000, coverage) / 12_000 - 0.01
        assert least <= mean
        if coverage > 0.7:  # below the accuracy, the most likely class alone covers more
            assert mean <= coverage + 0.03

    def test_a_set_always_has_the_most_likely_class(self):
        logits, _ = draw(100, 5, 0)
        sets = class_sets(logits, fit_calibration(10 * logits, logits.argmax(dim=1), "cross-validation"), 0.1)
        assert sets[range(100), logits.argmax(dim=1)].all()

    def test_images_with_small_logits_or_probabilities_are_unknown(self):
        logits, labels = draw(100, 5, 0)
        calibration = fit_calibration(logits, labels, "cross-validation")
        order = logits.amax(dim=1).argsort()
        assert is_unknown(logits[order[:2]] - 3, calibration, 0.05).all(), "the same probabilities, smaller logits"
        flat = torch.full((1, 5), float(logits.max()))
        assert is_unknown(flat, calibration, 0.05).all(), "large logits, equal probabilities"
        assert not is_unknown(logits[order[-5:]], calibration, 0.05).any()

    def test_an_image_has_the_smaller_of_two_places(self):
        calibration = Calibration(1.0, (1.0, 2.0, 3.0), (0.9, 0.5, 0.7), (0.1, 0.2, 0.3))
        assert calibration.typicalities == (0.25, 0.5, 1.5)  # places (0, 2), (1, 0), (2, 1)
        logits = torch.tensor([[2.5, 0.0], [9.0, 8.9], [0.0, -9.0]])  # places (2, 3), (3, 1), (0, 3)
        assert calibration.typicality(logits).tolist() == [2.75, 1.75, 0.75]
        assert [calibration.least_typicality(rate) for rate in (0.2, 0.25, 0.5)] == [-math.inf, 0.25, 0.5]

    def test_too_few_images_promise_trivially_and_say_so(self):
        calibration = fit_calibration(*draw(18, 5, 0), "cross-validation")
        assert calibration.least_typicality(0.05) == -math.inf
        assert calibration.largest_surprise(0.95) == math.inf
        unknown, coverage = calibration.remarks(0.05, 0.95)
        assert "unknown 0.05 refuses nothing: that needs a calibration with 19 images" in unknown
        assert "has 18. Allow 0.06 or more" in unknown
        assert "coverage 0.95 gives all classes" in coverage
        assert "19 images" in coverage
        larger = fit_calibration(*draw(19, 5, 0), "cross-validation")
        assert not larger.remarks(0.05, 0.95)
        assert not calibration.remarks(0.06, None)

    def test_of_very_many_images_a_sample_is_kept(self):
        logits, labels = draw(MAX_CALIBRATION + 500, 3, 0)
        assert fit_calibration(logits, labels, "cross-validation").images == MAX_CALIBRATION


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unknown": 0.0}, "unknown must lie between 0 and 1, got 0"),
        ({"unknown": 1.5}, "unknown must lie between 0 and 1, got 1.5"),
        ({"coverage": 1.0}, "coverage must lie between 0 and 1, got 1"),
        ({"coverage": math.nan}, "coverage must lie between 0 and 1, got nan"),
        ({"coverage": 0.9, "top": 3}, "top cannot be set with coverage"),
    ],
)
def test_wrong_requests_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Request(**values)


def test_metrics_tell_what_the_promises_came_to():
    logits, labels = draw(1000, 5, 0)
    calibration = fit_calibration(*draw(1000, 5, 1), "cross-validation")
    metrics = calibrated_metrics(logits, labels, tuple("abcde"), calibration)
    check = metrics.calibration
    assert check.error_before > 0.1 > 0.05 > metrics.calibration_error
    assert (check.unknown, check.coverage, check.calibration_images) == (5, 90, 1000)
    assert check.refused == pytest.approx(5, abs=3)
    assert check.covered == pytest.approx(90, abs=4)
    assert 1 < check.set_size < 5
    assert Metrics.from_json(json.loads(json.dumps(metrics.to_json()))) == metrics


TRAINED = {"method": "linear", "backbone": "embedded/clip", "epochs": 20, "lr": 0.1, "augment": "none", "workers": 0}
SOLVED = {"method": "ridge", "backbone": "embedded/clip", "workers": 0}


class TestWhereTheScoresComeFrom:
    """Heads are cross-validated, trained methods only on demand."""

    def test_a_head_is_cross_validated(self, photos):
        classifier = selfprompt.tune(photos, **SOLVED)
        calibration = classifier.calibration
        assert (calibration.images, calibration.source) == (classifier.results["images"]["train"], "cross-validation")
        assert "calibration" in classifier.results["tuned"]

    def test_with_new_folds_the_same_seed_gives_the_same_calibration(self, photos):
        first, second = (selfprompt.tune(photos, **SOLVED, seed=3).calibration for _ in range(2))
        assert first.temperature == pytest.approx(second.temperature)
        assert first.surprises == pytest.approx(second.surprises)

    def test_a_trained_method_is_calibrated_only_on_demand(self, photos, run, tmp_path):
        settings = [word for key, value in TRAINED.items() for word in (f"--{key}", value)]
        done = run("train", photos, "--out", tmp_path / "plain", *settings)
        assert done.status == 0
        assert run("predict", tmp_path / "plain", photos, "--unknown", 0.05).status == 1
        assert run("train", photos, "--out", tmp_path / "always", *settings, "--calibrate", "always").status == 0
        calibration = selfprompt.load(tmp_path / "always").calibration
        assert (calibration.images, calibration.source) == (24, "cross-validation")

    def test_one_image_a_class_gives_none(self, photos):
        assert selfprompt.tune(photos, **SOLVED, shots=1).calibration is None

    def test_the_scale_of_a_trained_fold_does_not_matter(self, photos, monkeypatch):
        """A fold whose training was shorter has smaller logits than the final model."""
        settings = {**TRAINED, "calibrate": "always", "shots": 4}
        usual, plain = crossfit.compute_logits, selfprompt.tune(photos, **settings)
        images = plain.results["images"]["train"]

        def smaller(method, batches, **named):
            return usual(method, batches, **named) * (1.0 if len(batches.labels) == images else 0.1)

        monkeypatch.setattr(crossfit, "compute_logits", smaller)
        scaled = selfprompt.tune(photos, **settings)
        assert scaled.calibration.temperature == pytest.approx(plain.calibration.temperature, rel=1e-3)

    def test_logits_of_a_fold_get_the_scale_of_the_final_model(self):
        labels = torch.arange(30) % 3
        known = KnownFeatures(torch.eye(3)[labels] + 0.1 * torch.randn(30, 3, generator=torch.Generator()), labels)
        split = [(torch.arange(10, 30), torch.arange(10)), (torch.arange(20), torch.arange(20, 30))]
        final = ScaledByImages(30)
        logits = logits_in_scale(final, ScaledByImages(0), known, split, 0, lambda done, total: None)
        assert logits[10:20].isnan().all(), "these are in no fold"
        assert torch.allclose(logits[:10], 30 * known.features[:10], rtol=0.2)
        assert not torch.allclose(logits[:10], 20 * known.features[:10], rtol=0.2)


class ScaledByImages:
    """A method whose logits are the features times the number of training images."""

    classes = ("a", "b", "c")

    def __init__(self, images: int) -> None:
        self.images = images

    def prepare(self, source: KnownFeatures, generator: torch.Generator) -> None:
        self.images = source.size

    def eval(self) -> "ScaledByImages":
        return self

    def logits(self, views: Views) -> torch.Tensor:
        return self.images * views.features


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder of photos with validation images, and a classifier tuned on them."""
    root = tmp_path_factory.mktemp("calibrated")
    for split, count in (("train", 8), ("val", 20), ("test", 10)):
        write_photos(root / "photos" / split, {"dark_red": count, "blue": count, "green apple": count})
    selfprompt.tune(root / "photos", out=root / "out", **TRAINED, shots=0)
    return root


class TestClassifier:
    def test_is_calibrated_on_validation_images(self, calibrated):
        classifier = selfprompt.load(calibrated / "out")
        assert (classifier.calibration.images, classifier.calibration.source) == (60, "validation images")
        check = classifier.results["tuned"]["calibration"]
        assert check["covered"] >= 80
        assert classifier.results["tuned"]["calibration_error"] < 0.1

    def test_comes_back_from_its_folder_with_the_same_answers(self, calibrated, tmp_path):
        before = selfprompt.load(calibrated / "out")
        before.save(tmp_path / "copy")
        after = selfprompt.load(tmp_path / "copy")
        assert after.calibration == before.calibration
        request = {"unknown": 0.1, "coverage": 0.8}
        folder = calibrated / "photos" / "test"
        assert after.predict(folder, **request) == before.predict(folder, **request)

    def test_probabilities_are_calibrated_and_logits_are_not(self, calibrated):
        classifier = selfprompt.load(calibrated / "out")
        plain = replace(classifier, calibration=None)
        image = calibrated / "photos" / "test" / "blue" / "0.png"
        (before,), (after,) = plain.predict(image, top=3), classifier.predict(image, top=3)
        assert before.classes[0] == after.classes[0] == "blue"
        pixels = torch.rand(1, 3, 64, 64)
        assert torch.equal(plain.logits(pixels), classifier.logits(pixels))
        odds = [math.log(one.top[0][1] / one.top[1][1]) for one in (before, after)]
        assert odds[0] / odds[1] == pytest.approx(classifier.calibration.temperature, rel=1e-3)

    def test_answers_unknown_and_gives_sets(self, calibrated):
        classifier = selfprompt.load(calibrated / "out")
        folder = calibrated / "photos" / "test"
        refused = classifier.predict(folder, unknown=0.1)
        assert sum(one.unknown for one in refused) <= 0.3 * len(refused)
        assert all((one.label, one.top, one.score) == (UNKNOWN, (), 0.0) for one in refused if one.unknown)
        assert all(one.label in classifier.classes for one in refused if not one.unknown)
        sets = classifier.predict(folder, coverage=0.98)
        assert {len(one.classes) for one in sets} <= {1, 2, 3}
        assert all(one.label == one.classes[0] for one in sets)

    def test_other_classes_and_older_artifacts_have_no_calibration(self, calibrated, coop, caplog):
        classifier = selfprompt.load(calibrated / "out")
        few = replace(classifier, calibration=fit_calibration(*draw(5, 3, 0), "cross-validation"))
        few.predict(calibrated / "photos" / "test" / "blue", unknown=0.05)
        assert "unknown 0.05 refuses nothing" in caplog.text
        for other in (replace(classifier, calibration=None), selfprompt.load(coop).with_classes(["sea", "wood"])):
            assert other.calibration is None
            with pytest.raises(ValueError, match=r"has no calibration\. Train it again"):
                other.predict(calibrated / "photos" / "test", unknown=0.05)

    def test_never_means_never(self, calibrated):
        classifier = selfprompt.tune(calibrated / "photos", **SOLVED, calibrate="never", shots=0)
        assert classifier.calibration is None
        assert "calibration" not in classifier.results["tuned"]


WRONG = [
    ("temperature", 0.0),
    ("temperature", "1"),
    ("largest_logits", []),
    ("largest_probabilities", [0.5, 1.5]),
    ("largest_probabilities", [0.5]),
    ("surprises", [0.5, 0.1]),
    ("surprises", [1.0]),
    ("largest_logits", [1.0, None]),
    ("surprises", [-1.0, 0.5]),
    ("surprises", [0.5, 1e300]),
    ("source", "a guess"),
    ("extra", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_in_the_file_is_refused_by_its_name(key, value, calibrated):
    config = json.loads((calibrated / "out" / CONFIG).read_text(encoding="utf-8"))
    good = Calibration(2.0, (1.0, 2.0), (0.8, 0.9), (0.1, 0.2)).to_json()
    check_config(config | {"calibration": good})
    changed = copy.deepcopy(good) | {key: value}
    with pytest.raises(ValueError, match=key):
        check_config(config | {"calibration": changed})
    with pytest.raises(ValueError, match=r"calibration\.largest_logits must lie in"):
        check_config(config | {"calibration": good | {"largest_logits": [0.0] * (MAX_CALIBRATION + 1)}})


class TestCommands:
    @pytest.fixture
    def images(self, calibrated, tmp_path):
        """Two known images, and one that is unlike any class."""
        for name in ("blue", "dark_red"):
            (tmp_path / f"{name}.png").write_bytes((calibrated / "photos" / "test" / name / "1.png").read_bytes())
        Image.effect_noise((48, 48), 200).convert("RGB").save(tmp_path / "noise.png")
        return tmp_path

    def test_csv_and_json_name_unknown_images(self, calibrated, images, run):
        command = ["predict", calibrated / "out", images, "--unknown", "0.3", "--format"]
        rows = list(csv.DictReader(io.StringIO(run(*command, "csv").out)))
        unknown = [row for row in rows if row["label"] == UNKNOWN]
        records = json.loads(run(*command, "json").out)
        assert all((row["rank"], row["score"]) == ("", "") for row in unknown)
        assert [row["image"] for row in unknown] == [one["image"] for one in records if one.get("unknown")]
        assert str(images / "noise.png") in [row["image"] for row in unknown]
        assert UNKNOWN in run(*command, "table").out

    def test_the_rows_are_the_set_with_coverage(self, calibrated, images, run):
        done = run("predict", calibrated / "out", images, "--coverage", "0.98", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        found = selfprompt.load(calibrated / "out").predict(images, coverage=0.98)
        assert [row["label"] for row in rows] == [name for one in found for name in one.classes]

    def test_a_job_counts_unknown_images_and_refuses_other_promises(self, calibrated, images, run, tmp_path):
        job = ["predict", calibrated / "out", images, "--out", tmp_path / "job"]
        for form in ("csv", "jsonl"):
            out = tmp_path / form
            assert (
                run("predict", calibrated / "out", images, "--out", out, "--unknown", 0.3, "--format", form).status == 0
            )
            summary = json.loads((out / "summary.json").read_text())
            assert summary["unknown"] + sum(summary["labels"].values()) == 3
            assert summary["unknown"] >= 1
        assert run(*job, "--unknown", 0.3).status == 0
        refused = run(*job, "--unknown", 0.2)
        assert refused.status == 1
        assert "its unknown is 0.3, not 0.2" in refused.err

    def test_wrong_use_ends_with_one_sentence(self, calibrated, linear, images, run):
        wrong = run("predict", calibrated / "out", images, "--unknown", 2)
        assert (wrong.status, "--unknown must lie between 0 and 1, got 2" in wrong.err) == (2, True)
        both = run("predict", calibrated / "out", images, "--coverage", 0.9, "--top", 2)
        assert (both.status, "--top cannot be set with coverage" in both.err) == (2, True)

    def test_eval_shows_what_the_promises_came_to(self, calibrated, run):
        done = run("eval", calibrated / "out", calibrated / "photos")
        assert "--unknown 0.05 refuses" in done.out
        assert "before calibration" in done.out
        record = json.loads(run("eval", calibrated / "out", calibrated / "photos", "--format", "json").out)
        assert record["calibration"]["coverage"] == 90

    @pytest.mark.slow
    def test_a_process_of_its_own_does_the_same(self, calibrated, images):
        done = ran("predict", calibrated / "out", images, "--unknown", "0.01", "--format", "csv")
        assert done.status == 0
        assert "Note: unknown 0.01 refuses nothing: that needs a calibration with 99 images" in done.err
        assert UNKNOWN not in done.out
