"""``python -m pretraining``: make the embedded backbones from nothing, stage by stage; each goes on where it stopped.

fetch: npm packages of drawings. render: 64 x 64 pixels of every drawing. mae: the masked autoencoder. clip: the CLIP,
its image tower started from the autoencoder. export: half-precision weights into the package. suite: small pictures of
held-out drawings. credits: THIRD_PARTY.md. measure: what the backbones can do, and the model cards.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch

from pretraining.clip import train_clip
from pretraining.corpus import fetch, render_all
from pretraining.export import export
from pretraining.mae import train_mae
from pretraining.measure import measure
from pretraining.parallel import run_ranks
from pretraining.suite import OUT as SUITE
from pretraining.suite import write_suite
from pretraining.third_party import write_credits

ROOT = Path(__file__).parents[1]
SHIPPED, DOCS = ROOT / "src" / "selfprompt" / "weights", ROOT / "docs"


def main() -> None:
    """Run the stages that are asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", help="stages to run; all when none is given")
    parser.add_argument("--work", type=Path, default=Path("runs/pretraining"), help="packages, pixels, checkpoints")
    parser.add_argument("--ship", type=Path, default=SHIPPED, help="folder for the finished weights")
    parser.add_argument("--mae-samples", type=int, default=300_000, help="views that the masked autoencoder sees")
    parser.add_argument("--clip-samples", type=int, default=600_000, help="views that the CLIP sees")
    parser.add_argument("--ranks", type=int, default=os.cpu_count(), help="processes on a machine without GPU")
    options = parser.parse_args()
    known = stages(options)
    if unknown := [name for name in options.stages if name not in known]:
        parser.error(f"unknown stage {unknown[0]!r}; stages: {', '.join(known)}")
    for name, stage in known.items():
        if not options.stages or name in options.stages:
            print(f"== {name}", flush=True)
            stage()


def stages(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Every stage by name, in order. A GPU sees twenty times as many views, in larger batches."""
    work, gpu = options.work, torch.cuda.is_available()
    corpus, out = work / "corpus", work / "out"
    out.mkdir(parents=True, exist_ok=True)
    more, ranks = (20, 1) if gpu else (1, max(1, options.ranks))
    mae_batch, clip_batch = (2048, 2048) if gpu else (256, 128)

    def mae() -> None:
        run_ranks(train_mae, ranks, work, corpus, out, more * options.mae_samples, mae_batch)

    def clip() -> None:
        run_ranks(train_clip, ranks, work, corpus, out, more * options.clip_samples, clip_batch)

    return {
        "fetch": lambda: fetch(work),
        "render": lambda: render_all(work, corpus),
        "mae": mae,
        "clip": clip,
        "export": lambda: export(out, options.ship),
        "suite": lambda: write_suite(work, SUITE),
        "credits": lambda: write_credits(work),
        "measure": lambda: measure(work, corpus, out, options.ship, DOCS),
    }


if __name__ == "__main__":
    main()
