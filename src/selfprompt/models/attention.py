"""Softmax attention by the kernel that is faster for its size."""

import torch.nn.functional as F
from torch import Tensor

SHORT = 32
"""Keys up to which a CPU attends faster by plain products (measured: twice at 6 to 25; slower from 200 on)."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, (B, heads, R, A / heads); on a CPU few tokens do not repay the fused kernel, head by head."""
    if not q.is_cpu or k.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if mask is None else scores + mask).softmax(dim=-1).to(v.dtype) @ v
