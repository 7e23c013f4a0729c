import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def untimed(path: Path) -> dict:
    """A checkpoint's JSON without what a clock decides."""
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    del state["facts"]["seconds"]
    for record in state["history"]:
        del record["seconds"], record["images_per_second"]
    return state


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_bit_identical(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15, "most attempts must have been killed, not finished"
    straight = load_file(tmp_path / "straight" / "checkpoint.safetensors")
    assert {name.split("/")[0] for name in straight} == {"state", "optimizer", "ema", "best"}
    for other in ("random", "writing"):
        path = tmp_path / other / "checkpoint.safetensors"
        tensors = load_file(path)
        assert tensors.keys() == straight.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, straight[name]), f"{other}: {name}"
        assert untimed(path) == untimed(tmp_path / "straight" / "checkpoint.safetensors")
        assert sorted(file.name for file in path.parent.iterdir()) == ["checkpoint.safetensors", "log.csv"]
        assert len((path.parent / "log.csv").read_text().splitlines()) == 26
