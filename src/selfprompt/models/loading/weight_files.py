"""Reading weight files of every kind without running code in them.

The first bytes decide the kind of a file, not its name. Every problem with a file is a ValueError that names it.
"""

import argparse
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from selfprompt.models.loading import torchscript

Kind = Literal["npz", "safetensors", "torch", "torchscript"]

_NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
_GIT_LFS = b"version https://git-lfs"
_AGAIN = "Download it again, with the link to the file itself."
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}
_OTHERS = {
    b"\x89HDF": "an HDF5 file of Keras or TensorFlow",
    b"\x93NUMPY": "a single NumPy array (.npy)",
    b"GGUF": "a GGUF file of llama.cpp",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
}
_SUPPORTED = "Supported: .safetensors, .npz of a JAX ViT, and files of torch.save."


def read_weights(path: Path) -> tuple[Kind, Any]:
    """Read a weight file.

    Returns:
        Its kind, and nested containers of tensors, or for "npz" shapes by name.

    Raises:
        ValueError: If it is not a weight file, is damaged, or contains code.
    """
    kind = _kind(path)
    if kind == "npz":
        return kind, _npz_shapes(path)
    with _reading(path):
        if kind == "safetensors":
            return kind, load_file(path)
        if kind == "torchscript":
            with zipfile.ZipFile(path) as archive:
                return kind, torchscript.read_tensors(archive, _root(archive.namelist()))
        # argparse.Namespace: training scripts store their arguments; it holds values and runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and damaged files
            with path.open("rb") as file:  # torch would judge a path by its suffix
                return kind, torch.load(file, map_location="cpu", weights_only=True)


def check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor is dense, of a usual type, and no larger than its bytes in the file."""
    reason = ""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        reason = "is not a dense tensor"
    elif tensor.dtype not in _NUMBERS:
        reason = f"holds numbers of the type {str(tensor.dtype).removeprefix('torch.')}"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        reason = f"has the shape {tuple(tensor.shape)} and fewer numbers"
    if reason:
        raise ValueError(f"{path} cannot be read: {name} {reason}.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any error of the readers into one sentence."""
    try:
        yield
    except Exception as error:  # torch.load alone raises a dozen kinds of errors
        if found := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)):
            raise ValueError(
                f"{path} must hold tensors alone, and it holds {found[1]}. Such files are refused because a pickle can "
                "run code. Save its state dict as .safetensors."
            ) from error
        # torch's message explains at length how to run the pickle
        reason = "not a file of torch.save" if isinstance(error, pickle.UnpicklingError) else _reason(error)
        raise ValueError(f"{path} cannot be read: it is damaged ({reason}). Is the download complete?") from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, which may quote a damaged file at length."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return first if len(first) <= 200 else f"{first[:197]}..."


def _kind(path: Path) -> Kind:
    """Recognise the kind of a file by its first bytes.

    Raises:
        ValueError: If it is not a weight file; the message names its kind and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:  # the length of the header, and its start
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head.startswith(b"\x80"):
        return "torch"  # a pickle, as torch.save wrote before 1.6
    raise ValueError(f"{path} {_instead(path, head)}")


def _instead(path: Path, head: bytes) -> str:
    """Return what a file is that holds no weights, and what to do."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return f"is empty. {_AGAIN}"
    if start.startswith(_GIT_LFS):
        return (
            "is a Git LFS pointer, a line of text instead of the weights. Run `git lfs pull` in its repository, or "
            "download the file itself."
        )
    if start.lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<!--")):
        return f"is a web page, not weights; perhaps the link needs a login. {_AGAIN}"
    packed = [name for mark, name in _PACKED.items() if head.startswith(mark)]
    if packed or (head[257:262] == b"ustar" and tarfile.is_tarfile(path)):
        return f"is packed ({packed[0] if packed else 'tar'}). Unpack it, and give the weight file inside."
    known = [name for mark, name in _OTHERS.items() if head.startswith(mark)]
    if known:
        return f"is {known[0]}. {_SUPPORTED}"
    if start.startswith((b"{", b"[")):
        return f"is JSON text, not weights. {_AGAIN}"
    text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    return f"is {'a text file' if text else 'of an unknown kind, or damaged'}. {_SUPPORTED}"


def _kind_of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile, too, raises many kinds of errors
        raise ValueError(
            f"{path} cannot be read: its end is missing or damaged ({_reason(error)}). Is the download complete?"
        ) from error
    names = [member.filename for member in members]
    if names and all(name.endswith(".npy") for name in names):
        _check_sizes(path, members, most=100)
        return "npz"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        _check_sizes(path, members, most=1)  # torch does not compress
        return "torchscript" if f"{_root(names)}constants.pkl" in names else "torch"
    if path.suffix == ".npz":
        others = [name for name in names if not name.endswith(".npy")]
        raise ValueError(f"{path} cannot be read as .npz: it holds {', '.join(map(repr, others[:3])) or 'nothing'}.")
    raise ValueError(f"{path} is a zip file without weights of torch. Unpack it, and give the weight file inside.")


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], most: int) -> None:
    """Raise ValueError if the members unpack to more than ``most`` times the file."""
    size, limit = sum(member.file_size for member in members), most * path.stat().st_size
    if size > limit:
        raise ValueError(
            f"{path} must unpack to at most {limit:,} bytes, and it has {size:,}; the file is damaged or malicious."
        )


def _root(names: list[str]) -> str:
    """Return the folder inside an archive of torch, with a slash."""
    (first, *_) = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    return first.removesuffix("data.pkl")


def _npz_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Read the shapes of the arrays of an .npz file from their headers."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {m.filename.removesuffix(".npy"): _npy_shape(archive, m) for m in archive.infolist()}
    except Exception as error:  # NumPy and zlib raise many kinds of errors
        raise ValueError(f"{path} cannot be read as .npz: {_reason(error)}. Is the download complete?") from error


def _npy_shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, ...]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise ValueError(f"{member.filename} holds {dtype}, not numbers")
        if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} has the shape {shape} and fewer numbers")
    return shape
