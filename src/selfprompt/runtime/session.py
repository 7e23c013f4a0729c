"""Opens a model in ONNX's format as data: no code besides onnxruntime's own operators runs, and no other file is read.

onnxruntime refuses a model whose weights lie in files outside of its folder. Libraries of custom operators are loaded
only on request of the program, which this module never makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfprompt.runtime.folder import ADVICE

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

IMAGES, CLASS_VECTORS, LOGITS = "images", "class_vectors", "logits"
"""Names of the inputs and the output of an exported model."""
OLDEST = (1, 24)
"""Versions of onnxruntime before this one open any file that a model names for its weights."""
ERRORS_ONLY = 3  # onnxruntime's level: its warnings are about its own optimisations


@dataclass(frozen=True)
class Session:
    """A model in onnxruntime.

    Attributes:
        run: Runs the model.
        vectors: What it compares images with, (C, E), float32; None if they are part of it.
    """

    run: "InferenceSession"
    vectors: np.ndarray | None

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits of bytes of images, (B, S, S, 3), uint8, at least one: (B, C), float32."""
        inputs = {IMAGES: pixels} if self.vectors is None else {IMAGES: pixels, CLASS_VECTORS: self.vectors}
        (logits,) = self.run.run([LOGITS], inputs)
        return np.asarray(logits, dtype=np.float32)


def open_session(
    path: Path,
    size: int,
    *,
    classes: int,
    vectors: np.ndarray | None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
) -> Session:
    """Open a model and check that it maps bytes of images to logits.

    Args:
        path: The file.
        size: Height and width of the images.
        classes: Number of classes.
        vectors: The class vectors that it takes, (C, E); None if they are part of it.
        providers: Execution providers of onnxruntime in the order of preference.
        threads: Threads of one operator; 0 for all cores.

    Raises:
        ValueError: If it is not such a model.
        ImportError: If onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("An exported model needs the package onnxruntime: pip install onnxruntime") from None
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < OLDEST:
        raise ImportError(
            f"onnxruntime {onnxruntime.__version__} may read files outside of the model's folder, and 1.24 does not: "
            "pip install -U onnxruntime"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file's name
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be opened by onnxruntime {onnxruntime.__version__}: {reason}") from error
    expected: dict[str, tuple[str, list[int | None]]] = {IMAGES: ("tensor(uint8)", [None, size, size, 3])}
    if vectors is not None:
        expected[CLASS_VECTORS] = ("tensor(float)", [None, vectors.shape[1]])
    if _signature(session.get_inputs()) != expected or not _gives_logits(session, classes, vectors is None):
        raise ValueError(
            f"{path} is damaged: it does not map images of {size} x {size} pixels to the logits of {classes} classes. "
            f"{ADVICE}"
        )
    return Session(session, vectors)


def _signature(inputs: Sequence[Any]) -> dict[str, tuple[str, list[int | None]]]:
    """Return type and shape of each input by name; None for a length that may vary."""
    return {one.name: (one.type, [n if isinstance(n, int) else None for n in one.shape]) for one in inputs}


def _gives_logits(session: "InferenceSession", classes: int, fixed: bool) -> bool:
    outputs = _signature(session.get_outputs())
    return outputs == {LOGITS: ("tensor(float)", [None, classes if fixed else None])}
