"""The network that is exported, from bytes of images to logits, and its conversion to ONNX."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from selfprompt.data.loading.image_views import PreprocessLike
from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.runtime.session import CLASS_VECTORS, IMAGES, LOGITS

OPSET = 20
MAX_BYTES = 2 * 10**9
"""Bytes of weights in one ONNX file, whose format ends at 2^31."""


class Network(nn.Module):
    """Maps bytes of images, (B, S, S, 3), uint8, to logits, (B, C); normalisation is part of it.

    Attributes:
        method: The trained method.
        class_vectors: The vectors of its classes, (C, E), if it compares vectors; otherwise None.
    """

    mean: Tensor
    std: Tensor
    class_vectors: Tensor | None

    def __init__(self, method: Method, preprocess: PreprocessLike) -> None:
        super().__init__()
        self.method = method
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))
        vectors = method.class_vectors().detach().float() if method.compares_vectors else None
        self.register_buffer("class_vectors", vectors)

    def forward(self, images: Tensor, class_vectors: Tensor | None = None) -> Tensor:
        """Compute the logits.

        Args:
            images: (B, S, S, 3), uint8.
            class_vectors: Vectors of any number of classes, (C, E); None for the method's own.
        """
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        views = Views((pixels - self.mean) / self.std)
        vectors = self.class_vectors if class_vectors is None else class_vectors
        if vectors is None:
            return self.method.logits(views)
        return self.method.class_logits(self.method.encode_images(views), vectors)


def write_network(network: Network, size: int, path: Path, *, vectors_apart: bool) -> None:
    """Write a network as an ONNX model for any number of images.

    Args:
        network: The network, on the CPU, in eval mode.
        size: Height and width of the images.
        path: Path of the file.
        vectors_apart: Whether the class vectors are an input, of any number of classes; for networks that have some.

    Raises:
        RuntimeError: If the network cannot be expressed in ONNX, or is too large for one file.
    """
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # of one image, the exporter would fix the number
    inputs: tuple[Tensor, ...] = (images,)
    shapes = {IMAGES: {0: torch.export.Dim("batch")}}
    if vectors_apart and network.class_vectors is not None:
        inputs += (network.class_vectors.clone(),)  # it takes a tensor that it knows for a constant
        shapes |= {CLASS_VECTORS: {0: torch.export.Dim("classes")}}
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network,
                inputs,
                input_names=list(shapes),
                output_names=[LOGITS],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise RuntimeError(
            f"{network.method.name} on {network.method.backbone.name} cannot be expressed in ONNX: "
            f"{_reason(error)}. SELFPROMPT_DEBUG=1 shows where."
        ) from error
    assert program is not None  # it is None only for the former exporter
    _write(program, path, network)


def _write(program: torch.onnx.ONNXProgram, path: Path, network: Network) -> None:
    """Write a program without the exporter's notes, which hold stack traces with the paths of this machine."""
    from onnx_ir import save
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, CommonSubexpressionEliminationPass

    model = program.model
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > MAX_BYTES:
        raise RuntimeError(
            f"{network.method.backbone.name} has {size / 1e9:.1f} GB of weights on its image side, and one ONNX file "
            "holds 2 GB. Use a smaller backbone."
        )
    for tidy in (CommonSubexpressionEliminationPass(), ClearMetadataAndDocStringPass()):
        tidy(model)
    save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own optimisations off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # torch 2.8 prints what it has rewritten
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
