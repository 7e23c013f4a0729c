"""Fetches a published data set into a data root, laid out as its reader wants it; changes nothing that exists."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from selfprompt.data.suites.archives import Progress, find_path_ending, unpack
from selfprompt.data.suites.download import download, verify_checksum
from selfprompt.data.suites.locate import find_folder, sha256
from selfprompt.data.suites.sources import SOURCES, VTAB_SOURCE, DatasetSource, Download
from selfprompt.data.suites.specs import SPECS
from selfprompt.utils.files import write_atomically
from selfprompt.utils.suggestions import did_you_mean

WORK_FOLDER = ".selfprompt-get"
"""Folder in the data root for what is on its way."""
CHECKSUM_FILE = "downloads.sha256"
"""File in a data set's folder that notes what came where no checksum is known, as ``sha256sum`` writes it."""

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Announces a step; gives a function that is told its progress."""


def resolve_dataset(name: str) -> tuple[str, DatasetSource]:
    """The data set that a name means, "coop/oxford_pets" or "oxford_pets", and its source; "vtab" is all of VTAB-1k.

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
    """Where a data set is, or will be."""
    if key == "vtab":
        return root
    return find_folder(SPECS[key], root) or root / SPECS[key].folder


def missing_downloads(source: DatasetSource, folder: Path) -> tuple[Download, ...]:
    """The downloads of which something is not there yet."""
    return tuple(item for item in source.downloads if any(not (folder / kept).exists() for kept in item.keep))


def fetch_download(item: Download, folder: Path, work: Path, stage: Stage) -> list[Path]:
    """Fetch one file, unpack it, and move what is kept and not there yet into the data set's folder.

    Args:
        item: What to fetch.
        folder: The data set's folder; made if it is not there.
        work: Folder for what is on its way, on the same disk; kept when something fails, so that a repeated call
            goes on from there.
        stage: Shows progress.

    Returns:
        The new files and folders.

    Raises:
        RuntimeError: If something cannot be fetched, is not the published file, or lacks what is wanted; where no
            checksum is known, if it is another file than the first that came.
    """
    arrived = work / (item.archive or item.keep[0])
    if not arrived.exists():
        with stage(f"fetching {arrived.name}") as progress:
            download(item.url, arrived, checksum=item.checksum, progress=progress)
    else:
        verify_checksum(arrived, item.checksum, item.url)  # an earlier call left it, maybe long ago
    noted = [] if item.checksum else _record_checksum(arrived, folder, item.url)
    if not item.archive:
        return noted + _move_missing({item.keep[0]: arrived}, folder)
    unpacked = work / f"{item.archive}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # what an interrupted call left
    with stage(f"unpacking {arrived.name}") as progress:
        unpack(arrived, unpacked, progress)
    if item.inner_archive:
        inner = _find_member(unpacked, item.inner_archive, item)
        with stage(f"unpacking {inner.name}") as progress:
            unpack(inner, unpacked / "inner", progress)
    placed = _move_missing({kept: _find_member(unpacked, kept, item) for kept in item.keep}, folder)
    shutil.rmtree(unpacked, ignore_errors=True)
    arrived.unlink()
    return noted + placed


def _record_checksum(arrived: Path, folder: Path, url: str) -> list[Path]:
    """Note the hash of a file that has no known one; RuntimeError if another was noted when it came before."""
    sums, found = folder / CHECKSUM_FILE, sha256(arrived)
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    before = next((line.split()[0] for line in lines if line.split()[1:] == [arrived.name]), None)
    if before not in (None, found):
        arrived.unlink()
        raise RuntimeError(
            f"{url} is another file than the one that came before: its SHA-256 is {found}, not {before} as {sums} "
            "notes. It was deleted; delete that line too if you trust the new file."
        )
    if before is None:
        write_atomically(sums, "".join(f"{line}\n" for line in [*lines, f"{found}  {arrived.name}"]).encode())
    return [sums] if before is None else []


def _find_member(unpacked: Path, ending: str, item: Download) -> Path:
    found = find_path_ending(unpacked, ending)
    if found is None:
        raise RuntimeError(f"{item.archive} from {item.url} holds no {ending}: get the data set from its home page.")
    return found


def _move_missing(found: dict[str, Path], folder: Path) -> list[Path]:
    """Move files and folders to their places, each whole in one step; what exists stays."""
    placed = []
    for kept, path in found.items():
        target = folder / kept
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(path, target)
        except OSError as error:
            raise RuntimeError(f"{path} cannot be moved to {target}: {error.strerror or error}.") from None
        placed.append(target)
    return placed
