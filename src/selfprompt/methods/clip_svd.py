"""CLIP-SVD: the singular values of the attention's and the MLP's matrices in every block of both CLIP towers."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import PHOTO, check_template, filled_templates
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.models.tokens import Tokens

MATRICES = ("q", "k", "v", "out", "up", "down")


@dataclass(frozen=True)
class CLIPSVDOptions:
    """Options of CLIP-SVD."""

    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_template(self.template)


class Factors(NamedTuple):
    """A frozen matrix and its singular value decomposition, ``matrix = left diag(values) right``.

    Attributes:
        matrix: (m, n).
        left: Orthonormal columns, (m, r), r = min(m, n).
        values: Singular values, falling, (r,).
        right: Orthonormal rows, (r, n).
    """

    matrix: Tensor
    left: Tensor
    values: Tensor
    right: Tensor


class Blocks(Protocol):
    """What is read of a tower."""

    depth: int

    def block_weights(self, index: int) -> dict[str, Tensor]: ...
    def derived(self, name: str, compute: Callable[[], Any]) -> Any: ...


class SingularValues(nn.Module):
    """A prompter without prompts: blocks whose matrices have other singular values.

    The matrix that a block runs with is ``W + U diag(s - s0) V^T``, which is ``U diag(s) V^T`` and, at the start, W.

    Attributes:
        q, k, v, out, up, down: Singular values s of these matrices, (depth, r); up and down are the MLP's layers.
    """

    needs_all_outputs: ClassVar[bool] = False

    def __init__(self, tower: Blocks) -> None:
        super().__init__()
        blocks = tower.derived("singular values", lambda: decompose_blocks(tower))
        for index, name in itertools.product(range(tower.depth), MATRICES):
            for part, tensor in zip(Factors._fields, blocks[index][name], strict=True):
                self.register_buffer(f"{name}_{index}_{part}", tensor, persistent=False)
        for name in MATRICES:
            values = [self.factors(index, name).values for index in range(tower.depth)]
            self.register_parameter(name, nn.Parameter(torch.stack(values)))

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return block(tokens, weights=self.weights(index))

    def factors(self, index: int, name: str) -> Factors:
        """Return the decomposition of a matrix of a block."""
        return Factors(*(self.get_buffer(f"{name}_{index}_{part}") for part in Factors._fields))

    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the matrices of a block by the names of ``Weights``."""
        q, k, v, out, up, down = (
            recompose(self.factors(index, name), self.get_parameter(name)[index]) for name in MATRICES
        )
        return {"qkv.weight": torch.cat([q, k, v]), "out.weight": out, "up.weight": up, "down.weight": down}


class CLIPSVD(Method[CLIPSVDOptions]):
    """``logits = scale cos(f, t_c)`` from two towers of which only singular values are trained.

    Singular vectors, biases, norms, and the matrices outside the blocks stay as they are. Weight decay pulls singular
    values to 0, as released.

    The first method on a backbone decomposes all matrices: about 20 seconds for a ViT-B/16 on one core.

    Source: Koleilat et al. 2025 (arXiv 2509.03740), section 3. The released code rounds the number of singular values
    of a matrix down to a multiple of 4; here all are trained.
    """

    Options = CLIPSVDOptions

    @classmethod
    def traits_for(cls, options: CLIPSVDOptions) -> Traits:
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        self.image_values = SingularValues(self.vision)
        self.text_values = SingularValues(self.text)
        self.register_texts(filled_templates([self.options.template], self.descriptions))

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts_with_shared_prefix(self.text_values, throughout=True))

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, self.image_values))


def matrices(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices of a block that are decomposed, by the names ``MATRICES``."""
    missing = sorted({"qkv.weight", "out.weight", "up.weight", "down.weight"} - weights.keys())
    if missing:
        raise ValueError(f"The blocks of this backbone have no {', '.join(missing)}; use another method.")
    q, k, v = weights["qkv.weight"].chunk(3)
    return {"q": q, "k": k, "v": v, **{name: weights[f"{name}.weight"] for name in MATRICES[3:]}}


def decompose_blocks(tower: Blocks) -> list[dict[str, Factors]]:
    """Return the decompositions of the matrices of every block, by name."""
    blocks = [matrices(tower.block_weights(index)) for index in range(tower.depth)]
    return [{name: decompose(matrix) for name, matrix in block.items()} for block in blocks]


@torch.no_grad()
def decompose(matrix: Tensor) -> Factors:
    """Return the decomposition of a matrix, (m, n), in its precision, or float32 if that is less."""
    matrix = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    return Factors(matrix, *torch.linalg.svd(matrix, full_matrices=False))


def recompose(factors: Factors, values: Tensor) -> Tensor:
    """Return the matrix with other singular values, (m, n)."""
    return factors.matrix + (factors.left * (values - factors.values)) @ factors.right
