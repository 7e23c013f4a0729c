"""The path of float32 matrix products: exact by default, the caller's setting kept, and said in results."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import selfprompt
from selfprompt.utils import matmul
from selfprompt.utils.matmul import LARGEST_ERROR, fastest_exact_path, float32_products, matmul_path, remark


@pytest.fixture(autouse=True)
def torch_as_it_starts() -> Iterator[None]:
    """torch's default path before and after each test, and no choice of an earlier one."""
    torch.set_float32_matmul_precision("highest")
    fastest_exact_path.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    fastest_exact_path.cache_clear()


def error() -> float:
    """The relative error of a product by the present path, of another shape than that of the probe."""
    generator = torch.Generator().manual_seed(5)
    left, right = torch.randn(197, 512, generator=generator), torch.randn(512, 300, generator=generator)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def test_the_automatic_path_is_exact_whatever_the_processor() -> None:
    with float32_products("auto", "cpu"):
        assert matmul_path("cpu") == fastest_exact_path(torch.get_num_threads())
        assert error() < LARGEST_ERROR
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_path_that_rounds_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "LARGEST_ERROR", 0.0)
    assert fastest_exact_path(1) == "highest"


@pytest.mark.parametrize(("medium", "chosen"), [(1.0, "highest"), (0.9, "highest"), (0.7, "medium")])
def test_of_exact_paths_the_clearly_faster_one_is_taken(
    medium: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes as if the paths took so long: reading the clock after a product by oneDNN adds less."""
    now = [0.0, False]

    def clock() -> float:
        now[0] += (medium if torch.get_float32_matmul_precision() == "medium" else 1.0) if now[1] else 0.0
        now[1] = not now[1]
        return now[0]

    monkeypatch.setattr(matmul, "LARGEST_ERROR", math.inf)
    monkeypatch.setattr(matmul.time, "process_time", clock)
    assert fastest_exact_path(1) == chosen


def test_what_the_caller_has_set_is_kept() -> None:
    torch.set_float32_matmul_precision("high")
    with float32_products("auto", "cpu"):
        assert torch.get_float32_matmul_precision() == "high"
    with float32_products("highest", "cpu"):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"


def test_it_is_restored_after_an_error() -> None:
    with pytest.raises(KeyError), float32_products("medium", "cpu"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_takes_tf32_and_says_so() -> None:
    with float32_products("auto", "cuda"):
        assert torch.get_float32_matmul_precision() == "high"
        assert remark("cuda") == "float32 products are rounded to TF32; --float32 highest computes them exactly."
    assert remark("cuda") == remark("cpu") == remark("mps") == ""
    with float32_products("medium", "cpu"):
        assert remark("cpu") == "float32 products take torch's path 'medium'."


@pytest.mark.parametrize("path", ["highest", "medium"])
def test_results_say_which_path_it_was(path: str, photos: Path, tmp_path: Path) -> None:
    selfprompt.tune(photos, method="ridge", backbone="embedded/mae", float32=path, out=tmp_path / path)
    assert json.loads((tmp_path / path / "result.json").read_text(encoding="utf-8"))["float32"] == path


def test_predictions_take_the_path_that_is_asked_for(linear: Path, photos: Path, run) -> None:
    seen: list[str] = []
    classifier = selfprompt.load(linear)
    classifier.method.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    for classifier.float32 in ("highest", "medium"):
        classifier.predict(photos / "blue")
    assert seen == ["highest", "medium"]
    image = next(iter((photos / "blue").iterdir()))
    assert run("predict", linear, image, "--float32", "medium").status == 0
    assert run("predict", linear, image, "--float32", "half").status == 2


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_predictions_in_bfloat16(command: str, linear: Path, photos: Path, run) -> None:
    ran = run(command, linear, photos, "--precision", "bf16-mixed")
    assert ran.status == 0
    refused = run(command, linear, photos, "--precision", "16-mixed", "--device", "cpu")
    assert (refused.status, "needs a GPU" in " ".join(refused.err.split())) == (2, True)


def test_bfloat16_rounds_and_changes_no_easy_answer(linear: Path, photos: Path) -> None:
    classifier = selfprompt.load(linear)
    exact = classifier.predict(photos, top=4)
    classifier.precision = "bf16-mixed"
    rounded = classifier.predict(photos, top=4)
    assert [one.label for one in rounded] == [one.label for one in exact]
    scores = [abs(one.score - other.score) for one, other in zip(rounded, exact, strict=True)]
    assert 0 < max(scores) < 0.05
