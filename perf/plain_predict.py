"""The plain baseline of ``selfprompt predict``: zero-shot classes of a folder of images, by open_clip alone.

Run as a script: ``python plain_predict.py MODEL IMAGES BATCH``. MODEL is an open_clip name. The classes are the
folders in IMAGES. Prints a line for each image: its path and its class.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

WORKERS = 2


class Images(Dataset[tuple[torch.Tensor, str]]):
    """Preprocessed images and their paths."""

    def __init__(self, folder: str, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.transform = sorted(Path(folder).glob("*/*.jpg")), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self.transform(Image.open(self.paths[index])), str(self.paths[index])


def main(name: str, folder: str, batch: int) -> None:
    """Print the classes of the images."""
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    classes = sorted(path.name for path in Path(folder).iterdir())
    with torch.no_grad():
        texts = model.encode_text(tokenizer([f"a photo of a {text}." for text in classes]), normalize=True)
        for images, paths in DataLoader(Images(folder, transform), batch, num_workers=WORKERS):
            scores = (model.logit_scale.exp() * model.encode_image(images, normalize=True) @ texts.t()).softmax(dim=-1)
            for path, best in zip(paths, scores.argmax(dim=-1).tolist(), strict=True):
                print(path, classes[best], sep="\t")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
