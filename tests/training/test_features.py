"""Training on frozen features that are kept: the same results, each view run once, the same bits on resuming."""

import pytest
import torch

from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.views import Views
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.identity import checkpoint_identity
from selfprompt.training.loop import FitResult, fit
from tests.training.tiny import FrozenMethod, TinyMethod, batches, state, validation

TRAIN, VAL = 21, 20
VIEWS = [{"augment": False}, {"views": 2}]
views = pytest.mark.parametrize("views", VIEWS, ids=["none", "two"])


def run(method: TinyMethod, store: FeatureStore | None, views: dict[str, int], **changes) -> FitResult:
    own = {name: changes.pop(name) for name in ("run_dir", "resume") if name in changes}
    options = {"epochs": 6, "batch_size": 8, "lr": 0.05, "device": "cpu", "views": views.get("views", 0)}
    train = batches(TRAIN, features=store, **views)
    return fit(method, train, validation(features=store), TrainOptions(**options | changes), progress=False, **own)


def far(one: TinyMethod, other: TinyMethod) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(state(one).values(), state(other).values(), strict=True))


@views
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"optimizer": "adamw", "ema_decay": 0.8}], ids=str)
def test_the_frozen_layer_sees_each_view_once_and_the_run_is_the_same(views, changes):
    plain, kept = TinyMethod(), FrozenMethod()
    expected, result = run(plain, None, views, **changes), run(kept, FeatureStore(), views, **changes)
    assert kept.vision.seen == TRAIN * views.get("views", 1) + VAL
    assert far(plain, kept) < 1e-5  # float32: another batch around an image
    assert [r["loss"] for r in result.history] == pytest.approx([r["loss"] for r in expected.history], abs=1e-5)
    assert [r["val_accuracy"] for r in result.history] == [r["val_accuracy"] for r in expected.history]


@views
def test_without_a_store_or_with_new_views_the_method_runs_it_itself(views):
    method, other = FrozenMethod(), FrozenMethod()
    run(method, None, views)
    run(other, FeatureStore(), {})
    assert method.vision.seen == 6 * (TRAIN + VAL)
    assert other.vision.seen == 6 * TRAIN + VAL


@views
def test_a_resumed_run_meets_the_same_bits(tmp_path, views):
    class Stop(Exception):
        pass

    class Stopping(FrozenMethod):
        def after_epoch(self, epoch, epochs):
            if epoch == 3:
                raise Stop

    straight, resumed = FrozenMethod(dropout=0.3), FrozenMethod(dropout=0.3)
    whole = run(straight, FeatureStore(), views, select="best-val")
    with pytest.raises(Stop):
        run(Stopping(dropout=0.3), FeatureStore(), views, select="best-val", run_dir=tmp_path)
    result = run(resumed, FeatureStore(), views, select="best-val", run_dir=tmp_path, resume=True)
    assert result.resumed_from == 3
    assert all(torch.equal(state(straight)[name], tensor) for name, tensor in state(resumed).items())
    assert [r["loss"] for r in result.history] == [r["loss"] for r in whole.history]


def test_a_checkpoint_from_before_there_were_views_is_gone_on_with():
    before = checkpoint_identity(TinyMethod(), 3, TrainOptions(), 1, None)
    assert "views" not in before["train"]
    assert checkpoint_identity(TinyMethod(), 3, TrainOptions(views=2), 1, None)["train"]["views"] == 2


def test_a_batch_is_cut_with_its_features():
    labels, features = torch.arange(5), torch.arange(10.0).reshape(5, 2)
    batch = Views(None, features, labels, torch.arange(7, 12))
    pieces = batch.chunk(2)
    assert [len(piece) for piece in pieces] == [3, 2]
    for name in ("features", "labels", "indices"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    assert [len(tensor) for tensor in vars(batch.rows(0, 1)).values() if tensor is not None] == [1, 1, 1]
    assert [piece.features for piece in Views(torch.rand(5, 3), labels=labels).chunk(2)] == [None, None]
    assert [len(piece) for piece in Views(torch.rand(0, 3)).chunk(2)] == [0]


def test_pixels_that_are_not_there_are_named():
    with pytest.raises(RuntimeError, match="no pixels: a method that reads them has traits with inputs='both'"):
        _ = Views(features=torch.rand(2, 4)).pixels
    with pytest.raises(ValueError, match="need pixels, features or labels"):
        Views()
