"""Stages 1 and 2: fetch the packages, render every drawing once, and store the pixels of each set in one file.

``corpus/NAME.npz`` holds ``names`` and ``pixels``: (N, 64, 64) alpha if the whole set is black, else (N, 64, 64, 4)
straight-alpha RGBA. ``corpus/manifest.json`` lists the source, licence, number of drawings and SHA-256 of each set.
"""

import hashlib
import json
import os
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from pretraining.drawings import Drawing, drawings, folder, licence, read_json
from pretraining.render import is_black, render
from pretraining.sets import LABELS, SETS, Set

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Pictures:
    """The drawings of one set: their names, and ``pixels`` as in the file."""

    names: list[str]
    pixels: np.ndarray


def fetch(packages: Path) -> None:
    """Install the pinned packages into ``packages/node_modules`` with npm, which verifies checksums.

    Raises:
        RuntimeError: If npm is missing or fails.
    """
    packages.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "package-lock.json").read_text()
    installed = packages / "node_modules" / ".selfprompt-lock"
    if installed.is_file() and installed.read_text() == lock:
        return
    if shutil.which("npm") is None:
        raise RuntimeError("npm was not found, which fetches the drawings. Install Node.js 18 or newer.")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, packages / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    if subprocess.run(command, cwd=packages, check=False).returncode:
        raise RuntimeError(f"'{' '.join(command)}' failed in {packages}; see its output above.")
    installed.write_text(lock)


def render_all(packages: Path, corpus: Path, workers: int | None = None) -> None:
    """Render every set that has no file yet; an interrupted run resumes with the next set."""
    corpus.mkdir(parents=True, exist_ok=True)
    waiting = [drawn for drawn in SETS if not (corpus / f"{drawn.name}.json").is_file()]
    waiting.sort(key=lambda drawn: drawn.kind != "emoji")  # the longest first
    if waiting:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            jobs = [pool.submit(render_set, packages, corpus, drawn) for drawn in waiting]
            for job in track(jobs, "rendering sets"):
                job.result()
    manifest = {drawn.name: read_json(corpus / f"{drawn.name}.json") for drawn in SETS}
    write_text(corpus / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def render_set(packages: Path, corpus: Path, drawn: Set) -> None:
    """Render one set; writes its file, then its entry of the manifest, which marks the file as complete.

    Raises:
        ValueError: If the package states another licence than ``sets.py``.
    """
    stated, author = licence(packages, drawn)
    if stated != drawn.licence:
        raise ValueError(f"{drawn.npm} states the licence {stated!r}, sets.py says {drawn.licence!r}: check it.")
    pictures = rendered(list(drawings(packages, drawn)))
    path = corpus / f"{drawn.name}.npz"
    with open(f"{path}.part", "wb") as file:
        np.savez_compressed(file, names=np.array(pictures.names), pixels=pictures.pixels)
    os.replace(f"{path}.part", path)
    version = read_json(folder(packages, drawn) / "package.json")["version"]
    entry = {
        "package": drawn.npm,
        "version": version,
        "licence": stated,
        "author": author,
        "role": drawn.role,
        "drawings": len(pictures.names),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_text(corpus / f"{drawn.name}.json", json.dumps(entry, indent=2))


def rendered(wanted: list[Drawing]) -> Pictures:
    """Render drawings, leaving out invisible ones."""
    names, pixels = [], []
    for drawing in wanted:
        picture = render(drawing)
        if picture is not None:
            names.append(drawing.name)
            pixels.append(picture)
    stacked = np.stack(pixels)
    return Pictures(names, stacked[..., 3] if all(map(is_black, stacked)) else stacked)


def read_pictures(corpus: Path, drawn: Set) -> Pictures:
    """Read the drawings of one set."""
    with np.load(corpus / f"{drawn.name}.npz") as file:
        return Pictures(file["names"].tolist(), file["pixels"])


def rgba(pixels: np.ndarray) -> np.ndarray:
    """Convert stored pixels to RGBA, (N, 64, 64, 4)."""
    if pixels.ndim == 4:
        return pixels
    black = np.zeros((*pixels.shape, 4), dtype=np.uint8)
    black[..., 3] = pixels
    return black


def labels_folder(packages: Path) -> Path:
    """Return the folder with the names, tags and groups of the emoji."""
    return packages / "node_modules" / LABELS


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
