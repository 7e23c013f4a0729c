"""The methods of docs/adding-a-method.md run everywhere, as files of the package and as modules of somebody else."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import selfprompt
import selfprompt.methods
from selfprompt.methods import list_methods
from selfprompt.training.reporter import LogReporter
from tests.methods.tiny import images

GUIDE = (Path(__file__).parents[2] / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
EXAMPLES = {
    re.findall(r"class (\w+)\(Method", source)[0]: source
    for source in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    if "(Method" in source
}
TAKES_NEW_NAMES = {"Adapter": True, "Anchored": True, "Ridge": False}


def forget(module: str) -> None:
    """Remove a module, and the packages that hold it, from those that are imported."""
    for name in (module, *(module.rpartition(".")[0],) * (not module.startswith("selfprompt"))):
        sys.modules.pop(name, None)


@pytest.fixture(params=[(name, dropped) for name in TAKES_NEW_NAMES for dropped in (True, False)], ids=str)
def example(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A method of the guide: its class and its name, in ``methods/`` or in a package of somebody else."""
    cls, dropped = request.param
    package = tmp_path / "guide_package"
    package.mkdir()
    (package / f"guide_{cls.lower()}.py").write_text(EXAMPLES[cls], encoding="utf-8")
    if dropped:
        monkeypatch.setattr(selfprompt.methods, "__path__", [*selfprompt.methods.__path__, str(package)])
        yield cls, f"guide-{cls.lower()}"
        forget(f"selfprompt.methods.guide_{cls.lower()}")
    else:
        monkeypatch.syspath_prepend(str(tmp_path))
        yield cls, f"guide_package.guide_{cls.lower()}:{cls}"
        forget(f"guide_package.guide_{cls.lower()}")


def test_the_guide_has_three_short_methods() -> None:
    assert set(EXAMPLES) == set(TAKES_NEW_NAMES)
    assert all(len(source.splitlines()) <= 60 for source in EXAMPLES.values())


class Impatient(LogReporter):
    """Interrupts a run after its second epoch."""

    def message(self, line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt


def test_a_method_of_the_guide_resumes_bit_for_bit(example: tuple[str, str], photos: Path, tmp_path: Path) -> None:
    cls, name = example
    settings = {"method": name, "backbone": "embedded/clip", "epochs": 3, "lr": 0.05, "shots": 2, "workers": 0}
    straight = selfprompt.tune(photos, **settings)
    if cls != "Ridge":  # it has no epochs
        with pytest.raises(KeyboardInterrupt):
            selfprompt.tune(photos, **settings, out=tmp_path / "out", reporter=Impatient())
    resumed = selfprompt.tune(photos, **settings, out=tmp_path / "out", resume=True)
    tensors = resumed.method.adapter_state_dict()
    assert all(tensor.equal(tensors[key]) for key, tensor in straight.method.adapter_state_dict().items())
    assert tensors


@pytest.mark.slow
def test_a_method_of_the_guide_runs_from_training_to_new_class_names(
    example: tuple[str, str], run: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    (cls, name), out = example, tmp_path / "out"
    settings = ["--method", name, "--backbone", "embedded/clip", "--workers", "0", "--epochs", "2"]
    assert run("train", photos, *settings, "--out", out).status == 0
    assert run("eval", out, photos, "--trust").status == 0
    image = next((photos / "blue").iterdir())
    assert run("predict", out, image, "--trust").status == 0
    renamed = run("predict", out, image, "--trust", "--classes", "sea,sky")
    assert (renamed.status == 0) == TAKES_NEW_NAMES[cls]
    assert TAKES_NEW_NAMES[cls] or "cannot take new class names" in renamed.err
    classifier = selfprompt.load(out, trust=True)
    assert classifier.method.name == name
    pictures = images(3)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(classifier.method, (pictures[:2],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(pictures), classifier.method(pictures), rtol=1e-4, atol=1e-3)  # scaled cosines


def test_a_method_of_the_guide_is_listed_and_benchmarked(
    example: tuple[str, str], run: Callable[..., Any], tmp_path: Path
) -> None:
    cls, name = example
    shown = run("methods", name)
    assert shown.status == 0
    assert f"Options of {'CLIP-Adapter' if cls == 'Adapter' else ''}" in shown.out
    if ":" not in name:
        assert list_methods()[name] in EXAMPLES[cls]
        assert name in run("methods").out
    option, value = {"Adapter": ("ratio", 0.3), "Anchored": ("weight", 2.0), "Ridge": ("penalty", 0.1)}[cls]
    row = f"{name}[options.{option}={value}]"
    settings = ["--datasets", "flags", "--shots", "1", "--seeds", "1", "--epochs", "1", "--workers", "0"]
    done = run("bench", "base-to-new", "--methods", row, *settings, "--out", tmp_path / "runs")
    assert done.status == 0, done.err
    (result,) = (tmp_path / "runs").rglob("result.json")
    assert json.loads(result.read_bytes())["recipe"]["options"] == {option: value}
    assert run("report", tmp_path / "runs").status == 0
