"""SEP, self-enhanced prompt tuning (arXiv 2405.15549), in one file that reads from top to bottom.

A frozen CLIP gets a few trainable prompt tokens in both encoders. Before each block but the first, a token fusion
module computes new prompts from representative tokens of the same input. Needs only torch, torchvision and open_clip:

    python examples/one_file_sep.py PHOTOS    # PHOTOS/train/CLASS/*.jpg and PHOTOS/test/CLASS/*.jpg

The library computes the same numbers, several times faster, for any backbone: `selfprompt train PHOTOS --method sep`.
Letters: B images, C classes, N image tokens, T text tokens, D width of a tower, E width of the features.
"""

import copy
import math
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT_PROMPTS, IMAGE_PROMPTS = 6, 4
EPOCHS, BATCH, RATE = 50, 32, 2.5e-3


class TokenFusion(nn.Module):
    """Prompts attend to representative tokens; the residual path carries the tokens, not the prompts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.down, self.up = nn.Linear(width, 256, bias=False), nn.Linear(256, width, bias=False)
        self.keep_tokens, self.keep_attention = (nn.Parameter(torch.tensor([0.75])) for _ in range(2))
        nn.init.uniform_(self.attention.out_proj.weight, -(width**-0.5), width**-0.5)
        nn.init.uniform_(self.down.weight, -(width**-0.5), width**-0.5)
        nn.init.uniform_(self.up.weight, -1 / 16, 1 / 16)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Compute new prompts from tokens and prompts, all (batch, P, D)."""
        query, key = self.norm_attention(prompts), self.norm_attention(tokens)
        attended, _ = self.attention(query, key, key)
        fused = self.keep_tokens * tokens + (1 - self.keep_tokens) * attended
        hidden = self.down(self.norm_mlp(fused))
        hidden = self.up(hidden * torch.sigmoid(1.702 * hidden))
        return self.keep_attention * fused + (1 - self.keep_attention) * hidden


def fusion_modules(width: int, count: int) -> nn.ModuleList:
    """Create one module for each block after the first, all with the same initial weights."""
    first = TokenFusion(width)
    return nn.ModuleList(copy.deepcopy(first) for _ in range(count))


class SEP(nn.Module):
    """An open_clip ViT model, frozen, with SEP's prompts, fusion modules and class prototypes."""

    def __init__(self, clip: nn.Module, tokenize: Callable[[list[str]], Tensor], classes: Sequence[str]) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False).eval()
        text_width, image_width = clip.token_embedding.embedding_dim, clip.visual.conv1.out_channels
        self.text_prompts = nn.Parameter(0.02 * torch.randn(TEXT_PROMPTS, text_width))
        self.image_prompts = nn.Parameter(0.02 * torch.randn(IMAGE_PROMPTS, image_width))
        self.text_fusions = fusion_modules(text_width, len(clip.transformer.resblocks) - 1)
        self.image_fusions = fusion_modules(image_width, len(clip.visual.transformer.resblocks) - 1)
        placeholders = "X " * TEXT_PROMPTS  # their embeddings are replaced by the prompts
        self.register_buffer("ids", tokenize([f"{placeholders}{name}." for name in classes]))  # (C, T)
        template = self.clip.encode_text(tokenize([f"a photo of a {name}." for name in classes]))
        self.register_buffer("frozen_texts", F.normalize(template, dim=-1))  # (C, E)
        self.prototypes = nn.Parameter(self.frozen_texts.clone())  # of the classes' images; used in the loss only

    def prompted_images(self, images: Tensor) -> Tensor:
        """Encode images, (B, 3, H, W), with prompts behind the patches; unit features, (B, E)."""
        visual = self.clip.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        length = x.shape[1]  # N: CLS and patches
        x = torch.cat([x, self.image_prompts.expand(len(x), -1, -1)], dim=1)  # prompts have no position
        x = visual.ln_pre(x)
        for index, block in enumerate(visual.transformer.resblocks):
            if index > 0:
                tokens, prompts = x[:, :length], x[:, length:]
                power = tokens.detach().square().mean(dim=-1)  # the strongest tokens represent the image
                strongest = power.topk(IMAGE_PROMPTS, dim=1).indices[..., None].expand(-1, -1, x.shape[-1])
                prompts = self.image_fusions[index - 1](tokens.gather(1, strongest), prompts)
                x = torch.cat([tokens, prompts], dim=1)
            x = block(x)
        return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)

    def prompted_texts(self) -> Tensor:
        """Encode the class texts with prompts in place of the placeholders; unit features, (C, E)."""
        clip, end = self.clip, 1 + TEXT_PROMPTS
        x = clip.token_embedding(self.ids)
        x = torch.cat([x[:, :1], self.text_prompts.expand(len(x), -1, -1), x[:, end:]], dim=1)
        x = x + clip.positional_embedding
        for index, block in enumerate(clip.transformer.resblocks):
            if index > 0:
                prompts, following = x[:, 1:end], x[:, end : end + TEXT_PROMPTS]  # the words behind the prompts
                prompts = self.text_fusions[index - 1](following, prompts)
                x = torch.cat([x[:, :1], prompts, x[:, end:]], dim=1)
            x = block(x, attn_mask=clip.attn_mask)
        ends = self.ids.argmax(dim=-1)  # EOT has the largest id
        return F.normalize(clip.ln_final(x)[torch.arange(len(x)), ends] @ clip.text_projection, dim=-1)

    @torch.no_grad()
    def frozen_images(self, images: Tensor) -> Tensor:
        """Encode images with the frozen CLIP; unit features, (B, E)."""
        return F.normalize(self.clip.encode_image(images), dim=-1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix prompted with frozen features: images frozen and mixed, (B, E), class texts mixed, (C, E)."""
        frozen = self.frozen_images(images)
        mixed = F.normalize(self.prompted_images(images) + frozen, dim=-1)
        return frozen, mixed, F.normalize(self.prompted_texts() + self.frozen_texts, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Score images for each class, (B, C)."""
        _, mixed, texts = self.features(images)
        return self.clip.logit_scale.exp() * mixed @ texts.t()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add up cross-entropy, two terms that keep to the frozen features, and two on class prototypes."""
        frozen, mixed, texts = self.features(images)
        prototypes = F.normalize(self.prototypes, dim=-1)
        cross_entropy = F.cross_entropy(self.clip.logit_scale.exp() * mixed @ texts.t(), labels)
        text_consistency = 1 - (texts * self.frozen_texts).sum(dim=-1).mean()
        image_consistency = 1 - (mixed * frozen).sum(dim=-1).mean()
        on_prototypes = sum(F.cross_entropy(10 * f @ prototypes.t(), labels) for f in (mixed, frozen))
        return cross_entropy + 8 * text_consistency + 6 * image_consistency + on_prototypes / 2

    @torch.no_grad()
    def start_prototypes(self, images: Tensor, labels: Tensor) -> None:
        """Set the class prototypes to the mean frozen features of the training images."""
        sums = torch.zeros_like(self.prototypes).index_add_(0, labels, self.frozen_images(images))
        self.prototypes.copy_(F.normalize(sums, dim=-1))


def train(model: SEP, batches: Sequence[tuple[Tensor, Tensor]], epochs: int = EPOCHS) -> None:
    """Train with Adam: one epoch of warm-up, then a cosine; ``batches`` is iterated once per epoch."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=RATE, eps=1e-3, weight_decay=5e-4)
    for epoch in range(epochs):
        rate = 1e-5 if epoch == 0 else RATE * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        for images, labels in batches:
            loss = model.loss(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}")


def main(photos: str) -> None:
    """Train on PHOTOS/train and print the accuracy on PHOTOS/test."""
    import open_clip
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    clip, _, plain = open_clip.create_model_and_transforms("ViT-B-16-quickgelu", pretrained="openai")
    crop = v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC)
    augment = v2.Compose([crop, v2.RandomHorizontalFlip(), *plain.transforms[2:]])
    training, testing = ImageFolder(f"{photos}/train", augment), ImageFolder(f"{photos}/test", plain)
    names = [name.replace("_", " ") for name in training.classes]
    model = SEP(clip, open_clip.get_tokenizer("ViT-B-16-quickgelu"), names)
    batches = DataLoader(training, BATCH, shuffle=True)
    model.start_prototypes(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    train(model, batches)
    with torch.no_grad():
        correct = sum((model(x).argmax(dim=1) == y).sum().item() for x, y in DataLoader(testing, BATCH))
    print(f"accuracy on {len(testing)} test images: {100 * correct / len(testing):.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
