"""Fixtures for tests of the whole program: folders of small photos, classifiers tuned on them, the command line."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "SELFPROMPT_DEBUG")
PROCESSES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
for name in tuple(os.environ):  # the environment of a test comes from the test, not from the shell or the cluster
    if name in TERMINAL + PROCESSES or name.startswith("SLURM_"):
        del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network, and none may wait for it
os.environ["no_proxy"] = "*"  # tests use local servers only
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: on a busy machine threads wait for one another
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # with more threads, waiting ones free the cores
# A busy machine is slow, not wrong, and a checkout may be read-only.
settings.register_profile("any machine", deadline=None, database=None)
settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from searching a million objects, which live as long as the tests, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries report what is left at the end


COLOURS = {"dark_red": (150, 10, 10), "green apple": (60, 220, 60), "blue": (20, 60, 220), "猫, klein": (200, 180, 40)}
"""Class folders, with a space, an underscore, a comma and other scripts in their names."""


def photo(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """A noisy picture of one colour, 32 x 24."""
    noise = np.random.default_rng(seed).normal(0, 25, (24, 32, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def write_photos(root: Path, counts: Mapping[str, int]) -> Path:
    """Write a folder of photos for each class; a class without an entry in ``COLOURS`` gets the colour of another."""
    for number, (name, count) in enumerate(counts.items()):
        colour = COLOURS.get(name, list(COLOURS.values())[number % len(COLOURS)])
        (root / name).mkdir(parents=True)
        for seed in range(count):
            photo(colour, 100 * number + seed).save(root / name / f"{seed}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder with a folder of 8 photos for each of 4 classes."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos", dict.fromkeys(COLOURS, 8))


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory) -> Path:
    """A folder with train, val and test folders of two classes."""
    root = tmp_path_factory.mktemp("data") / "split"
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        write_photos(root / split, {"dark_red": count, "blue": count})
    return root


@pytest.fixture(scope="session")
def linear(photos, tmp_path_factory) -> Path:
    """A linear probe on ``photos``, tuned and saved; tests that change it make a copy."""
    return _tuned(photos, tmp_path_factory, method="linear", backbone="embedded/mae")


@pytest.fixture(scope="session")
def coop(photos, tmp_path_factory) -> Path:
    """CoOp on ``photos``, tuned and saved: it reads class names."""
    return _tuned(photos, tmp_path_factory, method="coop", backbone="embedded/clip")


def _tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory, **settings: Any) -> Path:
    from selfprompt import tune

    out = tmp_path_factory.mktemp("tuned") / settings["method"]
    tune(photos, out=out, epochs=2, workers=0, lr=0.01, **settings)
    return out


@dataclass(frozen=True)
class Ran:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys) -> Callable[..., Ran]:
    """Run a command line in this process; every error must end with one sentence."""

    def run(*arguments: object) -> Ran:
        from selfprompt.cli.main import main

        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "This is a bug" not in said.err
        return Ran(status, said.out, said.err)

    return run


def started(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    """Start a command line in a new process."""
    command = [sys.executable, "-m", "selfprompt", *map(str, arguments)]
    environment = os.environ | settings.pop("env", {})
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes, **settings)


def ran(*arguments: object, **settings: Any) -> Ran:
    """Run a command line in a new process."""
    process = started(*arguments, **settings)
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err, err
    return Ran(process.returncode, out, err)


FAST = ("--method", "linear", "--backbone", "embedded/mae", "--epochs", "1", "--workers", "0")
"""Options of the fastest run."""
