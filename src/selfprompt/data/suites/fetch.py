"""Downloads a published data set into a data root, in the layout of its reader; changes nothing that exists."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from selfprompt.data.suites.archives import find_path_ending, unpack
from selfprompt.data.suites.download import download, verify_checksum
from selfprompt.data.suites.locate import find_folder, sha256
from selfprompt.data.suites.sources import SOURCES, VTAB_SOURCE, DatasetSource, Download
from selfprompt.data.suites.specs import SPECS
from selfprompt.utils.files import write_atomically
from selfprompt.utils.progress import Progress
from selfprompt.utils.suggestions import did_you_mean

WORK_FOLDER = ".selfprompt-get"
"""Folder in the data root for downloads in progress."""
CHECKSUM_FILE = "downloads.sha256"
"""File in a data set's folder with the hashes of downloads without a published checksum, in ``sha256sum`` format."""

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Announces a step, and provides the function that takes its progress."""


def resolve_dataset(name: str) -> tuple[str, DatasetSource]:
    """Return the key and source of a data set, given "coop/oxford_pets" or "oxford_pets"; "vtab" is all of VTAB-1k.

    Raises:
        ValueError: If there is no such data set.
    """
    if name == "vtab" or (name.startswith("vtab/") and name in SPECS):
        return "vtab", VTAB_SOURCE
    for key in (name, f"coop/{name}", f"fgvc/{name}"):
        if key in SOURCES:
            return key, SOURCES[key]
    known = [*SOURCES, "vtab"]
    short = [key.removeprefix("coop/") for key in known]
    raise ValueError(f"Unknown data set {name!r}.{did_you_mean(name, short, str)} Known: {', '.join(short)}.")


def dataset_folder(key: str, root: Path) -> Path:
    """Return the folder of a data set, whether it exists or not."""
    if key == "vtab":
        return root
    return find_folder(SPECS[key], root) or root / SPECS[key].folder


def missing_downloads(source: DatasetSource, folder: Path) -> tuple[Download, ...]:
    """Return the downloads with paths that do not exist yet."""
    return tuple(item for item in source.downloads if any(not (folder / kept).exists() for kept in item.keep))


def fetch_download(item: Download, folder: Path, work: Path, stage: Stage) -> list[Path]:
    """Download one file, unpack it, and move the paths to keep that do not exist yet into the data set's folder.

    Args:
        item: The download.
        folder: The data set's folder; created if it does not exist.
        work: Folder for files in progress, on the same disk; kept after a failure, so that a repeated call resumes.
        stage: Reports progress.

    Returns:
        The new files and folders.

    Raises:
        RuntimeError: If a file cannot be fetched, does not match its checksum (or, if none is published, the file
            that was downloaded first), or lacks a path to keep.
    """
    downloaded = work / (item.archive or item.keep[0])
    if not downloaded.exists():
        with stage(f"fetching {downloaded.name}") as progress:
            download(item.url, downloaded, checksum=item.checksum, progress=progress)
    else:
        verify_checksum(downloaded, item.checksum, item.url)  # left by an earlier call, perhaps long ago
    recorded = [] if item.checksum else _record_checksum(downloaded, folder, item.url)
    if not item.archive:
        return recorded + _move_missing({item.keep[0]: downloaded}, folder)
    unpacked = work / f"{item.archive}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # left by an interrupted call
    with stage(f"unpacking {downloaded.name}") as progress:
        unpack(downloaded, unpacked, progress)
    if item.inner_archive:
        inner = _find_member(unpacked, item.inner_archive, item)
        with stage(f"unpacking {inner.name}") as progress:
            unpack(inner, unpacked / "inner", progress)
    moved = _move_missing({kept: _find_member(unpacked, kept, item) for kept in item.keep}, folder)
    shutil.rmtree(unpacked, ignore_errors=True)
    downloaded.unlink()
    return recorded + moved


def _record_checksum(downloaded: Path, folder: Path, url: str) -> list[Path]:
    """Record the hash of a file without a published one; RuntimeError if an earlier download had another hash."""
    sums, digest = folder / CHECKSUM_FILE, sha256(downloaded)
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    before = next((line.split()[0] for line in lines if line.split()[1:] == [downloaded.name]), None)
    if before not in (None, digest):
        downloaded.unlink()
        raise RuntimeError(
            f"{url} differs from the file downloaded before: its SHA-256 is {digest}, not {before} as in {sums}. "
            "It was deleted; delete that line, too, if you trust the new file."
        )
    if before is None:
        write_atomically(sums, "".join(f"{line}\n" for line in [*lines, f"{digest}  {downloaded.name}"]).encode())
    return [sums] if before is None else []


def _find_member(unpacked: Path, ending: str, item: Download) -> Path:
    path = find_path_ending(unpacked, ending)
    if path is None:
        raise RuntimeError(f"{item.archive} from {item.url} holds no {ending}: get the data set from its home page.")
    return path


def _move_missing(paths: dict[str, Path], folder: Path) -> list[Path]:
    """Move files and folders into the data set's folder, each in one step; existing ones stay."""
    moved = []
    for kept, path in paths.items():
        target = folder / kept
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(path, target)
        except OSError as error:
            raise RuntimeError(f"{path} cannot be moved to {target}: {error.strerror or error}.") from None
        moved.append(target)
    return moved
