import contextlib

import pytest
import torch

from selfprompt.training.ema import Ema, overwrite
from tests.training.tiny import TinyMethod


def test_the_average_follows_its_formula():
    tensors = {"a": torch.tensor([1.0, 2.0])}
    ema = Ema(tensors, 0.9)
    expected = tensors["a"].double()
    for step in range(50):
        tensors["a"].add_(0.1 * step)
        ema.update(tensors)
        expected = 0.9 * expected + 0.1 * tensors["a"].double()
    torch.testing.assert_close(ema.average["a"].double(), expected, rtol=1e-6, atol=0)


def test_it_starts_as_a_copy_and_a_tensor_that_stays_is_averaged_without_drift():
    tensors = {"a": torch.rand(100, generator=torch.Generator().manual_seed(0))}
    ema = Ema(tensors, 0.9999)
    for _ in range(1000):
        ema.update(tensors)
    assert torch.equal(ema.average["a"], tensors["a"])
    assert ema.average["a"] is not tensors["a"]


def test_applied_swaps_the_average_in_and_restores_the_tensors_bit_for_bit():
    method = TinyMethod()
    ema = Ema(method.trainable(), 0.5)
    overwrite(method.trainable(), {name: p + 1.2345 for name, p in method.adapter_state_dict().items()})
    ema.update(method.trainable())
    own = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    with contextlib.suppress(KeyboardInterrupt), ema.applied(method):
        for name, tensor in method.adapter_state_dict().items():
            assert torch.equal(tensor, ema.average[name])
            assert not torch.equal(tensor, own[name])
        raise KeyboardInterrupt  # an error inside must not leave the average in the method
    for name, tensor in method.adapter_state_dict().items():
        assert torch.equal(tensor, own[name])


def test_a_decay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"decay must be between 0 and 1, got 1\.5"):
        Ema({}, 1.5)
