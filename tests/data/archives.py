"""Builds valid and malicious archives for tests."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping


def keep(info: tarfile.TarInfo) -> None:
    """Leave a member as it is."""


def make_tar(
    members: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
    change: Callable[[tarfile.TarInfo], None] = keep,
    *,
    mode: str = "w:gz",
) -> bytes:
    """Return a tar of files; ``change`` may modify each member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(infos: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    """Return a tar of members of any kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for info, content in infos:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """Return the header of a tar member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def make_zip(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], mode: int = 0o644, flags: int = 0) -> bytes:
    """Return a compressed zip of files; ``mode`` and ``flags`` apply to all members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # verbatim: the constructor would sanitise it
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
            info.flag_bits |= flags
    return buffer.getvalue()
