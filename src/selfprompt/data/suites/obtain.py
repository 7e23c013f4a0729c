"""Fetches a published data set into a data root, laid out as its reader wants it; changes nothing that exists."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from selfprompt.data import download as net
from selfprompt.data.suites import nearest
from selfprompt.data.suites.expected import EXPECTED
from selfprompt.data.suites.origins import ORIGINS, VTAB, Download, Origin
from selfprompt.data.suites.places import find_folder

WORK = ".selfprompt-get"
"""Folder in the data root for what is on its way."""

Stage = Callable[[str], AbstractContextManager[net.Progress]]
"""Announces a step; gives a function that is told its progress."""


def resolve(name: str) -> tuple[str, Origin]:
    """The data set that a name means, "coop/oxford_pets" or "oxford_pets", and its origin; "vtab" is all of VTAB-1k.

    Raises:
        ValueError: If there is no such data set.
    """
    if name == "vtab" or (name.startswith("vtab/") and name in EXPECTED):
        return "vtab", VTAB
    for key in (name, f"coop/{name}", f"fgvc/{name}"):
        if key in ORIGINS:
            return key, ORIGINS[key]
    known = [*ORIGINS, "vtab"]
    short = [key.removeprefix("coop/") for key in known]
    raise ValueError(f"Unknown data set {name!r}.{nearest(name, short)} Known: {', '.join(short)}.")


def folder_of(key: str, root: Path) -> Path:
    """Where a data set is, or will be."""
    if key == "vtab":
        return root
    return find_folder(EXPECTED[key], root) or root / EXPECTED[key].folder


def lacking(origin: Origin, folder: Path) -> tuple[Download, ...]:
    """The downloads of which something is not there yet."""
    return tuple(item for item in origin.downloads if any(not (folder / kept).exists() for kept in item.keep))


def obtain(item: Download, folder: Path, work: Path, stage: Stage) -> list[Path]:
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
        RuntimeError: If something cannot be fetched, is not the published file, or lacks what is wanted.
    """
    arrived = work / (item.archive or item.keep[0])
    if not arrived.exists():
        with stage(f"fetching {arrived.name}") as progress:
            net.download(item.url, arrived, checksum=item.checksum, progress=progress)
    if not item.archive:
        return _place({item.keep[0]: arrived}, folder)
    unpacked = work / f"{item.archive}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # what an interrupted call left
    with stage(f"unpacking {arrived.name}") as progress:
        net.unpack(arrived, unpacked, progress)
    if item.inner:
        inner = _wanted(unpacked, item.inner, item)
        with stage(f"unpacking {inner.name}") as progress:
            net.unpack(inner, unpacked / "inner", progress)
    placed = _place({kept: _wanted(unpacked, kept, item) for kept in item.keep}, folder)
    shutil.rmtree(unpacked, ignore_errors=True)
    arrived.unlink()
    return placed


def _wanted(unpacked: Path, ending: str, item: Download) -> Path:
    found = net.find_ending(unpacked, ending)
    if found is None:
        raise RuntimeError(f"{item.archive} from {item.url} holds no {ending}: get the data set from its home page.")
    return found


def _place(found: dict[str, Path], folder: Path) -> list[Path]:
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
