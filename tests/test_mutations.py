"""Damaged and hostile files, made at random: each is read, or refused in a sentence that names it.

``python -m tests.test_mutations 10000`` tries that many, and writes what ends otherwise.
"""

import json
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import selfprompt
from selfprompt.benchmarks.results import read_results
from selfprompt.inference.artifact import CONFIG, TENSORS
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.reports.bench_tables import all_tables, evaluation_records
from selfprompt.reports.tables import lay_out
from selfprompt.training.checkpoint import TrainingCheckpoint, load_checkpoint, save_checkpoint
from tests.benchmarks.test_results import write
from tests.models.tiny import clip, vit

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e9,
    10**9,
    2**70,
    "",
    "x",
    "\udc80",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)
ODD += ("a:b", "file/x", "embedded/clip", float("nan"), float("inf"), "0" * 64, [0.0] * 3, "x" * 5000, [1] * 50)
PICTURE = torch.zeros(1, 3, 64, 64)

Attempt = Callable[[random.Random], Path]
"""Makes a mutated file, tries to read it, and gives its path; raises what reading it raises."""


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 1, 2, 4, 8, 64))
        # what describes the tensors stands at the beginning, and in archives at the end
        place = chance.choice((place, min(place, chance.randrange(300)), max(0, len(data) - chance.randrange(1, 600))))
        change = chance.randrange(7)
        if change == 0:
            data[place : place + size] = chance.randbytes(size)
        elif change == 1:
            del data[place : place + size]
        elif change == 2:
            data[place:place] = chance.randbytes(size)
        elif change == 3:
            data[place:place] = data[place : place + 16 * size]
        elif change == 4:
            del data[place:]
        elif change == 5:
            data[place : place + size] = chance.choice((b"\0", b"\xff", b"9", b"(", b"{", b"\x85")) * size
        elif place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        if not data:
            break
    return bytes(data)


def mutated_json(value: Any, chance: random.Random) -> Any:
    """One value somewhere replaced, removed or added."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        kind = chance.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.15:
            return value | {chance.choice(("new", "", "format", "size")): chance.choice(ODD)}
        return value | {key: mutated_json(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.6:
        place = chance.randrange(len(value))
        return [
            *value[:place],
            *[mutated_json(value[place], chance)] * chance.choice((0, 1, 1, 2)),
            *value[place + 1 :],
        ]
    return chance.choice(ODD)


class Files:
    """One whole file of each kind, and how it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backbone = load_backbone("embedded/mae")
        self.artifact = folder / "artifact"
        Classifier(
            build_method("vpt", self.backbone, ["cat", "dog"], prompts=2),
            self.backbone.preprocess,
            recipe={"holdout": 0.25, "seed": 1, "classes": "all"},
            results={"tuned": {"accuracy": 50.0, "interval": [1.0, 99.0], "total": 2}, "notes": ["x"]},
        ).save(self.artifact)
        self.config = json.loads((self.artifact / CONFIG).read_text())
        torch.manual_seed(0)
        state = vit(embed_dim=64, depth=1, num_heads=1, num_classes=0).state_dict()
        self.weights = {
            "torch.pth": folder / "torch.pth",
            "old.pth": folder / "old.pth",
            "nested.pth": folder / "nested.pth",
            "weights.safetensors": folder / "weights.safetensors",
            "jax.npz": folder / "jax.npz",
            "script.pt": folder / "script.pt",
        }
        torch.save(state, self.weights["torch.pth"])
        torch.save(state, self.weights["old.pth"], _use_new_zipfile_serialization=False)
        torch.save({"teacher": state, "student": state, "epoch": 3}, self.weights["nested.pth"])
        save_file({key: value.contiguous() for key, value in state.items()}, self.weights["weights.safetensors"])
        np.savez(
            self.weights["jax.npz"], **{"embedding/kernel": np.zeros((8, 8, 3, 64), np.float32), "cls": np.zeros(3)}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(torch.nn.Linear(3, 2)).save(str(self.weights["script.pt"]))
        self.checkpoint = folder / "checkpoint.safetensors"
        tensors = {"state": {"a": torch.zeros(3)}}
        save_checkpoint(self.checkpoint, TrainingCheckpoint(1, {"a": 1}, tensors, [{"epoch": 1}], {"seconds": 1.0}))
        self.states = [state, clip().state_dict()]
        self.record = json.loads(
            (write(folder / "bench", "few-shot", "animals", "coop", 1, {"all": 50}) / "result.json").read_text()
        )
        self.whole = {path: path.read_bytes() for path in [*self.weights.values(), self.checkpoint]}

    def attempts(self) -> dict[str, Attempt]:
        """The kinds of trial by name."""
        made: dict[str, Attempt] = {name: lambda chance, name=name: self.weight(name, chance) for name in self.weights}
        return made | {
            "values of config.json": self.values,
            "text of config.json": self.text,
            "prompts.safetensors": self.tensors,
            "other prompts": self.other_tensors,
            "checkpoint": self.resume,
            "names and shapes": self.shapes,
            "result of a bench": self.result,
        }

    def weight(self, name: str, chance: random.Random) -> Path:
        path = self.folder / "mutated" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutated_bytes(self.whole[self.weights[name]], chance))
        self.path = path
        load_backbone(f"file/{path}")
        return path

    def load(self) -> Path:
        found = selfprompt.load(self.path, backbone=self.backbone)
        assert found.logits(PICTURE).shape == (1, len(found.classes))
        return self.path

    def copy(self) -> Path:
        self.path = self.folder / "mutated artifact"
        shutil.copytree(self.artifact, self.path, dirs_exist_ok=True)
        return self.path

    def values(self, chance: random.Random) -> Path:
        changed = mutated_json(self.config, chance)
        (self.copy() / CONFIG).write_text(json.dumps(changed), encoding="utf-8")
        return self.load()

    def text(self, chance: random.Random) -> Path:
        content = mutated_bytes((self.artifact / CONFIG).read_bytes(), chance)
        (self.copy() / CONFIG).write_bytes(content)
        return self.load()

    def stored(self, content: bytes) -> Path:
        (self.copy() / TENSORS).write_bytes(content)
        config = self.config | {"tensors_sha256": sha256(content).hexdigest()}
        (self.path / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        return self.load()

    def tensors(self, chance: random.Random) -> Path:
        return self.stored(mutated_bytes((self.artifact / TENSORS).read_bytes(), chance))

    def other_tensors(self, chance: random.Random) -> Path:
        dtypes = (torch.float32, torch.float64, torch.int8, torch.bool, torch.bfloat16, torch.float8_e4m3fn)
        shape = [chance.choice((0, 1, 2, 3, 128)) for _ in range(chance.randrange(4))]
        tensor = torch.zeros(shape).to(chance.choice(dtypes))
        from safetensors.torch import load_file

        whole = load_file(self.artifact / TENSORS)
        return self.stored(save(whole | {chance.choice([*whole, "other", ""]): tensor}))

    def resume(self, chance: random.Random) -> Path:
        self.path = self.folder / "mutated.safetensors"
        self.path.write_bytes(mutated_bytes(self.whole[self.checkpoint], chance))
        load_checkpoint(self.path, {"a": 1})
        return self.path

    def shapes(self, chance: random.Random) -> Path:
        """Weights of a ViT or a CLIP whose names, shapes and types are not as they should be."""
        state = dict(chance.choice(self.states))
        for _ in range(chance.choice((1, 1, 2, 3))):
            key = chance.choice(list(state))
            if not isinstance(state[key], torch.Tensor):
                continue
            shape = list(state[key].shape)
            change = chance.randrange(6)
            if change == 0:
                del state[key]
            elif change == 1:
                state[chance.choice((f"module.{key}", f"a.{key}", key[1:], "visual.conv1.weight", ""))] = state.pop(key)
            elif change == 2 and shape:
                shape[chance.randrange(len(shape))] = chance.choice((0, 1, 2, 5, 63, 128))
                state[key] = torch.zeros(shape)
            elif change == 3:
                state[key] = torch.zeros([chance.choice((0, 1, 3))] * chance.randrange(5))
            elif change == 4:
                state[key] = state[key].to(chance.choice((torch.float64, torch.int64, torch.bool, torch.bfloat16)))
            else:
                state[key] = chance.choice((None, 3, "x", [1], {"a": 1}, {"b": torch.zeros(2)}))
            if not state:
                break
        self.path = self.folder / "shapes.pth"
        torch.save(chance.choice((state, state, {"model": state}, [state])), self.path)
        load_backbone(f"file/{self.path}")
        return self.path

    def result(self, chance: random.Random) -> Path:
        record = mutated_json(self.record, chance)
        self.path = self.folder / "runs" / "cell" / "result.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record), encoding="utf-8")
        try:
            found = read_results(self.folder / "runs")
        except ValueError as error:
            if "holds no results" not in str(error):  # of another command, perhaps
                raise
            return self.path
        for table in all_tables(found.results, baseline="zero-shot", with_published=True):
            lay_out(table)
        json.dumps(evaluation_records(found.results))
        return self.path


def unclean_end(files: Files, attempt: Attempt, seed: int) -> str:
    """Return what is wrong with the end of a trial; empty if the file was read, or refused as it should be."""
    try:
        attempt(random.Random(seed))
    except (ValueError, RuntimeError, TypeError) as error:
        named = str(files.path) in str(error)
        return "" if named and len(str(error)) < 2000 else f"{type(error).__name__}: {str(error)[:300]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("mutations"))


KINDS = ("torch.pth", "old.pth", "nested.pth", "weights.safetensors", "jax.npz", "script.pt", "values of config.json")
KINDS += ("names and shapes", "result of a bench")
KINDS += ("text of config.json", "prompts.safetensors", "other prompts", "checkpoint")


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_end_in_a_sentence(kind, files):
    attempt = files.attempts()[kind]
    unclean = {seed: reason for seed in range(30) if (reason := unclean_end(files, attempt, seed))}
    assert not unclean


def main(count: int, first: int = 0) -> int:
    """Try so many mutations of each kind and tell those that end badly; the status is their number, at most 1."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        for kind, attempt in files.attempts().items():
            for seed in range(first, first + count // len(files.attempts()) + 1):
                if reason := unclean_end(files, attempt, seed):
                    bad += 1
                    print(f"{kind}, seed {seed}: {reason}", flush=True)
            print(f"{kind}: done", flush=True)
    print(f"{bad} unclean ends")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
