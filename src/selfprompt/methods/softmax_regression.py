"""Multinomial logistic regression with an L2 penalty, given or selected, by SciPy's L-BFGS.

Large products are taken in float32. scikit-learn's estimator takes all of them in float64, which costs twice the time
with a thousand classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selfprompt.methods.support import leave_out_folds, standardisation

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
FOLDS = 3
MANY = 3000  # of more images, one fold tells as much about the penalty
ONE_SHOT = 10.0  # divided by the width of the features: the inverse penalty where no image can be left out
Fit = tuple[Tensor, Tensor]
"""Weight, (C, E), and bias, (C,)."""
LARGE = 10**8  # multiplications of a product; from there on float32 saves more time than it costs to convert
ROWS = 2048  # of which the logits are held at a time


def softmax_regression(
    rows: Tensor, labels: Tensor, strength: float, start: tuple[Tensor, Tensor], *, exact: bool = True
) -> tuple[Tensor, Tensor]:
    """Minimise ``|W|^2 / 2 + strength sum CE(softmax(W z + b), y)`` in at most 1000 iterations.

    Args:
        rows: z, (N, E), float64, on the CPU; channels of similar size converge sooner.
        labels: y, (N,).
        strength: The inverse of the penalty.
        start: W, (C, E), and b, (C,), to start from.
        exact: Whether to iterate up to rounding errors; selecting a penalty needs less, at half the time.

    Returns:
        W and b, float64.
    """
    from scipy.optimize import minimize

    classes = len(start[1])
    large = rows.numel() * classes > LARGE
    objective = Objective(rows.float() if large else rows, labels, strength, classes)
    limits = {"maxiter": 1000, "maxls": 50, "gtol": 1e-5 / classes, "ftol": 1e-8 if large else 1e-11}
    limits |= {} if exact else {"gtol": 1e-5, "ftol": 1e-7}
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


def cross_validated(features: Tensor, labels: Tensor) -> tuple[float, Fit]:
    """Return the inverse penalty with the least cross-entropy on the images that are left out, and a fit with it.

    Args:
        features: Not standardised, (N, E), on the CPU.
        labels: Every class 0..C-1 occurs, and one of them more than once, (N,).
    """
    folds = leave_out_folds(labels, FOLDS)
    used = range(int(folds.max()) + 1) if len(labels) <= MANY else range(1)
    paths = [Path(features, labels, folds == fold) for fold in used]
    best, least, fitted = INVERSE_PENALTIES[0], float("inf"), paths[0].fitted
    for strength in INVERSE_PENALTIES:
        loss = sum(path.loss(strength) for path in paths)
        if loss >= least:
            break
        best, least, fitted = strength, loss, paths[0].fitted
    return best, fitted


class Path:
    """Fits without one fold, each of which starts where the one before ended; call it with rising C.

    Args:
        features: Not standardised, (N, E).
        labels: (N,).
        left_out: Which images the fold leaves out, (N,), bool.
    """

    def __init__(self, features: Tensor, labels: Tensor, left_out: Tensor) -> None:
        mean, factor = standardisation(features[~left_out].double())
        rows = (features.double() - mean) * factor
        self._kept, self._kept_labels = rows[~left_out], labels[~left_out]
        self._rest, self._rest_labels = rows[left_out], labels[left_out]
        width, classes = features.shape[1], int(labels.max()) + 1
        self.fitted: Fit = rows.new_zeros(classes, width), rows.new_zeros(classes)

    def loss(self, strength: float) -> float:
        """Return the sum of the cross-entropies of the images that are left out."""
        self.fitted = softmax_regression(self._kept, self._kept_labels, strength, self.fitted, exact=False)
        weight, bias = self.fitted
        return float(F.cross_entropy(self._rest @ weight.t() + bias, self._rest_labels, reduction="sum"))


def logistic_regression(features: Tensor, labels: Tensor, strength: float, start: Fit | None = None) -> Fit:
    """Return weight, (C, E), and bias, (C,), float64, for features that are not standardised.

    Args:
        features: Not standardised, (N, E), on the CPU.
        labels: Every class 0..C-1 occurs, (N,).
        strength: C, the inverse of the penalty on the weights for standardised features.
        start: Weight and bias for features that are nearly standardised, to start from; zeros if None.
    """
    features = features.double()
    mean, factor = standardisation(features)
    if start is None:
        start = features.new_zeros(int(labels.max()) + 1, features.shape[1]), features.new_zeros(int(labels.max()) + 1)
    weight, bias = softmax_regression((features - mean) * factor, labels, strength, start)
    weight = weight * factor
    return weight, bias - weight @ mean
