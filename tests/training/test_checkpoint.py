import errno
import os
import resource

import pytest
import torch
from torch import nn

from selfprompt.data.dataset import Dataset
from selfprompt.methods.registry import build_method
from selfprompt.recipes.options import TrainOptions
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training.checkpoint import (
    TrainingCheckpoint,
    _checksum,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from selfprompt.training.identity import run_identity
from selfprompt.training.optim import build_optimizer
from selfprompt.utils.files import write_atomically
from tests.methods.tiny import backbone

IDENTITY = {"method": {"name": "spt", "prompts": 20}, "seed": 1}


def example(epoch: int = 3, scale: float = 1.0) -> TrainingCheckpoint:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "state": {"prompts": scale * torch.randn(2, 3, generator=generator), "scalar": torch.tensor(2.5)},
        "ema": {"prompts": torch.randn(2, 3, generator=generator).t()},  # not contiguous
        "optimizer": {"prompts/step": torch.tensor(7), "prompts/half": torch.zeros(0, dtype=torch.bfloat16)},
    }
    history = [{"epoch": 1, "loss": 0.1 + 0.2}]
    return TrainingCheckpoint(epoch, IDENTITY, tensors, history, {"best_epoch": None})


def test_everything_comes_back_exactly(tmp_path):
    path = tmp_path / "new" / "checkpoint.safetensors"
    saved = example()
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path, IDENTITY)
    assert (loaded.epoch, loaded.history, loaded.facts) == (saved.epoch, saved.history, saved.facts)
    assert loaded.tensors.keys() == saved.tensors.keys()
    for section, tensors in saved.tensors.items():
        assert loaded.tensors[section].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded.tensors[section][name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[section][name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is (not a readable checkpoint|damaged)"):
            load_checkpoint(path, IDENTITY)


def test_a_changed_byte_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors"):
            load_checkpoint(path, IDENTITY)


def test_another_safetensors_file_is_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is damaged: its checksum does not match"):
        load_checkpoint(path, IDENTITY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "list indices"),
        ("{}", "format"),
        ('{"format": 1}', "it has no epoch, identity, history, facts"),
        ('{"format": 1, "epoch": "1", "identity": {}, "history": [], "facts": {}}', "epoch must be a whole number"),
        ('{"format": 1, "epoch": 1, "identity": [], "history": [], "facts": {}}', "identity must be names with values"),
        ('{"format": 1, "epoch": 1, "identity": {}, "history": [3], "facts": {}}', "records in its history"),
        ("[" * 100_000, "recursion"),
        ("nothing", "Expecting value"),
    ],
)
def test_a_state_of_other_kinds_is_refused_by_name(text, message, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint.safetensors"
    tensors = {"state/a": torch.zeros(1)}
    save_file(tensors, path, metadata={"state": text, "checksum": str(_checksum(text, tensors))})
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors is damaged \(.*{message}"):
        load_checkpoint(path, IDENTITY)


def test_another_run_is_refused_with_every_difference(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, example())
    now = {"method": {"name": "spt", "prompts": 30, "deep": True}, "seed": 1}
    with pytest.raises(ValueError, match="belongs to another run") as caught:
        load_checkpoint(path, now)
    assert "method.deep was absent and is True; method.prompts was 20 and is 30." in str(caught.value)
    assert "seed" not in str(caught.value)


def test_a_run_with_other_descriptions_of_its_classes_is_another_run():
    def identity(cat):
        method = build_method("coop", backbone("clip"), [cat, "dog"], prompts=2)
        return run_identity(method, Dataset("pets", method.classes), load_recipe("coop"))

    plain, described = identity("cat"), identity({"names": "cat", "descriptions": "it purrs."})
    assert identity({"names": ["cat"]}) == plain
    assert described.pop("class_descriptions") == [
        {"names": ["cat"], "descriptions": ["it purrs."]},
        {"names": ["dog"]},
    ]
    assert described == plain


def test_tuples_and_lists_are_the_same_identity(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, TrainingCheckpoint(1, {"classes": ("a", "b")}))
    assert load_checkpoint(path, {"classes": ["a", "b"]}).epoch == 1


def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_survives(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, example(epoch=3))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RuntimeError, match="No space left on device") as caught:
        save_checkpoint(path, example(epoch=4))
    assert str(path) in str(caught.value)
    assert load_checkpoint(path, IDENTITY).epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "the part that was written is removed"


def test_a_write_that_the_system_stops_in_its_middle_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, example(epoch=3))
    big = TrainingCheckpoint(4, IDENTITY, {"state": {"prompts": torch.zeros(200_000)}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RuntimeError, match="File too large"):
            save_checkpoint(path, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path, IDENTITY).epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="could not be written"):
        save_checkpoint(tmp_path / "file" / "checkpoint.safetensors", example())


def test_what_a_killed_process_left_behind_is_overwritten(tmp_path):
    path = tmp_path / "log.csv"
    (tmp_path / ".log.csv.part").write_bytes(b"half of a fi")
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_resumes_as_if_it_had_not_stopped(name):
    def build() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        parameters = {key: nn.Parameter(torch.ones(2, 2)) for key in ("a", "b", "unused")}
        options = TrainOptions(optimizer=name, lr=0.1, decay="weights")
        return parameters, build_optimizer(parameters.items(), options)

    def step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, number: int) -> None:
        parameters["a"].grad = torch.full((2, 2), 0.3 * number)
        parameters["b"].grad = torch.full((2, 2), -0.1 * number)
        optimizer.step()

    straight, first = build()
    for number in range(6):
        step(straight, first, number)

    stopped, second = build()
    for number in range(3):
        step(stopped, second, number)
    tensors = {key: value.clone() for key, value in optimizer_tensors(second).items()}
    resumed, third = build()
    for key, parameter in resumed.items():
        parameter.data.copy_(stopped[key])
    load_optimizer(third, tensors)
    for number in range(3, 6):
        step(resumed, third, number)
    for key, parameter in resumed.items():
        assert torch.equal(parameter, straight[key])
    assert optimizer_tensors(third).keys() == optimizer_tensors(first).keys()
    assert not any("unused" in key for key in optimizer_tensors(first))


def stepped(name: str) -> torch.optim.Optimizer:
    """An optimiser that has a state."""
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer({"a": parameter}.items(), TrainOptions(optimizer=name))
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_state_that_the_optimizer_cannot_go_on_from_is_refused(name):
    optimizer = stepped(name)
    for key, whole in optimizer_tensors(optimizer).items():
        others = {other: value for other, value in optimizer_tensors(optimizer).items() if other != key}
        for wrong in ({key: whole[None]}, {f"{key}_": whole}):
            with pytest.raises(ValueError, match=r"the state of a must be .*, of its shape"):
                load_optimizer(optimizer, others | wrong)
    with pytest.raises(KeyError):
        load_optimizer(optimizer, {"b/step": torch.tensor(1.0)})
