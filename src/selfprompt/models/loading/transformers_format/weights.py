"""The tensors of a folder or a repository in transformers' format: one file or several, read as data."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.transformers_format.config import read_object, short
from selfprompt.models.loading.transformers_format.keys import State
from selfprompt.models.loading.weight_files import check_plain, read_weights

FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""In the order in which they are looked for; an index lists the parts of a divided file."""


def weight_files(source: ModelFolder) -> list[Path]:
    """Return the files that hold the weights, after downloading those of a repository.

    Raises:
        FileNotFoundError: If there are none, or one that an index names is missing.
        ValueError: If an index names a file elsewhere.
        RuntimeError: If a file cannot be downloaded.
    """
    path = source.find(*FILES)
    if path is None:
        raise FileNotFoundError(
            f"{source.name} must hold its weights as {' or '.join(FILES)}, and it has none of these."
        )
    return list(_parts(path, source)) if path.suffix == ".json" else [path]


def _parts(index: Path, source: ModelFolder) -> Iterator[Path]:
    """Return the files of an index, whose author may have written any path."""
    files = read_object(index).get("weight_map")
    names = sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
    if not names:
        raise ValueError(f"{index} must name the file of each tensor under 'weight_map'. Download it again.")
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise ValueError(f"{index} must name weight files in its own folder, and it names {short(name)}.")
        path = source.find(name)
        if path is None:
            raise FileNotFoundError(f"{index} names {name}, which is missing. Is the download complete?")
        yield path


def read_tensors(paths: Iterable[Path]) -> State:
    """Read the tensors of all files, in single precision.

    Raises:
        ValueError: If a file cannot be read or holds anything but tensors by name, or two hold the same tensor.
    """
    tensors: State = {}
    for path in paths:
        _, raw = read_weights(path)
        if not isinstance(raw, Mapping) or not all(isinstance(value, Tensor) for value in raw.values()):
            raise ValueError(f"{path} must hold tensors by name, as transformers saves them.")
        for key, tensor in raw.items():
            check_plain(path, str(key), tensor)
            if key in tensors:
                raise ValueError(f"{path} holds {short(key)}, which another file of this model holds, too.")
            tensors[str(key)] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors
