import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.two_processes import CASES, train

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).with_name("two_processes.py"))
LAUNCHERS = {
    "script": [sys.executable, SCRIPT],  # Fabric starts the second process
    "torchrun": [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT,
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one(tmp_path, launcher):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    command = [*LAUNCHERS[launcher], str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for case in CASES:
        first = load_file(tmp_path / f"{case}-0.safetensors")
        second = load_file(tmp_path / f"{case}-1.safetensors")
        assert all(torch.equal(first[name], second[name]) for name in first), f"{case}: processes differ"
        method, result = train(case, 1)
        for name, tensor in method.adapter_state_dict().items():
            # float32: a batch's gradient is summed in another order
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-6, msg=f"{case}: {name}")
            assert torch.equal(first[f"again.{name}"], first[name])
        expected = [record["loss"] for record in result.history]
        assert first["loss"].tolist() == pytest.approx(expected, abs=1e-6)
        for split in ("train", "val"):
            expected = [record[f"{split}_accuracy"] for record in result.history]
            assert first[split].tolist() == pytest.approx(expected)
        assert len((tmp_path / case / "log.csv").read_text().splitlines()) == 5
