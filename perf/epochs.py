"""Epochs over fixed views: ours with cached frozen features, the baseline's with images."""

from collections.abc import Callable, Mapping

from torch import Tensor

from perf.cases import Size
from perf.plain_coop import PlainCoOp
from perf.plain_vit import PlainPrompted
from perf.setup import Contenders, PerfSetup, compare_losses, epoch_counter, random_items, sgd, training_step
from perf.timing import Work
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.methods.base import Method


def epochs(
    setup: PerfSetup, size: Size, method: Method, make_plain: Callable[[], PlainCoOp | PlainPrompted]
) -> Contenders:
    """Build the contenders of an epoch: ours reads cached frozen features, the baseline the images."""
    preprocess = method.backbone.preprocess
    items = random_items(size.images, size.classes, preprocess.size)
    store, transform = ImageStore(), eval_transform(preprocess)
    cached = Batches(items, store, transform, size.batch, shuffle=True, features=FeatureStore())
    pixels = Batches(items, store, transform, size.batch, shuffle=True)
    next_epoch, next_plain = epoch_counter(), epoch_counter()

    loss = setup.loss(method)
    step = training_step(setup, lambda views: loss(views).total, sgd(method))

    def ours() -> None:
        for views in method.views(cached, next_epoch()):
            step(views)

    def plain_at(_: int) -> Work:
        plain = make_plain()
        plain_step = training_step(setup, lambda *batch: plain.loss(*batch)[0], sgd(plain))

        def epoch() -> None:
            for views in pixels.epoch(next_plain()):
                plain_step(views.pixels.to(setup.device), views.labels.to(setup.device))

        return epoch

    def compare() -> Mapping[str, float]:
        plain = make_plain()
        views = next(pixels.epoch(0)).to(setup.device)
        known = next(method.views(cached, 0))

        def own() -> tuple[Tensor, Tensor | None]:
            terms = method.loss(known)
            return terms.total, terms.logits

        return compare_losses(plain, lambda: plain.loss(views.pixels, views.labels), method, own)

    return Contenders(ours, plain_at, compare, size.images)
