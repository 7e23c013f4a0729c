"""Arranges an exported folder as a page that classifies images in the browser, with onnxruntime-web."""

import os
import tarfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from selfprompt.data.suites.download import download, verify_checksum
from selfprompt.inference.calibration import Calibration
from selfprompt.pages import page_files
from selfprompt.runtime.folder import ADVICE, ExportRecord
from selfprompt.training.reporter import Reporter
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.json_files import read_json

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
TARBALL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
CHECKSUM = "sha256:d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
PARTS = {
    "ort.wasm.min.mjs": "ort.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}
"""Files of the package's folder dist and their names beside the page: servers know what .js is."""
MAX_PART_BYTES = 1 << 26
SETTINGS = "page.json"
SCRIPTS = ("backend.js", "worker.js", "view.js", "resize.js", "answer.js")

USE = """## Use

Any server of static files delivers the page; images stay in the browser. To try it:

```sh
python -m http.server --bind 127.0.0.1
```

Then open <http://localhost:8000>. The camera needs https, or localhost.

The page contains [onnxruntime-web](https://www.npmjs.com/package/onnxruntime-web) (MIT licence).
"""


@dataclass(frozen=True)
class Page:
    """Settings of a page.

    Attributes:
        title: Its title.
        unknown: Largest share of images of the trained classes that it may call unknown, in (0, 1); None calls none so.
        runtime: Folder of the npm package onnxruntime-web; None downloads it once, into a cache.
    """

    title: str = "Classify images"
    unknown: float | None = None
    runtime: str | Path | None = None


def arrange_for_web(
    folder: Path, record: ExportRecord, runtime: dict[str, bytes], page: Page
) -> tuple[ExportRecord, str]:
    """Put the page, its scripts and onnxruntime-web beside a model.

    Args:
        folder: The folder.
        record: Its record, with one precision.
        runtime: The files of onnxruntime-web, from `find_runtime`.
        page: Its settings.

    Returns:
        The new record, and how to use the folder, as Markdown.
    """
    shared = page_files()
    shared["index.html"] = shared.pop("classify.html")
    scripts = {name: (files("selfprompt.exporting") / "browser" / name).read_bytes() for name in SCRIPTS}
    for name, content in {**shared, **scripts, **runtime}.items():
        write_atomically(folder / name, content)
    settings = {
        "title": page.title,
        "least_typicality": least_typicality(record.calibration, page.unknown),
        "columns_first": int(version("pillow").partition(".")[0]) >= 13,  # how this Pillow resizes, see resize.js
    }
    write_json(folder / SETTINGS, settings)
    return replace(record, target="web"), USE


def forget_unknown(folder: Path) -> None:
    """Let the page of a folder answer with a class for every image: other class names have no calibration."""
    settings = read_json(folder / SETTINGS, advice=ADVICE)
    write_json(folder / SETTINGS, {**settings, "least_typicality": None})


def least_typicality(calibration: Calibration | None, unknown: float | None) -> float | None:
    """Return the typicality below which the page calls an image unknown; None if it calls none so.

    Raises:
        ValueError: If there is no calibration, or it has too few images.
    """
    if unknown is None:
        return None
    if calibration is None:
        raise ValueError("unknown needs a calibrated classifier, and this one has no calibration. Leave it out.")
    if remarks := calibration.remarks(unknown, None):
        raise ValueError(remarks[0])
    return calibration.least_typicality(unknown)


def find_runtime(given: str | Path | None, reporter: Reporter) -> dict[str, bytes]:
    """Return the files of onnxruntime-web by their names beside the page.

    Args:
        given: The folder of the package, or its folder dist; None takes the package from the cache, and downloads it
            into it first if need be.
        reporter: Receives the progress of the download.

    Raises:
        ValueError: If a file is missing.
        RuntimeError: If the package cannot be downloaded, or is not the published one.
    """
    if given is not None:
        return _from_folder(Path(given))
    archive = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    if archive.exists():
        verify_checksum(archive, CHECKSUM, str(archive))
    else:
        with reporter.stage(f"downloading {PACKAGE} {VERSION} (33 MB)") as progress:
            try:
                download(TARBALL, archive, checksum=CHECKSUM, attempts=2, progress=progress)
            except RuntimeError as error:
                raise RuntimeError(
                    f"{str(error).rstrip('.')}. Where there is no network, give the unpacked package with "
                    f"--onnxruntime-web (npm pack {PACKAGE}@{VERSION})."
                ) from error
    with tarfile.open(archive) as tar:
        return {name: _member(tar, f"package/dist/{part}") for part, name in PARTS.items()}


def cache_folder() -> Path:
    """Return the folder of downloaded packages: in ``XDG_CACHE_HOME``, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfprompt"


def _from_folder(folder: Path) -> dict[str, bytes]:
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [part for part in PARTS if not (dist / part).is_file()]
    if missing:
        raise ValueError(f"{folder} is not the package {PACKAGE}: it has no {missing[0]}, nor has its folder dist.")
    return {name: (dist / part).read_bytes() for part, name in PARTS.items()}


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """Read one file of an archive whose hash is known."""
    file = tar.extractfile(name)
    assert file is not None  # the checksum names an archive that has it
    return file.read(MAX_PART_BYTES)
