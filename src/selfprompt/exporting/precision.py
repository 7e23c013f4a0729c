"""Models of lower precision from the one in float32: half floats, and 8-bit integers with dynamic scales."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from selfprompt.runtime.folder import Precision


def write_precision(source: Path, path: Path, precision: Precision) -> None:
    """Write a float32 model in another precision; inputs and outputs keep their types.

    Args:
        source: The model in float32.
        path: Path of the new file.
        precision: "fp16" stores weights and computes in half floats. "int8" stores the weights of matrix products as
            8-bit integers with a scale per column, and rounds what they are multiplied with, with a scale that is found
            at each call.
    """
    write = {"fp16": _write_half, "int8": _write_int8}[precision]
    write(source, path)


def _write_half(source: Path, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), path)


def _write_int8(source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        _fold_constants(source, folded)  # it finds weights only where they enter a product directly
        logging.getLogger().addFilter(_not_pre_processing)
        try:
            quantize_dynamic(
                folded, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
            )
        finally:
            logging.getLogger().removeFilter(_not_pre_processing)


def _not_pre_processing(record: logging.LogRecord) -> bool:
    """Drop the advice to fold constants first, which was followed."""
    return "pre-processing before quantization" not in record.getMessage()


def _fold_constants(source: Path, path: Path) -> None:
    """Write a model whose operators on constants are computed, by onnxruntime's basic optimisation."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]  # it declares all that onnxruntime knows
    model.opset_import.extend(kept)
    del model.graph.value_info[:]  # the quantiser turns matrices around, and would find their former shapes here
    onnx.save(model, path)
