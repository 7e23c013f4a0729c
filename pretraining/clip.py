"""Stage 4: train the embedded CLIP on the drawings and their names.

With a few thousand concepts and few drawings of each, a contrastive loss within a batch teaches little. Therefore both
images and texts are classified against one table of concept vectors (prototypes; not shipped), which ties the towers
together; a contrastive loss is added with a small weight. The image tower is initialised from the masked autoencoder
with whitened features, and the table with the mean features of each concept's drawings: training from there is many
times faster than from random vectors.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from rich.progress import track
from torch import Tensor, nn

from pretraining.captions import Captions, in_template, make_captions
from pretraining.concepts import Forbidden, read_emoji
from pretraining.mae import mae_state
from pretraining.samples import Samples, compose, normalised, read_samples
from pretraining.training import Average, Clock, Optimizers, resume, save
from selfprompt.models.loading.embedded import EmbeddedTokenizer, weights_file

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SEEN = 0.28125
EMOJI_SHARE = 0.7


class Glance(nn.Module):
    """Keeps the class token and a sample of the patches, non-uniform ones more often; replaces patch dropout.

    Most patches of a pictogram are plain background, on which uniform sampling would spend most of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def choose(self, images: Tensor, part: float, generator: torch.Generator) -> None:
        """Choose the patches of the next batch by weighted sampling without replacement (Gumbel top-k)."""
        if part >= 1:
            self.kept = None
            return
        squares = F.avg_pool2d(images.square(), 8) - F.avg_pool2d(images, 8).square()
        weight = squares.clamp(min=0).mean(dim=1).sqrt().flatten(1) + 0.05
        noise = torch.rand(weight.shape, generator=generator, device=weight.device).clamp(min=1e-6)
        score = weight.log() - (-noise.log()).log()
        self.kept = score.topk(round(part * weight.shape[1]), dim=1).indices

    def forward(self, x: Tensor) -> Tensor:
        """Select tokens: (B, 1 + N, D) to (B, 1 + K, D)."""
        if self.kept is None or not self.training:
            return x
        chosen = x[:, 1:].gather(1, self.kept[..., None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, :1], chosen], dim=1)


def build_clip() -> CLIP:
    """Build the embedded CLIP of ``clip.json``, with weights drawn from the global random state."""
    config = json.loads(weights_file("clip").with_suffix(".json").read_text())
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text, quick_gelu=False)


class Pretrainer(nn.Module):
    """The CLIP, which ships, and the table of concepts, which does not."""

    def __init__(self, concepts: int, groups: int) -> None:
        super().__init__()
        self.clip: CLIP = build_clip()
        self.clip.visual.patch_dropout = self.glance = Glance()
        self.table = nn.Parameter(torch.randn(concepts, 128))
        self.groups = nn.Parameter(torch.randn(groups, 128))
        self.scale = nn.Parameter(torch.tensor(2.7))

    def images(self, pixels: Tensor) -> Tensor:
        """Return unit features, (B, E)."""
        return F.normalize(self.clip.visual(pixels), dim=1)

    def texts(self, ids: Tensor) -> Tensor:
        """Return unit features, (B, E), of token ids, (B, 32), skipping the common padding."""
        longest = int(ids.argmax(dim=1).max()) + 1
        clip = self.clip
        x = clip.token_embedding(ids[:, :longest]) + clip.positional_embedding[:longest]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:longest, :longest])
        x = clip.ln_final(x)[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]
        return F.normalize(x @ clip.text_projection, dim=1)

    def scores(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return scaled cosines of unit features and the vectors of a table, (B, rows of the table)."""
        return self.scale.exp().clamp(max=100) * features @ F.normalize(vectors, dim=1).t()


@dataclass(frozen=True)
class Material:
    """The data of a training step."""

    drawings: Samples
    captions: Captions
    groups: Tensor
    emoji: Tensor
    icons: Tensor
    tokenizer: EmbeddedTokenizer


def read_material(packages: Path, corpus: Path, device: torch.device) -> Material:
    """Read the drawings with a concept and make the captions of the concepts."""
    drawings = read_samples(packages, corpus)
    captions = make_captions(drawings.concepts, Forbidden(read_emoji(packages).concepts.values()))
    is_emoji = torch.tensor([bool(concept.code) for concept in drawings.concepts])
    names = sorted({concept.group for concept in drawings.concepts} - {""})
    groups = [names.index(concept.group) if concept.group else -1 for concept in drawings.concepts]
    known = drawings.labels >= 0
    emoji = known & is_emoji[drawings.labels.clamp(min=0)]
    return Material(
        drawings.to(device),
        captions,
        torch.tensor(groups).to(device),
        torch.nonzero(emoji)[:, 0].to(device),
        torch.nonzero(known & ~emoji)[:, 0].to(device),
        EmbeddedTokenizer(),
    )


def draw_images(material: Material, size: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw random views and their concepts."""
    device = material.emoji.device
    part = round(size * EMOJI_SHARE)
    rows = [
        among[torch.randint(len(among), (number,), generator=generator, device=device)]
        for among, number in ((material.emoji, part), (material.icons, size - part))
    ]
    indices = torch.cat(rows)[torch.randperm(size, generator=generator, device=device)]
    drawings = material.drawings
    images = compose(drawings.rgba(indices), drawings.is_black(indices), strength, generator)
    return normalised(images, MEAN, STD), drawings.labels[indices]


def draw_texts(material: Material, labels: Sequence[int], rng: random.Random) -> tuple[Tensor, Tensor, list[int]]:
    """Draw a caption for each label, half of the time its name; returns token ids, targets and text indices."""
    captions = material.captions
    chosen = [captions.of[label][0] if rng.random() < 0.5 else rng.choice(captions.of[label]) for label in labels]
    ids = material.tokenizer([in_template(captions.texts[text], rng) for text in chosen])
    device = material.emoji.device
    return ids.to(device), captions.targets(chosen, len(captions.of), device), chosen


def losses(
    model: Pretrainer, images: Tensor, labels: Tensor, groups: Tensor, ids: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Compute the losses: images and texts vs. concepts, images vs. Unicode's groups, images vs. their texts."""
    seen, said = model.images(images), model.texts(ids)
    matched = labels[: len(said)]
    scores = model.scale.exp().clamp(max=100) * seen[: len(said)] @ said.t()
    same = matched[:, None] == matched[None, :]
    scores = scores.masked_fill(same & ~torch.eye(len(said), dtype=torch.bool, device=same.device), -1e4)
    order = torch.arange(len(said), device=scores.device)
    logits = model.scores(seen, model.table)
    return {
        "image": F.cross_entropy(logits, labels, label_smoothing=0.05),
        "group": F.cross_entropy(model.scores(seen, model.groups), groups, ignore_index=-1),
        "text": F.cross_entropy(model.scores(said, model.table), targets),
        "contrast": (F.cross_entropy(scores, order) + F.cross_entropy(scores.t(), order)) / 2,
        "right": (logits.argmax(dim=1) == labels).float().mean(),
    }


def start_from_mae(clip: CLIP, state: dict[str, Tensor]) -> None:
    """Copy the masked autoencoder's weights; its patch bias is added to the position embeddings."""
    visual = clip.visual
    with torch.no_grad():
        visual.conv1.weight.copy_(state["patch_embed.proj.weight"])
        positions = state["pos_embed"][0].clone()
        positions[1:] += state["patch_embed.proj.bias"]
        visual.positional_embedding.copy_(positions)
        visual.class_embedding.copy_(state["cls_token"][0, 0])
        names = {"attn.qkv.weight": "attn.in_proj_weight", "attn.qkv.bias": "attn.in_proj_bias"}
        names |= {f"attn.proj.{kind}": f"attn.out_proj.{kind}" for kind in ("weight", "bias")}
        names |= {f"norm{n}.{kind}": f"ln_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
        names |= {f"mlp.fc1.{kind}": f"mlp.c_fc.{kind}" for kind in ("weight", "bias")}
        names |= {f"mlp.fc2.{kind}": f"mlp.c_proj.{kind}" for kind in ("weight", "bias")}
        for index, block in enumerate(visual.transformer.resblocks):
            block.load_state_dict({new: state[f"blocks.{index}.{old}"] for old, new in names.items()})
        visual.ln_post.load_state_dict({kind: state[f"norm.{kind}"] for kind in ("weight", "bias")})


@torch.no_grad()
def start_from_features(model: Pretrainer, material: Material, generator: torch.Generator, batch: int = 256) -> None:
    """Whiten the features and initialise every concept and group with the mean of its drawings.

    The autoencoder's features nearly coincide; without centring, their cosines would differ little and train slowly.
    """
    visual = model.clip.visual
    visual.proj.copy_(torch.eye(128))
    rows = torch.cat([material.emoji, material.icons[torch.randperm(len(material.icons), generator=generator)]])
    drawings, found = material.drawings, []
    for part in rows[: 2 * len(material.emoji)].split(batch):
        images = compose(drawings.rgba(part), drawings.is_black(part), 0.3, generator)
        images = normalised(images, MEAN, STD)
        model.glance.choose(images, 0.5, generator)
        found.append(visual(images))
    features, labels = torch.cat(found), drawings.labels[rows[: 2 * len(material.emoji)]]
    mean, spread = features.mean(dim=0), features.t().cov()
    values, axes = torch.linalg.eigh(spread)
    whiten = axes @ torch.diag((values + 0.01 * values.mean()).rsqrt()) @ axes.t()
    visual.ln_post.bias.sub_(mean)
    visual.proj.copy_(whiten)
    unit = F.normalize((features - mean) @ whiten, dim=1)
    model.table.copy_(1e-3 * model.table).index_add_(0, labels, unit)
    grouped = material.groups[labels] >= 0
    model.groups.zero_().index_add_(0, material.groups[labels][grouped], unit[grouped])
    for table in (model.table, model.groups):
        table.copy_(128**0.5 * F.normalize(table, dim=1))


def train_clip(rank: int, ranks: int, packages: Path, corpus: Path, out: Path, samples: int, batch: int) -> None:
    """Train on a number of samples, from the checkpoint in ``out`` if it exists, else from the autoencoder."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    material = read_material(packages, corpus, device)
    model = Pretrainer(len(material.captions.of), int(material.groups.max()) + 1).to(device)
    clock = Clock(samples, batch)
    optimizers = Optimizers([model], lr=3e-3, muon_lr=3e-3, weight_decay=0.05)
    state = resume(out / "clip.pt", clock, optimizers)
    if state:
        model.load_state_dict(state["model"])
    else:
        start_from_mae(model.clip, mae_state(out / "mae.pt"))
        start_from_features(model, material, torch.Generator(device).manual_seed(0))
    log = state["log"] if state else []
    average = Average()
    for step in track(range(clock.step, clock.steps), "CLIP", disable=rank > 0):
        generator = torch.Generator(device).manual_seed(1000 * step + rank)
        found = clip_step(model, material, batch // ranks, clock.part, generator, random.Random(1000 * step + rank))
        average.add(**found)
        optimizers.step(clock.rate)
        clock.step = step + 1
        if clock.step % 100 == 0 or clock.step == clock.steps:
            log.append({"samples": clock.step * batch, "seconds": round(clock.elapsed), **average.read()})
            if rank == 0:
                save(out / "clip.pt", clock, optimizers, {"model": model.state_dict()}, log)
                print(log[-1], flush=True)


def clip_step(
    model: Pretrainer, material: Material, size: int, part: float, generator: torch.Generator, rng: random.Random
) -> dict[str, Tensor]:
    """Compute the gradients of a random batch; views get stronger, and finally whole images are seen."""
    strength = min(0.8, 0.2 + part)
    with torch.no_grad():
        images, labels = draw_images(material, size, strength, generator)
        ids, targets, _ = draw_texts(material, labels[: size // 3].tolist(), rng)
    model.glance.choose(images, SEEN if part < 0.88 else 1.0, generator)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        found = losses(model, images, labels, material.groups[labels], ids, targets)
        coarse = max(0.0, 1 - 2 * part)  # groups are learnt first and guide the concepts
        total = found["image"] + coarse * found["group"] + 0.5 * found["text"] + 0.3 * found["contrast"]
    total.backward()
    return found
