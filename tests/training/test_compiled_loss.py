"""A compiled loss: one graph, few of them for batches of several sizes, the same numbers, and clear refusals."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.zero_shot import ZeroShot
from selfprompt.training.compiled_loss import compiled_loss
from tests.methods.tiny import backbone, images, small

recent = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15), reason="an older compiler does not know named tuples"
)
FEW = {"sep": {"layers": (1,)}, "spt": {}}
"""Methods that are compiled, with options that save time."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(method: Method, terms: LossTerms) -> list[Tensor]:
    method.zero_grad()
    terms.total.backward()
    return [p.grad.clone() for p in method.trainable().values() if p.grad is not None]


@recent
@pytest.mark.parametrize("name", FEW)
def test_loss_and_gradients_are_those_of_the_method_and_there_are_few_graphs(name: str) -> None:
    method = small(name, "mae" if name == "spt" else "clip", **FEW[name]).train()
    loss = compiled_loss(method, backend="eager")  # traced as for a GPU, without a C++ compiler's minutes
    for size in (4, 3, 2):
        views = Views(images(size), labels=torch.arange(size))
        expected, found = method.loss(views), loss(views)
        assert (found.total - expected.total).abs() < 1e-5 * expected.total.abs()
        assert found.terms.keys() == expected.terms.keys()
        for ours, theirs in zip(gradients(method, found), gradients(method, expected), strict=True):
            assert (ours - theirs).abs().max() < 1e-4 * max(float(theirs.abs().max()), 1e-3)
    assert counters["stats"]["unique_graphs"] <= 3
    assert not counters["graph_break"]


@recent
def test_the_time_of_the_first_step_is_said() -> None:
    lines: list[str] = []
    loss = compiled_loss(small("coop").train(), log=lines.append, backend="eager")
    for _ in range(2):
        loss(Views(images(2), labels=torch.arange(2)))
    (line,) = lines
    assert line.startswith("compiled the loss in ")


class Asking(ZeroShot):
    """A method that reads a value in its loss, which no graph can hold."""

    def loss(self, views: Views) -> LossTerms:
        torch._dynamo.graph_break()
        return super().loss(views)


def test_a_loss_that_is_no_graph_is_refused() -> None:
    method = Asking(backbone("clip"), ("cat", "dog"), ZeroShot.Options(), torch.Generator())
    with pytest.raises(ValueError, match=r"cannot be compiled to a single graph .* Leave out --compile"):
        compiled_loss(method, backend="eager")(Views(images(2), labels=torch.arange(2)))


@recent
def test_more_graphs_than_pytorch_compiles_are_refused() -> None:
    loss = compiled_loss(small("coop").train(), backend="eager")
    with torch._dynamo.config.patch(recompile_limit=1):
        loss(Views(images(2), labels=torch.arange(2)))
        with pytest.raises(ValueError, match=r"coop needs more graphs than PyTorch compiles .* Leave out --compile"):
            loss(Views(images(3), labels=torch.arange(3) % 2))
