import json
from pathlib import Path

import pytest
import torch
from torch import nn

from selfprompt.recipes.options import TrainOptions
from selfprompt.training.optim import build_optimizer, parameter_groups

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "spt_param_groups.json").read_text())["groups"]


def shaped(golden: list[dict]) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the golden names; only whether there is one axis or more is in them."""
    named = []
    for group in golden:
        for name in group["names"]:
            vector = name.endswith(".bias") or "norm" in name
            named.append((name, nn.Parameter(torch.zeros(3) if vector else torch.zeros(3, 3))))
    return named


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_groups_are_those_of_spt(case):
    golden = GOLDEN[case]
    options = TrainOptions(
        decay="weights", weight_decay=golden[1]["weight_decay"], head_weight_decay=golden[2]["weight_decay"]
    )
    named = shaped(golden)
    groups = parameter_groups(iter(sorted(named, key=lambda pair: pair[0])), options)
    assert [group["weight_decay"] for group in groups] == [group["weight_decay"] for group in golden]
    assert [sorted(group["names"]) for group in groups] == [sorted(group["names"]) for group in golden]
    for group in groups:
        assert [dict(named)[name] is p for name, p in zip(group["names"], group["params"], strict=True)] == [
            True
        ] * len(group["params"])


def test_order_within_a_group_is_that_of_the_parameters():
    named = [(name, nn.Parameter(torch.zeros(2, 2))) for name in ("c", "a", "b")]
    (group,) = parameter_groups(named, TrainOptions())
    assert group["names"] == ["c", "a", "b"]


def test_only_a_module_called_head_is_a_head():
    names = ["head.weight", "model.head.weight", "overhead.weight", "heads.weight", "ahead"]
    named = [(name, nn.Parameter(torch.zeros(2, 2))) for name in names]
    groups = parameter_groups(named, TrainOptions(decay="weights", weight_decay=0.1, head_weight_decay=0.5))
    assert groups[2]["names"] == ["head.weight", "model.head.weight"]


def test_without_a_separate_decay_the_head_has_that_of_the_others():
    groups = parameter_groups([], TrainOptions(decay="weights", weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1, 0.1]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_parameter_without_a_gradient_is_skipped_decay_included(name):
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    options = TrainOptions(optimizer=name, lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer([("used", used), ("unused", unused)], options)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))


def test_adam_puts_decay_into_the_gradient_and_adamw_does_not():
    results = {}
    for name in ("adam", "adamw"):
        weight = nn.Parameter(torch.ones(1, 1))
        optimizer = build_optimizer([("weight", weight)], TrainOptions(optimizer=name, lr=0.1, weight_decay=0.5))
        (0.0 * weight).sum().backward()
        optimizer.step()
        results[name] = weight.item()
    assert results["adam"] == pytest.approx(0.9), "the sign of the decay term times lr"
    assert results["adamw"] == pytest.approx(0.95), "lr times decay"


def test_the_options_reach_the_optimizer():
    named = [("a", nn.Parameter(torch.zeros(2, 2)))]
    sgd = build_optimizer(named, TrainOptions(momentum=0.8, lr=0.3))
    assert sgd.defaults["momentum"] == 0.8
    assert sgd.defaults["lr"] == 0.3
    adam = build_optimizer(named, TrainOptions(optimizer="adam", eps=1e-3))
    assert adam.defaults["eps"] == 1e-3


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="There is nothing to train"):
        build_optimizer([], TrainOptions())
