"""Stage 3: train the embedded masked autoencoder (He et al. 2022) on the drawings, without labels or text.

Differs from the paper: a decoder of width 64 and 2 blocks, Muon in addition to AdamW, views that are also recoloured.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretraining.samples import Samples, compose, normalised, read_samples
from pretraining.training import Average, Clock, Optimizers, resume, save
from selfprompt.models.loading.embedded import MAE_STATISTICS, build_mae

MASKED = 0.75


class Autoencoder(nn.Module):
    """The encoder, which ships, and a small decoder, which does not."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = build_mae()
        patches, inside = self.encoder.patch_embed.num_patches, self.encoder.embed_dim
        self.enter = nn.Linear(inside, width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, patches, width))
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 3 * 8 * 8)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the masked patches, each normalised by its mean and deviation; a scalar."""
        encoder = self.encoder
        patches = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        count = patches.shape[1]
        order = torch.rand(patches.shape[:2], generator=generator, device=images.device).argsort(dim=1)
        kept, masked = order.split([round(count * (1 - MASKED)), round(count * MASKED)], dim=1)
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
        seen = encoder.norm(encoder.blocks(torch.cat([first, rows(patches, kept)], dim=1)))[:, 1:]
        places = self.positions.expand(len(images), -1, -1)
        inside = torch.cat([self.enter(seen) + rows(places, kept), self.mask + rows(places, masked)], dim=1)
        guess = self.leave(self.norm(self.blocks(inside)[:, kept.shape[1] :]))
        target = rows(F.unfold(images, 8, stride=8).transpose(1, 2), masked)
        target = (target - target.mean(dim=2, keepdim=True)) / (target.var(dim=2, keepdim=True) + 1e-2).sqrt()
        return F.mse_loss(guess, target)


def rows(tokens: Tensor, indices: Tensor) -> Tensor:
    """Select tokens of each image: (B, N, D) and indices (B, K) to (B, K, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[2]))


def train_mae(rank: int, ranks: int, packages: Path, corpus: Path, out: Path, samples: int, batch: int) -> None:
    """Train on a number of samples, from the checkpoint in ``out`` if it exists."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    drawings = read_samples(packages, corpus).to(device)
    model = Autoencoder().to(device)
    clock = Clock(samples, batch, level=0.5)
    optimizers = Optimizers([model], lr=1.5e-3, muon_lr=2e-3, weight_decay=0.05)
    state = resume(out / "mae.pt", clock, optimizers)
    log = state["log"] if state else []
    if state:
        model.load_state_dict(state["model"])
    average = Average()
    hidden = rank > 0
    for step in track(range(clock.step, clock.steps), "masked autoencoder", disable=hidden):
        generator = torch.Generator(device).manual_seed(1000 * step + rank)
        average.add(loss=mae_step(model, drawings, batch // ranks, generator))
        optimizers.step(clock.rate)
        clock.step = step + 1
        if clock.step % 100 == 0 or clock.step == clock.steps:
            log.append({"samples": clock.step * batch, "seconds": round(clock.elapsed), **average.read()})
            if rank == 0:
                save(out / "mae.pt", clock, optimizers, {"model": model.state_dict()}, log)
                print(log[-1], flush=True)


def mae_state(path: Path) -> dict[str, Tensor]:
    """Return the encoder of a checkpoint under timm's names."""
    whole = torch.load(path, weights_only=True, map_location="cpu")["model"]
    return {name.removeprefix("encoder."): tensor for name, tensor in whole.items() if name.startswith("encoder.")}


def mae_step(model: Autoencoder, drawings: Samples, size: int, generator: torch.Generator) -> Tensor:
    """Compute the gradients of a random batch; returns the loss."""
    device = generator.device
    indices = torch.randint(len(drawings), (size,), generator=generator, device=device)
    with torch.no_grad():
        images = compose(drawings.rgba(indices), drawings.is_black(indices), 0.7, generator)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = model(normalised(images, *MAE_STATISTICS), generator)
    loss.backward()
    return loss
