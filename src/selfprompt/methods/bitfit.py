"""BitFit: the biases of the layers and norms in the blocks, of both CLIP towers or of a ViT with a head."""

from dataclasses import dataclass

from selfprompt.methods.ln_tuning import LNTuning, LNTuningOptions


@dataclass(frozen=True)
class BitFitOptions(LNTuningOptions):
    """Options of BitFit."""


class BitFit(LNTuning):
    """``logits = scale cos(f, t_c)``, or ``W f + b``, with all biases of every block tuned.

    Differs from the reference code: the biases of queries, keys and values are tuned, too, as in the paper; the
    released code of 2SFS leaves them out. The biases outside the blocks (patch embedding, first and last norm) stay as
    they are.

    Source: Ben Zaken et al. 2022 (arXiv 2106.10199), section 3; on CLIP Farina et al. 2025 (2SFS, arXiv 2503.11609).
    """

    Options = BitFitOptions
    tuned = ("norm1.bias", "qkv.bias", "out.bias", "norm2.bias", "up.bias", "down.bias")
