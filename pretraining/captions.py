"""Captions for the text tower: names and tags in templates, each with the concepts it may mean."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretraining.concepts import Concept, Forbidden

TEMPLATES = (
    "{}",
    "a {}",
    "{}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of {}.",
    "a picture of a {}.",
    "a picture of a {}",
    "an image of a {}.",
    "a drawing of a {}.",
    "a drawing of the {}.",
    "an icon of a {}.",
    "an emoji of a {}.",
    "a symbol of a {}.",
    "a small picture of a {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a bad photo of the {}.",
    "art of the {}.",
    "a cartoon {}.",
    "there is a {} in the picture.",
    "itap of a {}.",
    "this is a {}.",
    "a pictogram that shows a {}.",
)


@dataclass(frozen=True)
class Captions:
    """The texts that describe the concepts.

    Attributes:
        texts: Names in the order of the concepts, then tags and groups.
        meanings: For each text, the indices of the concepts that it fits.
        of: For each concept, the indices of the texts that fit it, its name first.
    """

    texts: tuple[str, ...]
    meanings: tuple[Tensor, ...]
    of: tuple[tuple[int, ...], ...]

    def targets(self, chosen: Sequence[int], concepts: int, device: torch.device) -> Tensor:
        """Return the probability of each concept for each selected text, (B, concepts)."""
        rows = torch.zeros(len(chosen), concepts)
        for row, text in enumerate(chosen):
            rows[row, self.meanings[text]] = 1 / len(self.meanings[text])
        return rows.to(device)


def make_captions(concepts: Sequence[Concept], forbidden: Forbidden) -> Captions:
    """Make the captions of concepts, without those that mention a held-out concept."""
    meanings: dict[str, list[int]] = {concept.name: [index] for index, concept in enumerate(concepts)}
    if len(meanings) < len(concepts):
        raise ValueError("Concepts must have different names.")
    shared: dict[str, set[int]] = defaultdict(set)
    for index, concept in enumerate(concepts):
        words = concept.name.split()
        last = words[-1] if len(words) > 1 and words[-1].isalpha() else ""
        for text in (*concept.tags, concept.group, last if concept.code else ""):
            if text and text not in meanings and not forbidden(text):
                shared[text].add(index)
    named = list(meanings)
    meanings.update({text: sorted(found) for text, found in shared.items() if len(found) <= 120})
    of: list[list[int]] = [[] for _ in concepts]
    for number, found in enumerate(meanings.values()):
        for index in found:
            of[index].append(number)
    assert named == list(meanings)[: len(named)]
    return Captions(tuple(meanings), tuple(map(torch.tensor, meanings.values())), tuple(map(tuple, of)))


def in_template(text: str, rng: random.Random) -> str:
    """Put a text into a random template, with a matching article."""
    template = rng.choice(TEMPLATES)
    if text[:1].lower() in "aeiou":
        template = template.replace(" a {}", rng.choice((" a {}", " an {}")))
    return template.replace("{}", text)
