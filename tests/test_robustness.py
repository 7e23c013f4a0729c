"""Errors end with one sentence that names the file or option, and leave nothing half-written."""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selfprompt
from tests.conftest import COLOURS, FAST, photo, write_photos

TWO = {"cat": 4, "dog": 4}
ZERO_SHOT = ("--method", "zero-shot", "--backbone", "embedded/clip")


def corrupt(root: Path) -> Path:
    (write_photos(root, TWO) / "cat" / "broken.png").write_bytes(b"no image at all")
    return root


def truncated(root: Path) -> Path:
    path = write_photos(root, TWO) / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    return root


def empty_file(root: Path) -> Path:
    (write_photos(root, TWO) / "dog" / "0.png").write_bytes(b"")
    return root


def empty_class(root: Path) -> Path:
    (write_photos(root, TWO) / "bird").mkdir()
    return root


def no_classes(root: Path) -> Path:
    return write_photos(root, {".": 3})


def no_images(root: Path) -> Path:
    root.mkdir()
    return root


def unreadable_class(root: Path) -> Path:
    for path in (write_photos(root, TWO) / "dog").iterdir():
        path.write_bytes(b"no image")
    return root


def same_names(root: Path) -> Path:
    return write_photos(root, {"red panda": 2, "red_panda": 2})


def class_unknown_to_train(root: Path) -> Path:
    write_photos(root / "train", TWO)
    write_photos(root / "test", {"cat": 1, "eel": 1})
    return root


def manifest(text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        write_photos(root, TWO)
        (root / "list.csv").write_text(text, encoding="utf-8")
        return root / "list.csv"

    return write


def text_file(root: Path) -> Path:
    root.mkdir()
    (root / "notes.txt").write_text("photos of cats")
    return root / "notes.txt"


REFUSED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], tuple[str, ...]]] = {
    "no such folder": (lambda root: root, (), ("data does not exist: give a folder of images or a manifest",)),
    "no folder": (text_file, (), ("notes.txt must be a folder or a manifest",)),
    "empty folder": (no_images, (), ("must contain a folder of images for each class", "Sort them into folders")),
    "no class folders": (no_classes, (), ("contains 3 images but no folder", "Sort them into folders")),
    "one class": (lambda root: write_photos(root, {"cat": 3}), (), ("needs at least 2 classes, got cat",)),
    "empty class, to be refused": (
        empty_class,
        ("--on-empty-class", "fail"),
        ("has empty class folders: bird: add images or remove the folders",),
    ),
    "two folders of one name": (same_names, (), ("Class names must differ, got red panda twice",)),
    "a class of the test alone": (class_unknown_to_train, (), ("needs training images; only in test: eel",)),
    "a class without readable images": (unreadable_class, (), ("none is left of: dog", "dog/0.png: not an image")),
    "corrupt, to be refused": (corrupt, ("--on-bad-image", "fail"), ("cat/broken.png: not an image",)),
    "truncated, to be refused": (truncated, ("--on-bad-image", "fail"), ("dog/0.png: image file is truncated",)),
    "manifest without paths": (manifest("label\ncat\n"), (), ("list.csv needs a column 'path'",)),
    "manifest of missing files": (manifest("path,label\na.png,a\nb.png,b\n"), (), ("missing 2 files", "a.png")),
    "manifest with a strange split": (
        manifest("path,label,split\ncat/0.png,a,train\ndog/0.png,b,trian\n"),
        (),
        ("list.csv", "trian"),
    ),
    "best-val without val": (
        lambda root: write_photos(root, TWO),
        ("--select", "best-val"),
        ("select 'best-val' needs validation images", "add a val folder"),
    ),
    "no names file": (lambda root: write_photos(root, TWO), ("--class-names", "none.txt"), ("none.txt must be a",)),
    "one base class": (lambda root: write_photos(root, TWO), ("--classes", "base"), ("at least 2 class names, got 1",)),
    "unknown backbone": (
        lambda root: write_photos(root, TWO),
        ("--backbone", "embeded/mae"),
        ("Unknown backbone 'embeded/mae'. Did you mean embedded/mae?",),
    ),
    "unknown model of timm": (
        lambda root: write_photos(root, TWO),
        ("--backbone", "timm/vit_base_patch16_223"),
        ("Did you mean timm/vit_base_patch16_224",),
    ),
    "a backbone that prompts cannot enter": (
        lambda root: write_photos(root, TWO),
        ("--backbone", "timm/test_resnet/random", "--method", "spt"),
        ("spt puts prompts into the image side", "a method that reads them (ridge, logistic, linear, full), or a ViT"),
    ),
    "a backbone's file that is missing": (
        lambda root: write_photos(root, TWO),
        ("--backbone", "file/none.pth"),
        ("none.pth",),
    ),
    "a hub backbone without network": (
        lambda root: write_photos(root, TWO),
        ("--backbone", "open_clip/ViT-B-16/openai"),
        ("Could not download the weights of open_clip/ViT-B-16/openai", "use open_clip/ViT-B-16@<file>"),
    ),
    "no text tower": (
        lambda root: write_photos(root, TWO),
        ("--method", "coop"),
        ("coop needs a CLIP backbone; embedded/mae has no text tower",),
    ),
    "16-mixed without a GPU": (
        lambda root: write_photos(root, TWO),
        ("--precision", "16-mixed", "--device", "cpu"),
        ("precision 16-mixed needs a GPU. Use bf16-mixed or 32-true on a CPU.",),
    ),
    "a loss that is no number": (
        lambda root: write_photos(root, TWO),
        ("--lr", "1e30", "--epochs", "9"),
        (" at learning rate ", "Try a lower lr"),  # the loss, or the weights before it
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_cannot_be_is_refused_in_a_sentence(case, run, tmp_path):
    make, arguments, messages = REFUSED[case]
    out = tmp_path / "out"
    done = run("train", make(tmp_path / "data"), "--out", out, *FAST, *arguments)
    assert done.status == (2 if case == "16-mixed without a GPU" else 1)
    assert done.err.startswith("selfprompt: ")
    for message in messages:
        assert message in done.err
    left = {path.name for path in out.iterdir()} if out.exists() else set()
    assert left <= {"recipe.yaml", "checkpoint.safetensors", "log.csv"}, "nothing that looks like a result"


def test_the_cheap_is_checked_before_the_costly(run, tmp_path, monkeypatch):
    def costly(*_):
        raise AssertionError("loaded a backbone for a run that cannot be")

    monkeypatch.setattr("selfprompt.training.tune.load_backbone", costly)
    wrong_option = [write_photos(tmp_path / "b", TWO), "--method", "spt-deep", "--options.start", "nonsense"]
    empty = [empty_class(tmp_path / "a"), "--on-empty-class", "fail"]
    for arguments, status in ((empty, 1), (wrong_option, 2)):
        assert run("train", *FAST, *arguments, "--out", tmp_path / "out").status == status
    assert not (tmp_path / "out").exists()


def test_a_class_without_readable_images_is_named_and_left_out(run, tmp_path):
    data = write_photos(tmp_path / "data", {**TWO, "eel": 3, "hen": 1})
    for path in [*(data / "eel").iterdir(), *(data / "hen").iterdir()]:
        path.write_bytes(path.read_bytes()[:150])
    (data / "owl").mkdir()
    done = run("train", data, "--out", tmp_path / "out", *FAST)
    assert done.status == 0
    assert "Left out class folders of data without images: owl." in done.out
    assert "Left out 2 classes without a readable image: eel, hen." in done.out
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["classes"] == ["cat", "dog"]
    measured = run("eval", tmp_path / "out", data, "--format", "json")
    assert "Leaving out classes that the classifier was not trained on: eel, hen." in measured.err
    assert json.loads(measured.out)["total"] == result["images"]["test"] == 2
    one_shot = run("train", data, "--out", tmp_path / "one", *FAST, "--shots", "1")
    assert "none is left of: eel, hen" in one_shot.err, "others might have been drawn"
    strict = run("train", data, "--out", tmp_path / "strict", *FAST, "--on-empty-class", "fail")
    assert "has empty class folders: owl" in strict.err


@pytest.mark.parametrize(("make", "name"), [(corrupt, "broken.png"), (truncated, "0.png"), (empty_file, "0.png")])
def test_unreadable_images_are_left_out_by_name(make, name, run, tmp_path):
    done = run("train", make(tmp_path / "data"), "--out", tmp_path / "out", *FAST)
    assert done.status == 0
    assert "Left out 1 image that cannot be read: " in done.out
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert sum(result["images"].values()) in (7, 8)
    (note,) = [note for note in result["notes"] if "cannot be read" in note]
    assert name in note


def test_a_class_with_one_image_is_trained_and_not_tested(run, tmp_path):
    data = write_photos(tmp_path / "data", {"cat": 5, "dog": 5, "eel": 1})
    done = run("train", data, "--out", tmp_path / "out", *FAST)
    assert done.status == 0
    assert "Classes with a single image, which is kept for training: eel." in done.out
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert set(result["tuned"]["per_class"]) == {"cat", "dog"}
    assert len(result["tuned"]["confusion"]) == 3
    assert run("eval", tmp_path / "out", data).status == 0


def test_without_any_test_image_the_accuracy_is_not_known(run, tmp_path):
    data = write_photos(tmp_path / "data", {"cat": 1, "dog": 1})
    done = run("train", data, "--out", tmp_path / "out", *FAST)
    assert done.status == 0
    assert "The accuracy is unknown: there are no test images." in done.out
    assert json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["tuned"] is None
    assert "Not measured." in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def every_kind(root: Path) -> list[Path]:
    """One picture in every mode that files have."""
    root.mkdir(parents=True, exist_ok=True)
    image = photo(COLOURS["blue"], 0)
    gray = np.asarray(image.convert("L"))
    for mode in ("P", "LA", "1", "L", "RGBA"):
        image.convert(mode).save(root / f"{mode}.png")
    image.convert("P").save(root / "transparent.gif", transparency=0)
    image.convert("CMYK").save(root / "CMYK.jpg")
    Image.fromarray(gray.astype(np.uint16) * 256).save(root / "I16.png")
    Image.fromarray(gray.astype(np.float32) / 255).save(root / "F.tiff")
    image.resize((1, 1)).save(root / "one pixel.png")
    image.resize((2000, 3)).save(root / "wide.bmp")
    return sorted(root.iterdir())


def test_images_of_every_kind_are_read(run, linear, tmp_path):
    kinds = every_kind(tmp_path / "data" / "kinds")
    write_photos(tmp_path / "data", {"cat": 4})
    settings = [*FAST, "--on-bad-image", "fail", "--shots", "0"]
    assert run("train", tmp_path / "data", "--out", tmp_path / "out", *settings).status == 0
    done = run("predict", linear, *kinds, "--on-bad-image", "fail", "--format", "json")
    assert done.status == 0
    scores = {Path(record["image"]).name: record for record in json.loads(done.out)}
    assert len(scores) == len(kinds) == 11
    assert scores["L.png"]["top"] == scores["LA.png"]["top"]
    assert scores["I16.png"]["top"] == scores["L.png"]["top"], "16 bits are scaled, not clipped"


class TestPredict:
    def test_unreadable_images_are_reported_and_the_others_classified(self, run, linear, tmp_path):
        data = corrupt(tmp_path / "data")
        done = run("predict", linear, data, "--format", "json")
        assert done.status == 0
        assert f"skipped {data}/cat/broken.png: not an image" in done.err
        records = json.loads(done.out)
        assert len(records) == 9
        (bad,) = [record for record in records if "error" in record]
        assert bad == {"image": f"{data}/cat/broken.png", "error": "not an image, or of an unknown format"}

    def test_unreadable_images_are_refused_on_request(self, run, linear, tmp_path):
        done = run("predict", linear, corrupt(tmp_path / "data"), "--on-bad-image", "fail")
        assert (done.status, done.out) == (1, "")
        assert "1 of 9 images cannot be read." in done.err

    def test_nothing_readable_is_a_failure(self, run, linear, tmp_path):
        (tmp_path / "x.png").write_bytes(b"")
        done = run("predict", linear, tmp_path / "x.png", "--format", "csv")
        assert done.status == 1
        assert "x.png: the file is empty" in done.err

    @pytest.mark.parametrize("name", ["none.png", "folder"])
    def test_what_is_not_there_is_named(self, name, run, linear, tmp_path):
        (tmp_path / "folder").mkdir()
        done = run("predict", linear, tmp_path / name)
        assert done.status == 1
        assert name in done.err

    @pytest.mark.parametrize(("device", "message"), [("cuda:99", "not available"), ("tpu", "must be auto, cpu, cuda")])
    def test_a_device_that_is_not_there(self, device, message, run, linear, photos):
        done = run("predict", linear, photos, "--device", device)
        assert done.status == 2
        assert message in done.err


class TestOutput:
    @contextmanager
    def no_space(self, limit: int) -> Iterator[None]:
        """No file may grow beyond so many bytes: what a full disk or a quota does to a write."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_a_finished_run_is_kept(self, run, linear, photos, tmp_path):
        out = Path(shutil.copytree(linear, tmp_path / "out"))
        before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        for more in ([], ["--resume"]):
            done = run("train", tmp_path / "none", "--out", out, *FAST, *more)
            assert done.status == 1
            assert f"{out} holds a finished run. Choose another folder, or delete it first." in done.err
        (out / "result.json").unlink()
        assert "holds a saved classifier" in run("train", photos, "--out", out, *FAST).err
        del before["result.json"]
        assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before

    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_a_file_is_no_folder(self, name, run, photos, tmp_path):
        (tmp_path / "file").write_text("precious")
        done = run("train", photos, "--out", tmp_path / name, *FAST)
        assert done.status == 1
        assert str(tmp_path / "file") in done.err
        assert (tmp_path / "file").read_text() == "precious"

    def test_a_folder_that_exists_may_hold_other_things(self, run, photos, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        assert run("train", photos, "--out", tmp_path, *FAST).status == 0
        assert (tmp_path / "notes.txt").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written(self, run, photos, tmp_path):
        tmp_path.chmod(0o500)
        done = run("train", photos, "--out", tmp_path / "out", *FAST)
        assert done.status == 1
        assert f"{tmp_path / 'out'} cannot be written to: Permission denied. Choose another one." in done.err

    def test_a_full_disk_is_reported_before_training(self, run, photos, tmp_path):
        with self.no_space(100):
            done = run("train", photos, "--out", tmp_path / "out", *FAST)
        assert done.status == 1
        assert f"{tmp_path}/out/recipe.yaml could not be written: File too large." in done.err
        assert "epoch" not in done.out
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("limit", "name", "method"),
        [(2_000, "checkpoint.safetensors", FAST), (4_000, "config.json", ZERO_SHOT)],
        ids=["checkpoint", "config"],
    )
    def test_no_space_for_more_leaves_no_half_file_and_works_later(self, limit, name, method, run, photos, tmp_path):
        out = tmp_path / "out"
        settings = [photos, "--out", out, *method]
        with self.no_space(limit):
            done = run("train", *settings)
        assert done.status == 1
        assert f"{out / name} could not be written: File too large." in done.err
        assert "Free some space" in done.err
        left = {path.name for path in out.iterdir()}
        assert not {"result.json", "config.json"} & left
        assert not [path for path in left if path.startswith(".")]
        assert run("predict", out, photos).status == 1, "and what there is is no classifier"
        assert run("train", *settings, "--resume").status == 0
        assert run("predict", out, photos).status == 0

    def test_names_that_are_no_unicode_are_no_obstacle(self, run, tmp_path):
        root = os.fsencode(tmp_path / "data")
        try:
            os.makedirs(root + b"/caf\xe9")
        except OSError:
            pytest.skip("this file system takes Unicode only")
        write_photos(tmp_path / "data", {"tea": 4})
        for path in sorted((tmp_path / "data" / "tea").iterdir()):
            shutil.copy(path, root + b"/caf\xe9/\xff" + path.name.encode())
        (tmp_path / "data" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
        out = tmp_path / "out"
        assert run("train", tmp_path / "data", "--out", out, *FAST).status == 0
        assert selfprompt.load(out).classes[0] == os.fsdecode(b"caf\xe9")
        json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert run("eval", out, tmp_path / "data").status == 0
        for form in ("table", "csv", "json"):
            assert run("predict", out, tmp_path / "data", "--format", form).status == 0


def change_byte(out: Path) -> None:
    path = out / "prompts.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate_config(out: Path) -> None:
    path = out / "config.json"
    path.write_bytes(path.read_bytes()[:-40])


def edit(**changes: object) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config = {key: value for key, value in (config | changes).items() if value != "remove"}
        (out / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a changed byte": (change_byte, ("prompts.safetensors is damaged or belongs to another run", "train again")),
    "tensors cut off": (
        lambda out: os.truncate(out / "prompts.safetensors", 900),
        ("prompts.safetensors is damaged or belongs to another run",),
    ),
    "no tensors": (lambda out: (out / "prompts.safetensors").unlink(), ("it has no prompts.safetensors",)),
    "no config": (lambda out: (out / "config.json").unlink(), ("is not a saved classifier: it has no config.json",)),
    "config cut off": (truncate_config, ("config.json is damaged", "Restore it from a copy, or train again")),
    "config empty": (lambda out: (out / "config.json").write_text(""), ("config.json is damaged",)),
    "config of bytes": (lambda out: (out / "config.json").write_bytes(b"\xff\xfe"), ("config.json is damaged",)),
    "config of something else": (
        lambda out: (out / "config.json").write_text('{"hidden_size": 768}'),
        ("is not the config.json of a saved classifier",),
    ),
    "config is a list": (lambda out: (out / "config.json").write_text("[1]"), ("is not the config.json of a saved",)),
    "a newer format": (edit(format=99), ("has format 99; this version of selfprompt reads 1",)),
    "keys are missing": (
        edit(classes="remove", recipe="remove"),
        ("config.json is damaged: it has no classes, recipe",),
    ),
    "keys inside are missing": (
        edit(backbone={}),
        ("config.json is damaged: backbone has no name, fingerprint. Restore",),
    ),
    "keys inside are too many": (
        edit(preprocess={"colour": 1}),
        ("config.json is damaged: preprocess has no size, mean, std",),
    ),
    "another option": (edit(options={"nonsense": 1}), ("linear has no option 'nonsense'",)),
    "another method": (edit(method="vpt", options={}), ("The tensors do not fit vpt",)),
    "unknown method": (edit(method="vtp"), ("Unknown method 'vtp'. Did you mean 'vpt'?",)),
    "fewer classes": (edit(classes=["a", "b"]), ("head.bias has shape (4,), expected (2,)",)),
    "weights that changed": (
        edit(backbone={"name": "embedded/mae", "fingerprint": "0" * 64}),
        ("was trained on embedded/mae with fingerprint 000000000000", "its weights or architecture differ"),
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_classifier_is_refused_in_a_sentence(case, run, linear, photos, tmp_path):
    damage, messages = DAMAGE[case]
    out = Path(shutil.copytree(linear, tmp_path / "out"))
    damage(out)
    done = run("predict", out, photos)
    assert (done.status, done.out) == (1, "")
    for message in (str(out), *messages):
        assert message in done.err
    with pytest.raises(ValueError, match=re.escape(str(out))):
        selfprompt.load(out)


def test_another_backbone_is_refused_by_its_fingerprint(run, linear, photos):
    done = run("predict", linear, photos, "--backbone", "embedded/clip")
    assert done.status == 1
    assert f"{linear} cannot be loaded: it was trained on embedded/mae with fingerprint " in done.err
    assert "but embedded/clip has " in done.err


@pytest.mark.parametrize("name", ["none", "owner/none", "./owner/none"])
def test_a_classifier_that_is_not_there_is_named(name, run, photos):
    done = run("predict", name, photos)
    assert done.status == 1
    assert done.err.startswith(f"selfprompt: {name}")
