"""Multinomial logistic regression with an L2 penalty, by SciPy's L-BFGS; large products are taken in float32.

scikit-learn's estimator takes all products in float64, which costs twice the time with a thousand classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGE = 10**8  # multiplications of a product; from there on float32 saves more time than it costs to convert
ROWS = 2048  # of which the logits are held at a time


def softmax_regression(
    rows: Tensor, labels: Tensor, strength: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Minimise ``|W|^2 / 2 + strength sum CE(softmax(W z + b), y)`` in at most 1000 iterations.

    Args:
        rows: z, (N, E), float64, on the CPU; channels of similar size converge sooner.
        labels: y, (N,).
        strength: The inverse of the penalty.
        start: W, (C, E), and b, (C,), to start from.

    Returns:
        W and b, float64.
    """
    from scipy.optimize import minimize

    classes = len(start[1])
    large = rows.numel() * classes > LARGE
    objective = Objective(rows.float() if large else rows, labels, strength, classes)
    limits = {"maxiter": 1000, "maxls": 50, "gtol": 1e-5 / classes, "ftol": 1e-8 if large else 1e-11}
    with nullcontext() if large else one_thread():
        solution = minimize(objective, objective.join(*start), jac=True, method="L-BFGS-B", options=limits)
    weight, bias = objective.split(solution.x)
    return weight.double(), bias.double()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: for small products, threads that wait for each other take twenty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Objective:
    """The mean cross-entropy and the penalty, and their gradient, of weights and biases in one vector.

    Args:
        rows: (N, E), in the precision of the products.
        labels: (N,).
        strength: The inverse of the penalty.
        classes: Number of classes, C.
    """

    def __init__(self, rows: Tensor, labels: Tensor, strength: float, classes: int) -> None:
        self.rows = rows
        self.labels = labels
        self.classes = classes
        self.penalty = 1 / (strength * len(rows))

    def __call__(self, vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the value and the gradient."""
        weight, bias = self.split(vector)
        loss, slope, shift = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
        for rows, labels in zip(self.rows.split(ROWS), self.labels.split(ROWS), strict=True):
            logs = torch.addmm(bias, rows, weight.t()).log_softmax(dim=1)
            index = torch.arange(len(rows)), labels
            loss -= float(logs[index].sum(dtype=torch.float64))
            errors = logs.exp_()
            errors[index] -= 1
            slope.addmm_(errors.t(), rows)
            shift += errors.sum(dim=0)
        count = len(self.rows)
        value = loss / count + self.penalty / 2 * float(weight.square().sum(dtype=torch.float64))
        return value, self.join(slope / count + self.penalty * weight, shift / count)

    def split(self, vector: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return weight, (C, E), and bias, (C,), in the precision of the rows."""
        tensor = torch.from_numpy(vector).to(self.rows.dtype)
        return tensor[: -self.classes].view(self.classes, -1), tensor[-self.classes :]

    def join(self, weight: Tensor, bias: Tensor) -> NDArray[np.float64]:
        """Return weight and bias as a vector, (C E + C,)."""
        return np.asarray(torch.cat([weight.flatten(), bias]).double().numpy())
