"""GateVPT's prompts: with closed gates they skip blocks, with open ones they are ordinary prompts."""

import pytest
import torch
from torch import Tensor

from selfprompt.models.tokens import Tokens
from selfprompt.prompts.gated import Gated
from selfprompt.prompts.record import Record
from selfprompt.prompts.static import Static
from tests.independent import vit
from tests.prompts.tiny import LAYOUT, random, tower

CLOSED, OPEN = -200.0, 200.0


def watched(gates: Tensor, temperatures: Tensor, count: int = 4) -> tuple[Tensor, Record]:
    record = Record(Gated(random(count, LAYOUT.width), gates, temperatures))
    return tower()(random(2, 3, 32, 32, seed=1), record, pooling="avg"), record


def test_closed_gates_leave_prompts_unchanged() -> None:
    gates = torch.full((LAYOUT.depth - 1,), CLOSED)
    _, record = watched(gates, torch.ones(LAYOUT.depth))
    prompts = random(4, LAYOUT.width).expand(2, -1, -1)
    for entering in record.inputs:
        assert entering.prompts.equal(prompts)
    for index, entering in enumerate(record.inputs[1:]):
        assert entering.others().equal(record.outputs[index].others())  # all other tokens go on
        assert not record.outputs[index].prompts.equal(prompts)


def test_open_gates_give_ordinary_shallow_prompts() -> None:
    features, _ = watched(torch.full((LAYOUT.depth - 1,), OPEN), torch.ones(LAYOUT.depth))
    plain = tower()(random(2, 3, 32, 32, seed=1), Static(random(4, LAYOUT.width)[None]), pooling="avg")
    assert (features - plain).abs().max() < 1e-5


def test_blocks_without_a_gate_let_prompts_through() -> None:
    with_last, _ = watched(torch.tensor([CLOSED, OPEN]), torch.ones(LAYOUT.depth))
    shorter, _ = watched(torch.tensor([CLOSED]), torch.ones(LAYOUT.depth))
    assert (with_last - shorter).abs().max() < 1e-5


def test_gates_and_temperatures_follow_the_published_formula() -> None:
    gates, temperatures = random(LAYOUT.depth - 1, seed=3), random(LAYOUT.depth, seed=4).exp()
    features, _ = watched(gates, temperatures)
    weights, pictures = vit.draw_weights(LAYOUT, 1), random(2, 3, 32, 32, seed=1)
    prompts = random(4, LAYOUT.width)[None]
    expected = vit.run_gated(pictures, weights, LAYOUT, prompts, gates, temperatures, average=True)
    assert (features - expected).abs().max() < 2e-5  # float32 in another order


@pytest.mark.parametrize("gate", [-3.0, 0.0, 2.0])
def test_a_gate_mixes_input_and_output(gate: float) -> None:
    gated = Gated(random(2, 4), torch.tensor([gate]), torch.ones(2))
    tokens = gated.start(Tokens(random(3, 5, 4, seed=1), prefix=1))
    after = gated.layer(0, lambda stream, temperature: stream._replace(x=-3 * stream.x), tokens)
    share = torch.sigmoid(torch.tensor(gate))
    assert (after.prompts - (1 - 4 * share) * tokens.prompts).abs().max() < 1e-6
    assert after.others().equal(-3 * tokens.others())
