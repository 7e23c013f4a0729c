"""A calibrated classifier with class vectors, and what `selfprompt export` makes of it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import selfprompt
from tests.conftest import Ran, ran


@dataclass(frozen=True)
class Exported:
    """Folder of a classifier, folder of its export, and what the command said."""

    classifier: Path
    folder: Path
    said: Ran


@pytest.fixture(scope="session")
def exported(photos, tmp_path_factory) -> Exported:
    """SS-Text on ``photos``, in all precisions; tests that change it make a copy."""
    root = tmp_path_factory.mktemp("exported")
    selfprompt.tune(photos, method="ss-text", backbone="embedded/clip", out=root / "dogs", workers=0)
    said = ran("export", root / "dogs", "--out", root / "onnx")
    assert said.status == 0, said.err
    return Exported(root / "dogs", root / "onnx", said)
