"""The folder of an exported classifier, as `selfprompt export` writes it and a runtime reads it.

    export.json                 everything but the numbers of the model: classes, preprocessing, calibration, hashes
    model.onnx                  bytes of images to logits; model-fp16.onnx and model-int8.onnx for other precisions
    class_vectors-xxxxxxxx.npy  what the model compares images with, where it takes them as an input

export.json names the other files with their sizes and hashes. It is replaced last, so that the folder is whole at any
time. The folder may come from an untrusted source: every key is checked, and every file before it is used.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from selfprompt.inference.calibration import Calibration
from selfprompt.inference.record_checks import (
    MAX_BATCH_SIZE,
    PreprocessKeys,
    check_calibration,
    check_classes,
    check_hash,
    check_preprocess,
    check_range,
    check_record,
    check_text,
    short,
)
from selfprompt.utils.json_files import read_json

RECORD = "export.json"
FORMAT = 1
ADVICE = "Export the classifier again."
MAX_MODEL_BYTES = 1 << 31
"""Bytes of a model: what one file in ONNX's format can hold."""
MAX_VECTOR_BYTES = 1 << 31
MAX_DIFFERENCE = 1e30
Target = Literal["onnx", "web", "triton"]
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder: its path in it, written with ``/``, its SHA-256 in hex and its size."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Measured:
    """The accuracy of a model on test images, in percent, with its 95 % interval."""

    accuracy: float
    interval: tuple[float, ...]
    total: int


@dataclass(frozen=True)
class StoredModel:
    """The model in one precision.

    Attributes:
        file: Its file.
        largest_difference: Largest difference of a logit from that of the classifier in torch, at least 0.
        measured: Its accuracy; None if the export had no test images.
    """

    file: StoredFile
    largest_difference: float
    measured: Measured | None = None


@dataclass(frozen=True)
class ExportRecord:
    """What export.json says, checked.

    Attributes:
        target: What the folder is for.
        classifier: Hash of the trained tensors and the backbone, by which another list of classes finds its folder.
        method: The method.
        backbone: Name of the backbone.
        note: A remark that every output must show; may be empty.
        classes: Names in the order of the logits.
        preprocess: Preprocessing of images.
        batch_size: Images per batch; it affects predictions unless ``sample_wise``.
        sample_wise: Whether a prediction depends on its image alone.
        precisions: The model in each precision; the first one is used unless another is asked for.
        class_vectors: The file of the class vectors, (C, E), float32; None if they are part of the model.
        calibration: What probabilities and promises are based on.
        measured_on: The images behind the accuracies; "" if there are none.
        versions: Versions of the libraries that made it.
    """

    target: Target
    classifier: str
    method: str
    backbone: str
    note: str
    classes: tuple[str, ...]
    preprocess: PreprocessKeys
    batch_size: int
    sample_wise: bool
    precisions: Mapping[Precision, StoredModel]
    class_vectors: StoredFile | None = None
    calibration: Calibration | None = None
    measured_on: str = ""
    versions: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, without what is absent."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        values["precisions"] = {
            name: {key: value for key, value in model.items() if value is not None}
            for name, model in values["precisions"].items()
        }
        return {"format": FORMAT, **values}


@dataclass(frozen=True)
class _Keys:
    """The keys of export.json; a key with a default may be absent."""

    format: int
    target: Target
    classifier: str
    method: str
    backbone: str
    note: str
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]
    batch_size: int
    sample_wise: bool
    precisions: Mapping[str, Any]
    class_vectors: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    measured_on: str = ""
    versions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _ModelKeys:
    file: Mapping[str, Any]
    largest_difference: float
    measured: Mapping[str, Any] | None = None


def read_export(folder: Path) -> ExportRecord:
    """Read the record of an exported classifier; opens no other file.

    Raises:
        ValueError: If the folder is not an export, its record is damaged, or a newer version of the library wrote it.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} is not an exported classifier: it has no {RECORD}. `selfprompt export` writes one.")
    values = read_json(path, advice=ADVICE)
    if not isinstance(values, dict) or "format" not in values:
        raise ValueError(f"{path} is not the {RECORD} of an exported classifier.")
    if values["format"] != FORMAT or isinstance(values["format"], bool):
        raise ValueError(f"{path} has format {short(values['format'])}; this version of selfprompt reads {FORMAT}.")
    try:
        return _parse(values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {str(error).rstrip('.')}. {ADVICE}") from error


def _parse(values: Mapping[str, Any]) -> ExportRecord:
    """Check and convert the values of export.json."""
    check_record(_Keys, values, "")
    check_hash("classifier", values["classifier"])
    for name in ("method", "backbone"):
        check_text(name, values[name])
    check_classes(values["classes"])
    check_range("batch_size", values["batch_size"], 1, MAX_BATCH_SIZE)
    check_preprocess(values["preprocess"])
    if values.get("calibration") is not None:
        check_calibration(values["calibration"])
    vectors, calibration = values.get("class_vectors"), values.get("calibration")
    kept = {name: value for name, value in values.items() if name != "format"}
    return ExportRecord(
        **{
            **kept,
            "classes": tuple(values["classes"]),
            "preprocess": PreprocessKeys(**values["preprocess"]),
            "precisions": _precisions(values["precisions"]),
            "class_vectors": None if vectors is None else _file("class_vectors", vectors, MAX_VECTOR_BYTES),
            "calibration": None if calibration is None else Calibration.from_json(calibration),
        }
    )


def _precisions(values: Mapping[str, Any]) -> dict[Precision, StoredModel]:
    known = {name: values[name] for name in values if name in PRECISIONS}
    if not known or len(known) < len(values):
        raise ValueError(f"precisions must be some of {', '.join(PRECISIONS)}, got {short(', '.join(values))}")
    return {name: _model(f"precisions.{name}", model) for name, model in known.items()}


def _model(where: str, values: Any) -> StoredModel:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold names and values, got {short(values)}")
    check_record(_ModelKeys, values, where)
    check_range(f"{where}.largest_difference", values["largest_difference"], 0, MAX_DIFFERENCE)
    measured = values.get("measured")
    if measured is not None:
        check_record(Measured, measured, f"{where}.measured")
        if len(measured["interval"]) != 2:
            raise ValueError(f"{where}.measured.interval must be two numbers")
        for value in (measured["accuracy"], *measured["interval"]):
            check_range(f"{where}.measured", value, 0, 100)
        measured = Measured(measured["accuracy"], tuple(measured["interval"]), measured["total"])
    file = _file(f"{where}.file", values["file"], MAX_MODEL_BYTES)
    return StoredModel(file, values["largest_difference"], measured)


def _file(where: str, values: Mapping[str, Any], limit: int) -> StoredFile:
    check_record(StoredFile, values, where)
    check_hash(f"{where}.sha256", values["sha256"])
    check_range(f"{where}.bytes", values["bytes"], 1, limit)
    check_text(f"{where}.path", values["path"])
    path = PurePosixPath(values["path"])
    if path.is_absolute() or ".." in path.parts or any(letter in values["path"] for letter in "\\:\0"):
        raise ValueError(f"{where}.path must lie inside the folder, got {short(values['path'])}")
    return StoredFile(**values)


def checked_file(folder: Path, file: StoredFile) -> Path:
    """Return the path of a file of the folder, whose size and hash are the ones on record.

    Raises:
        ValueError: If it is missing, a link out of the folder, or another file.
    """
    path = folder / file.path
    if not path.is_file():
        raise ValueError(f"{path} is missing. {ADVICE}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link to a file outside of {folder}, which is not opened. {ADVICE}")
    with path.open("rb") as opened:
        same = path.stat().st_size == file.bytes
        if not same or hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise ValueError(f"{path} is damaged, or of another export: {RECORD} has another hash. {ADVICE}")
    return path


def read_vectors(path: Path, classes: int) -> np.ndarray:
    """Read class vectors, (C, E), float32.

    Raises:
        ValueError: If the file is not an array of that kind, or has values that are not finite.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise ValueError(f"{path} is damaged: it is not an array in numpy's format. {ADVICE}") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2:
        raise ValueError(f"{path} is damaged: it must be a matrix of float32. {ADVICE}")
    if len(vectors) != classes or not np.isfinite(vectors).all():
        raise ValueError(f"{path} is damaged: it must have {classes} rows of finite numbers. {ADVICE}")
    return vectors
