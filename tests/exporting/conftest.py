"""A calibrated classifier with class vectors, and what `selfprompt export` makes of it."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import selfprompt
from selfprompt.cli.main import main


@dataclass(frozen=True)
class Exported:
    """Folder of a classifier, folder of its export, and what the command said."""

    classifier: Path
    folder: Path
    said: str


@pytest.fixture(scope="session")
def exported(photos, tmp_path_factory) -> Exported:
    """SS-Text on ``photos``, in all precisions; tests that change it make a copy."""
    root = tmp_path_factory.mktemp("exported")
    selfprompt.tune(photos, method="ss-text", backbone="embedded/clip", out=root / "dogs", workers=0)
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["export", str(root / "dogs"), "--out", str(root / "onnx")]) == 0
    return Exported(root / "dogs", root / "onnx", out.getvalue())
