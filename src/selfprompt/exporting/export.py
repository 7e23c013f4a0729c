"""Exports a classifier to a folder, and replaces the classes of an exported folder."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from selfprompt.exporting.folder import new_folder, stored_file, write_record, write_vectors
from selfprompt.exporting.measure import TestImages, check_equal, largest_difference, measure
from selfprompt.exporting.network import Network, write_network
from selfprompt.exporting.precision import write_precision
from selfprompt.exporting.readme import REQUIREMENTS, USE, readme
from selfprompt.exporting.triton import arrange_for_triton, check_model_name
from selfprompt.exporting.web import Page, arrange_for_web, find_runtime, forget_unknown, least_typicality
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.record_checks import PreprocessKeys
from selfprompt.runtime.folder import (
    PRECISIONS,
    ExportRecord,
    Precision,
    StoredModel,
    Target,
    read_export,
)
from selfprompt.runtime.session import Session, open_session
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.utils.files import write_atomically

MODEL_FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model-fp16.onnx", "int8": "model-int8.onnx"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""The packages of the extra "export"."""
LIBRARIES = ("selfprompt", "torch", "onnx", "onnxscript", "onnxruntime", "pillow")
"""Libraries whose versions the record holds."""


def export(
    classifier: Classifier,
    folder: str | Path,
    *,
    to: Target = "onnx",
    precisions: Sequence[str] | None = None,
    page: Page | None = None,
    name: str = "classifier",
    images: TestImages | None = None,
    reporter: Reporter | None = None,
) -> ExportRecord:
    """Export a classifier to a folder, which `selfprompt.runtime` can load whatever it is for.

    Args:
        classifier: The classifier; it is exported on the CPU.
        folder: The folder to write; it must be new or empty.
        to: "onnx" for `selfprompt.runtime` and other programs, "web" for a page that classifies in the browser, or
            "triton" for a model repository of Triton.
        precisions: Some of "fp32", "fp16" and "int8"; the first one is used unless another is asked for. None for all,
            or for "fp32" where a folder holds one model.
        page: What a page needs to know; None for the defaults of `Page`.
        name: Name of the model in Triton.
        images: Test images to measure the accuracy on; None measures none.
        reporter: Receives messages and progress; None logs them.

    Returns:
        What was written to export.json.

    Raises:
        ValueError: If an argument is wrong, the folder holds something, or predictions depend on the other images of a
            batch, and batches are made elsewhere.
        RuntimeError: If the method cannot be expressed in ONNX, its model is not equal to the classifier, or the folder
            cannot be written. Nothing is written then.
        ImportError: If a package of the extra "export" is missing.
    """
    chosen, reporter = checked_precisions(precisions, to), reporter or LogReporter()
    check_packages()
    if to == "triton":
        check_model_name(name)
    if to != "onnx" and not classifier.method.traits.batch_independent:
        raise ValueError(
            f"A prediction of this {classifier.method.name} depends on the other images of its batch, so it cannot be "
            f"exported to {to}. Export it to onnx, or train it without this option."
        )
    page = page or Page()
    files = find_runtime(page.runtime, reporter) if to == "web" else {}
    classifier = on_cpu(classifier)
    if to == "web":
        least_typicality(classifier.calibration, page.unknown)  # fails before the work, not after it
    with new_folder(Path(folder)) as temporary:
        record, use = write_models(classifier, temporary, chosen, images, reporter, vectors_apart=to != "triton"), USE
        if to == "triton":
            record, use = arrange_for_triton(temporary, record, name)
        if to == "web":
            record, use = arrange_for_web(temporary, record, files, page)
        write_atomically(temporary / "README.md", readme(record, use).encode(errors="backslashreplace"))
        write_atomically(temporary / "requirements.txt", REQUIREMENTS.encode())
        write_record(temporary, record)
    return record


def write_models(
    classifier: Classifier,
    folder: Path,
    precisions: Sequence[Precision],
    images: TestImages | None,
    reporter: Reporter,
    *,
    vectors_apart: bool,
) -> ExportRecord:
    """Write the models and class vectors of a classifier, and return the record of the folder, which is not written."""
    network = Network(classifier.method, classifier.preprocess).eval()
    apart = vectors_apart and network.class_vectors is not None
    vectors = network.class_vectors.numpy() if apart and network.class_vectors is not None else None
    size, source = classifier.preprocess.size, folder / MODEL_FILES["fp32"]
    with reporter.stage("exporting"):
        write_network(network, size, source, vectors_apart=apart)
    check_equal(classifier, _open(source, classifier, vectors))
    models: dict[Precision, StoredModel] = {}
    for precision in precisions:
        path = folder / MODEL_FILES[precision]
        if precision != "fp32":
            with reporter.stage(f"converting to {precision}"):
                write_precision(source, path, precision)
        with reporter.stage(f"measuring {precision}") as progress:
            session = _open(path, classifier, vectors)
            if images is None:
                found, measured = largest_difference(classifier, session), None
            else:
                found, measured = measure(classifier, session, images, progress)
        models[precision] = StoredModel(stored_file(folder, path.name), found, measured)
    if "fp32" not in precisions:
        source.unlink()
    stored = None if vectors is None else write_vectors(folder, vectors)
    method = classifier.method
    return ExportRecord(
        target="onnx",
        classifier=identity(classifier),
        method=method.name,
        backbone=method.backbone.name,
        note=method.backbone.note,
        classes=classifier.classes,
        preprocess=PreprocessKeys(**classifier.preprocess.record()),
        batch_size=classifier.batch_size,
        sample_wise=method.traits.batch_independent,
        precisions=models,
        class_vectors=stored,
        calibration=classifier.calibration,
        measured_on="" if images is None else images.name,
        versions=_versions(),
    )


def replace_classes(folder: str | Path, classifier: Classifier) -> ExportRecord:
    """Give an exported folder the classes of a classifier, without another export.

    Args:
        folder: A folder that was exported from the same trained classifier.
        classifier: The classifier with the new class names, as ``with_classes`` returns it.

    Returns:
        The new record.

    Raises:
        ValueError: If the folder is another classifier's, or its model holds its classes.
        RuntimeError: If a file cannot be written; the folder then has the classes that it had.
    """
    folder = Path(folder)
    record = read_export(folder)
    if record.class_vectors is None:
        raise ValueError(
            f"The classes of {folder} are part of its model. Export the classifier again, to another folder, with "
            "--classes."
        )
    if record.classifier != identity(classifier):
        raise ValueError(f"{folder} was exported from another classifier, or before it was trained again.")
    with torch.no_grad():
        vectors: np.ndarray = classifier.method.eval().class_vectors().float().cpu().numpy()
    stored = write_vectors(folder, vectors)
    if record.target == "web":
        forget_unknown(folder)
    new = replace(
        record,
        classes=classifier.classes,
        class_vectors=stored,
        calibration=classifier.calibration,
        measured_on="",
        precisions={name: replace(model, measured=None) for name, model in record.precisions.items()},
    )
    write_record(folder, new)
    if record.class_vectors.path != stored.path:
        (folder / record.class_vectors.path).unlink(missing_ok=True)
    return new


def identity(classifier: Classifier) -> str:
    """Return a hash of what is exported besides the classes: the trained tensors and the backbone."""
    digest = hashlib.sha256(f"{classifier.method.name} {classifier.method.backbone.fingerprint}".encode())
    for name, tensor in sorted(classifier.method.adapter_state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checked_precisions(precisions: Sequence[str] | None, to: Target) -> tuple[Precision, ...]:
    """Return the precisions of an export in their order.

    Raises:
        ValueError: If there is none, one is unknown or repeated, or there are several where a folder holds one.
    """
    if precisions is None:
        return PRECISIONS if to == "onnx" else ("fp32",)
    given = ", ".join(map(str, precisions)) or "none"
    chosen = tuple(name for name in PRECISIONS if name in precisions)
    if not chosen or len(chosen) < len(precisions):
        raise ValueError(f"precision must be some of {', '.join(PRECISIONS)}, each once, got {given}.")
    if to != "onnx" and len(chosen) > 1:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)} for {to}, got {given}.")
    return tuple(sorted(chosen, key=list(precisions).index))


def check_packages() -> None:
    """Raise ImportError if a package that an export needs is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"An export needs the package {missing[0]}: pip install 'selfprompt[export]'")


def on_cpu(classifier: Classifier) -> Classifier:
    """Return the classifier in exact float32 on the CPU; a copy if its model is on another device."""
    method = classifier.method if classifier.device.type == "cpu" else deepcopy(classifier.method).to("cpu")
    return replace(classifier, method=method.eval(), precision="32-true", float32="auto")


def _open(path: Path, classifier: Classifier, vectors: np.ndarray | None) -> Session:
    return open_session(path, classifier.preprocess.size, classes=len(classifier.classes), vectors=vectors)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
