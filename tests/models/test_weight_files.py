"""Weight files are recognised by their bytes, and reading them never runs code in them."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.checkpoint_files import read_checkpoint
from selfprompt.models.loading.weight_files import read_weights
from tests.models.tiny import vit

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def encoder(**options: Any) -> dict[str, Tensor]:
    """The weights of a small ViT whose heads can be inferred."""
    torch.manual_seed(0)
    return vit(embed_dim=128, num_heads=2, num_classes=0, **options).state_dict()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


INSTEAD = {
    "nothing": (b"", "is empty. Download it again"),
    "a web page": (PAGE, "is a web page, not weights; perhaps the link needs a login"),
    "a web page with a mark": (b"\xef\xbb\xbf<html>", "is a web page"),
    "an error in XML": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "is a web page"),
    "a pointer": (POINTER, "is a Git LFS pointer.* Run `git lfs pull`"),
    "gzip": (gzip.compress(b"weights"), r"is packed \(gzip\). Unpack it"),
    "bzip2": (b"BZh91AY&SY", r"is packed \(bzip2\)"),
    "xz": (b"\xfd7zXZ\x00", r"is packed \(xz\)"),
    "tar": (tarred(), r"is packed \(tar\)"),
    "a zip of photos": (zipped(**{"a.jpg": b"x"}), "is a zip file without weights"),
    "half a zip": (
        zipped(**{"a/data.pkl": b"x" * 99})[:60],
        "cannot be read: its end is missing or damaged .*Is the download complete",
    ),
    "JSON": (b'{"error": "Repository not found"}', "is JSON text, not weights"),
    "text": (b"Please accept the licence first.", "is a text file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "an array": (b"\x93NUMPY\x01\x00", "is a single NumPy array"),
    "an image": (b"\x89PNG\r\n", "is a PNG image"),
    "noise": (bytes(range(1, 60)), "is of an unknown kind, or damaged"),
    "a pickle of old": (pickle.dumps({"a": 1}, protocol=2), "cannot be read: it is damaged"),
    "half a pickle": (pickle.dumps(list(range(500)), protocol=4)[:100], "cannot be read: it is damaged"),
    "torch's magic number alone": (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "cannot be read: it is damaged"),
}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz", "a.pt"])
@pytest.mark.parametrize("case", INSTEAD)
def test_other_files_are_recognised(case, name, tmp_path):
    content, message = INSTEAD[case]
    (tmp_path / name).write_bytes(content)
    if name == "a.npz" and case == "a zip of photos":
        message = "cannot be read as .npz: it holds 'a.jpg'"
    with pytest.raises(ValueError, match=f"^{tmp_path / name} {message}") as raised:
        read_weights(tmp_path / name)
    assert "pickle can run code" not in str(raised.value)


@pytest.mark.parametrize("form", ["torch", "safetensors", "old torch"])
@pytest.mark.parametrize("name", ["weights", "weights.npz", "weights.safetensors", "weights.pth"])
def test_the_content_decides_and_not_the_name(form, name, tmp_path):
    state, path = encoder(), tmp_path / name
    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    found = read_checkpoint(path)
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[key], state[key]) for key in state)


# archives


class Planted(nn.Module):
    """Writes a file when torch.jit loads it."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str]:
        return self.weight, self.target

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str]) -> None:
        self.weight = state[0]
        self.target = state[1]
        self.training = False
        torch.save(state[0], state[1])

    def forward(self, x: Tensor) -> Tensor:
        return x


class Holder(nn.Module):
    """A module with tensors of several kinds, shared and viewed, and a submodule."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.small = nn.Parameter(torch.randn(2, 2).half())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("view", torch.arange(12.0).view(3, 4).t()[1:])
        self.register_buffer("flag", torch.tensor([True, False]))
        self.inner = inner
        self.names = ["a", "b"]
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def scripted(tmp_path) -> Callable[[nn.Module], Path]:
    def save(module: nn.Module) -> Path:
        torch.jit.script(module).save(str(tmp_path / "archive.pt"))
        return tmp_path / "archive.pt"

    return save


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::DeprecationWarning")
class TestTorchScript:
    def test_the_tensors_are_those_of_torch(self, scripted):
        path = scripted(Holder(nn.Linear(2, 2)))
        kind, found = read_weights(path)
        wanted = torch.jit.load(str(path)).state_dict()
        assert kind == "torchscript"
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name

    def test_its_code_does_not_run(self, scripted, tmp_path):
        planted = Planted(str(tmp_path / "planted"))
        path = scripted(Holder(planted))
        torch.jit.load(str(path))
        assert (tmp_path / "planted").exists(), "torch runs it: there is something to be safe from"
        (tmp_path / "planted").unlink()
        _, found = read_weights(path)
        assert torch.equal(found["inner.0"], planted.weight)
        with pytest.raises(ValueError, match="has none of the known layouts"):
            load_backbone(f"file/{path}")
        assert not (tmp_path / "planted").exists()

    @pytest.mark.parametrize(
        "pickled",
        [
            b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
            b"\x80\x02}r\xff\xff\xff\x7fh\x00.",
            b"\x80\x02" + b"(" * 1000 + b".",
            b"\x80\x02" + b"]" * 2000 + b"a" * 1999 + b".",
            b"\x80\x02]q\x00h\x00a.",
            b"\x80\x02"
            + b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(60)).replace(b"]q\x01", b"]q\x00]q\x01")
            + b".",
            b"\x80\x02X\xff\xff\xff\x7f.",
            b"",
            b"garbage",
        ],
    )
    def test_malicious_descriptions_are_refused(self, pickled, tmp_path):
        path = tmp_path / "a.pt"
        path.write_bytes(zipped(**{"a/data.pkl": pickled, "a/constants.pkl": b"\x80\x02).", "a/data/0": b"1234"}))
        with pytest.raises(ValueError, match=str(path)):
            read_checkpoint(path)

    def test_a_tensor_larger_than_its_bytes(self, scripted, tmp_path):
        path = scripted(nn.Linear(3, 2))
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        (described,) = [name for name in members if name.endswith("/data.pkl")]
        assert members[described].count(b"(K\x02K\x03t") == 1  # the weight's shape
        members[described] = members[described].replace(b"(K\x02K\x03t", b"(K\xffK\xfft")
        path.write_bytes(zipped(**members))
        with pytest.raises(ValueError, match=r"archive.pt cannot be read: .*larger than its 6 stored numbers"):
            read_weights(path)


# sizes and kinds that a file only claims


def test_a_tensor_that_repeats_one_number(tmp_path):
    torch.save({"patch_embed.proj.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"patch_embed.proj.weight has the shape \(1099511627776,\) and fewer numbers"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, dtype=torch.complex64), "holds numbers of the type complex64"),
        (torch.zeros(2).to(torch.float8_e5m2), "holds numbers of the type float8_e5m2"),
        (torch.eye(2).to_sparse(), "is not a dense tensor"),
        (torch.empty(2, device="meta"), "is not a dense tensor"),
    ],
)
def test_tensors_of_other_kinds(tensor, message, tmp_path):
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth cannot be read: .*{message}|it is damaged"):
        read_checkpoint(tmp_path / "a.pth")


def test_an_archive_that_unpacks_to_more(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 22))
    with pytest.raises(ValueError, match=r"a.npz must unpack to at most [0-9,]+ bytes, and it has 4,194,304"):
        read_weights(tmp_path / "a.npz")


def test_npz_with_foreign_members(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"a.npz cannot be read as .npz: it holds 'notes.txt'"):
        load_backbone(f"file/{tmp_path}/a.npz")


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.array(["x"]), np.zeros(2, dtype=[("a", "f4")])])
def test_npz_with_other_arrays(array, tmp_path):
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(ValueError, match=r"a.npz cannot be read as .npz: a.npy holds .*, not numbers"):
        load_backbone(f"file/{tmp_path}/a.npz")


def test_objects_of_python_are_named(tmp_path):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth must hold tensors alone, .*torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "a.pth")


# several models in one file


def dino() -> dict[str, Any]:
    """A checkpoint in the format of DINO's training."""
    teacher, student = encoder(), {key: value + 1 for key, value in encoder().items()}
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_v": torch.zeros(2, 2)}
    return {
        "student": {f"module.backbone.{key}": v for key, v in student.items()}
        | {f"module.{k}": v for k, v in head.items()},
        "teacher": {f"backbone.{key}": v for key, v in teacher.items()} | head,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


class TestSeveralModels:
    def test_the_teacher_of_dino_is_used_and_noted(self, tmp_path):
        torch.save(dino(), tmp_path / "dino.pth")
        backbone = load_backbone(f"file/{tmp_path}/dino.pth")
        wanted = encoder()
        assert all(torch.equal(wanted[key], value) for key, value in backbone.vision.vit.state_dict().items())
        assert "dino.pth holds teacher and student: teacher is used; dino.pth#student selects another" in backbone.note

    def test_the_other_model_can_be_selected(self, tmp_path):
        torch.save(dino(), tmp_path / "dino.pth")
        backbone = load_backbone(f"file/{tmp_path}/dino.pth#student")
        assert torch.equal(backbone.vision.vit.cls_token, encoder()["cls_token"] + 1)
        assert "holds teacher and student" not in backbone.note
        with pytest.raises(ValueError, match=r"dino.pth holds no 'tutor'; it holds dino_loss, student, teacher\."):
            load_backbone(f"file/{tmp_path}/dino.pth#tutor")

    @pytest.mark.parametrize("key", ["model_state_dict", "ema", "net", "teacher", "module", "model_state"])
    @pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "model.vit.", "_orig_mod."])
    def test_nesting_and_prefixes_are_removed(self, key, prefix, tmp_path):
        state = encoder()
        torch.save({key: {prefix + name: value for name, value in state.items()}, "epoch": 1}, tmp_path / "a.pth")
        found = read_checkpoint(tmp_path / "a.pth")
        assert found.state.keys() == state.keys()
        assert found.note == ""

    def test_deeper_nesting(self, tmp_path):
        torch.save({"state": {"model": {"ema": encoder()}}}, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth").state.keys() == encoder().keys()

    def test_an_ambiguous_file_is_refused(self, tmp_path):
        torch.save({"left": encoder(), "right": encoder()}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"holds several sets of tensors: left, right. .*a.pth#left"):
            read_checkpoint(tmp_path / "a.pth")
        assert read_checkpoint(f"{tmp_path}/a.pth#right").state.keys() == encoder().keys()
        both = {f"{side}.{key}": value for side in ("one", "two") for key, value in encoder().items()}
        torch.save(both, tmp_path / "b.pth")
        with pytest.raises(ValueError, match=r"b.pth holds several models: one, two"):
            read_checkpoint(tmp_path / "b.pth")

    def test_a_file_with_a_hash_in_its_name(self, tmp_path):
        torch.save(encoder(), tmp_path / "a#b.pth")
        assert read_checkpoint(tmp_path / "a#b.pth").state.keys() == encoder().keys()

    def test_the_content_of_a_file_without_tensors_is_listed(self, tmp_path):
        torch.save({"epoch": 3, "args": {"lr": 0.1}}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"a.pth holds no tensors, only args, epoch\."):
            read_checkpoint(tmp_path / "a.pth")


def test_a_text_side_of_a_million_positions(tmp_path):
    from tests.models.tiny import clip

    state = clip(text={"vocab_size": 49408}).state_dict()
    state["positional_embedding"] = torch.zeros(5000, state["positional_embedding"].shape[1])
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: The text side has 5000 positions, more than 4096"):
        load_backbone(f"file/{tmp_path}/a.safetensors")


def test_a_false_header_of_safetensors(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(ValueError, match=r"a.safetensors cannot be read: it is damaged"):
        read_weights(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((1 << 39).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"b.safetensors cannot be read: it is damaged"):
        read_weights(tmp_path / "b.safetensors")
