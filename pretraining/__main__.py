"""``python -m pretraining``: train the embedded backbones from scratch, in stages that resume where they were stopped.

fetch: npm packages of drawings. render: 64 x 64 pixels of every drawing. mae: the masked autoencoder. clip: the CLIP,
its image tower initialised from the autoencoder. export: half-precision weights into the package. suite: small images
of held-out drawings. credits: THIRD_PARTY.md. measure: accuracies of the backbones, and the model cards.
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
from pretraining.measure import measure_backbones
from pretraining.parallel import run_ranks
from pretraining.suite import OUT as SUITE
from pretraining.suite import write_suite
from pretraining.third_party import write_credits

ROOT = Path(__file__).parents[1]
SHIPPED, DOCS = ROOT / "src" / "selfprompt" / "weights", ROOT / "docs"


def main() -> None:
    """Run the requested stages, by default all."""
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", help="stages to run; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/pretraining"), help="packages, pixels, checkpoints")
    parser.add_argument("--ship", type=Path, default=SHIPPED, help="folder for the exported weights")
    parser.add_argument("--mae-samples", type=int, default=300_000, help="training views of the masked autoencoder")
    parser.add_argument("--clip-samples", type=int, default=600_000, help="training views of the CLIP")
    parser.add_argument(
        "--ranks", type=int, default=os.cpu_count(), help="number of processes on a machine without a GPU"
    )
    options = parser.parse_args()
    known = stages(options)
    if unknown := [name for name in options.stages if name not in known]:
        parser.error(f"unknown stage {unknown[0]!r}; stages: {', '.join(known)}")
    for name, stage in known.items():
        if not options.stages or name in options.stages:
            print(f"== {name}", flush=True)
            stage()


def stages(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return every stage by name, in order; a GPU trains on twenty times as many views, in larger batches."""
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
        "measure": lambda: measure_backbones(work, corpus, out, options.ship, DOCS),
    }


if __name__ == "__main__":
    main()
