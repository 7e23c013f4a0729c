"""How torch multiplies float32 matrices: by the fastest path that is exact on this machine.

On a CPU torch has two paths: its BLAS library ("highest") and oneDNN ("medium"). On some processors, such as AMD's with
AVX-512, oneDNN is exact and nearly twice as fast; where the processor has AMX it computes in bfloat16 instead, which
is not exact. A small product by each path, held against float64, tells which one this processor is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

Float32 = Literal["auto", "highest", "high", "medium"]
"""torch's names of the paths, or "auto"."""
LARGEST_ERROR = 1e-6
"""Largest error of an exact path relative to the product in float64, in the Frobenius norm; float32 rounds by 6e-8."""
GAIN = 1.4
"""How many times as fast the other path must be: more than noise, and than its greater cost for small products. It is
1.04 to 1.15 times as fast where AVX-512 units have half the width, and 1.8 to 2.3 times where they are whole."""
ROWS, INNER, COLUMNS = 256, 768, 1024
"""Shape of the product: that of a few images in a ViT-B."""
ROUNDS = 9


@contextmanager
def float32_products(choice: Float32, device: str) -> Iterator[None]:
    """Set the path of float32 matrix products within the context, and restore the caller's afterwards.

    Args:
        choice: A path, or "auto": the fastest exact one on a CPU, TF32 ("high") on a GPU, whose products are rounded to
            11 bits. A path that the caller has set for torch, other than the default, is kept.
        device: Kind of device: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.
    """
    import torch

    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has used torch's newer settings, which this one contradicts
        yield
        return
    if choice == "auto" and before != "highest":
        yield
        return
    torch.set_float32_matmul_precision(_automatic(device) if choice == "auto" else choice)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _automatic(device: str) -> str:
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()):
        return "high"
    return fastest_exact_path(torch.get_num_threads())


@cache
def fastest_exact_path(threads: int) -> Literal["highest", "medium"]:
    """Return the fastest exact path for float32 products on this CPU; takes about 50 ms the first time.

    Args:
        threads: torch's number of threads, which the choice may depend on.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(ROWS, INNER, generator=generator), torch.randn(INNER, COLUMNS, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        if float((left @ right - exact).norm() / exact.norm()) > LARGEST_ERROR:
            return "highest"
        seconds = {"highest": float("inf"), "medium": float("inf")}
        for path in list(seconds) * ROUNDS:
            torch.set_float32_matmul_precision(path)
            start = time.process_time()  # which other work on the machine disturbs least
            left @ right
            seconds[path] = min(seconds[path], time.process_time() - start)
    finally:
        torch.set_float32_matmul_precision(before)
    return "medium" if GAIN * seconds["medium"] <= seconds["highest"] else "highest"


def matmul_path(device: str) -> str:
    """Return the path of float32 products that is set for a kind of device: "highest", "high" or "medium".

    ``torch.get_float32_matmul_precision`` raises once torch's newer settings have been used, such as
    ``torch.backends.cuda.matmul.fp32_precision = "tf32"``; so these are read if torch has them.
    """
    import torch

    settings = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    newer = getattr(getattr(settings.get(device), "matmul", None), "fp32_precision", None)
    if newer is None:
        return torch.get_float32_matmul_precision() if device in settings else "highest"
    result: str = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}.get(newer, newer)
    return result


def remark(device: str) -> str:
    """Return a sentence about the path that is set for a kind of device; empty for torch's default."""
    path = matmul_path(device)
    if path == "highest" or device not in ("cpu", "cuda"):
        return ""
    if device == "cuda":
        return "float32 products are rounded to TF32; --float32 highest computes them exactly."
    return f"float32 products take torch's path {path!r}."
