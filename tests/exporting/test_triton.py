"""A model repository for Triton: its configuration, read by protobuf's parser, fits its model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnxruntime import InferenceSession

import selfprompt
import selfprompt.runtime

FIELDS = {  # of Triton's model_config.proto: name, number, kind ("*" for repeated)
    "ModelConfig": {
        "name": (1, "string"),
        "backend": (17, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "*ModelInput"),
        "output": (6, "*ModelOutput"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
    },
    "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "*int64")},
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "*int64"),
        "label_filename": (4, "string"),
    },
    "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, "uint64")},
}
UINT8, FP32 = 2, 11
KINDS = {"string": 9, "int32": 5, "int64": 3, "uint64": 4, "DataType": 14}
MESSAGE, OPTIONAL, REPEATED = 11, 1, 3


def parse(text: str) -> Any:
    """Parse a configuration as Triton does."""
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in ((0, "TYPE_INVALID"), (UINT8, "TYPE_UINT8"), (FP32, "TYPE_FP32")):
        types.value.add(name=name, number=number)
    for message, fields in FIELDS.items():
        added = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            plain = kind.lstrip("*")
            field = added.field.add(name=name, number=number, type=KINDS.get(plain, MESSAGE))
            field.label = REPEATED if kind != plain else OPTIONAL
            if field.type in (MESSAGE, KINDS["DataType"]):
                field.type_name = f".inference.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    model = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(text, model())


@pytest.mark.slow
def test_the_repository_has_one_model_that_fits_its_configuration(exported, tmp_path, photos, run):
    out = tmp_path / "models"
    said = run("export", exported.classifier, "--to", "triton", "--name", "dogs", "--out", out, "--precision", "int8")
    assert said.status == 0, said.err
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["dogs"]
    config = parse((out / "dogs" / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("dogs", "onnxruntime", 64)
    (images,), (logits,) = config.input, config.output
    assert (images.data_type, logits.data_type) == (UINT8, FP32)
    session = InferenceSession(out / "dogs" / "1" / "model.onnx")
    pixels = np.zeros((3, *images.dims), np.uint8)
    (found,) = session.run([logits.name], {images.name: pixels})
    assert found.shape == (3, *logits.dims)
    classifier = selfprompt.load(exported.classifier)
    labels = (out / "dogs" / logits.label_filename).read_text(encoding="utf-8").splitlines()
    assert tuple(labels) == classifier.classes
    local = selfprompt.runtime.load(out)
    (one,), (other,) = local.predict(photos / "blue" / "0.png"), classifier.predict(photos / "blue" / "0.png")
    assert one.label == other.label
    (sent,) = session.run(None, {images.name: local.pixels(photos / "blue" / "0.png")[None]})
    assert classifier.classes[sent[0].argmax()] == other.label
    assert "are part of its model" in run("export", exported.classifier, "--out", out, "--classes-only").err


@pytest.mark.slow
def test_wrong_usage_is_refused(exported, tmp_path: Path, run):
    command = ("export", exported.classifier, "--to", "triton", "--out", tmp_path / "out")
    said = run(*command, "--name", 'a" b')
    assert said.status == 2
    assert "--name must be letters, digits" in said.err
    assert "--precision must be one of fp32, fp16, int8 for triton" in run(*command, "--precision", "fp32,int8").err


@pytest.mark.slow
def test_predictions_that_depend_on_their_batch_are_not_exported_to_it(tmp_path):
    from selfprompt.exporting.export import export
    from selfprompt.inference.classifier import Classifier

    backbone = selfprompt.load_backbone("embedded/clip")
    method = selfprompt.build_method("sep", backbone, ["cat", "dog"], fusion_axis="batch")
    assert not method.traits.batch_independent
    with pytest.raises(ValueError, match="depends on the other images of its batch"):
        export(Classifier(method, backbone.preprocess), tmp_path / "out", to="triton")
    assert not list(tmp_path.iterdir())
