"""Which test images a cell classified correctly, stored so that methods can be compared image by image; no torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfprompt.utils.validation import check_types

LARGEST = 1 << 31
"""Bound of labels and groups."""


@dataclass(frozen=True)
class Hits:
    """The hits of one evaluation.

    Attributes:
        images: Hash of class names, and of path, size, label and group of each image, in order: methods with the same
            hash were tested on the same images.
        labels: Class of each image, (N,).
        groups: Group of each image, (N,): images of one group show the same drawing.
        right: A letter for each image: 1 if it is classified correctly, else 0.
    """

    images: str
    labels: Sequence[int]
    groups: Sequence[int]
    right: str

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        identities: Sequence[str],
        labels: Sequence[int],
        groups: Sequence[int],
        right: Sequence[bool],
    ) -> "Hits":
        """Make the record of an evaluation.

        Args:
            classes: Class names.
            identities: Path, size and label of each image as text, (N,), from ``image_identities``.
            labels: Class of each image, (N,).
            groups: Group of each image, (N,).
            right: Whether each image is classified correctly, (N,).
        """
        text = json.dumps([list(classes), list(identities), list(groups)]).encode(errors="surrogatepass")
        letters = "".join("01"[one] for one in right)
        return cls(hashlib.sha256(text).hexdigest(), list(labels), list(groups), letters)

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly, (N,)."""
        right: NDArray[np.bool_] = np.frombuffer(self.right.encode("ascii"), dtype=np.uint8) == ord("1")
        return right

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any) -> "Hits":
        """Build and check a record of a file.

        Raises:
            ValueError: If it is malformed.
        """
        if not isinstance(record, dict) or set(record) != {"images", "labels", "groups", "right"}:
            raise ValueError("hits must hold images, labels, groups and right")
        check_types(cls, record)
        for name in ("labels", "groups"):
            if not all(type(number) is int and 0 <= number < LARGEST for number in record[name]):
                raise ValueError(f"the {name} of hits must be whole numbers from 0")
        if set(record["right"]) - {"0", "1"} or {len(record[name]) for name in ("labels", "groups")} != {
            len(record["right"])
        }:
            raise ValueError("the hits must be a 0 or 1 for each label and group")
        return cls(**record)


def check_hits(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless the hits of a result agree with its counts."""
    if not isinstance(record.get("hits"), dict):
        raise ValueError("hits must be there")
    for name, found in record["hits"].items():
        hits, metrics = Hits.from_json(found), record["evaluations"].get(name)
        if metrics is None or (len(hits.right), hits.right.count("1")) != (metrics["total"], metrics["correct"]):
            raise ValueError(f"the hits of {name} disagree with its counts")


def check_same_images(records: Iterable[Mapping[str, Any]]) -> None:
    """Check that cells that are compared with each other have the same training and test images.

    Raises:
        ValueError: If they have not; it names two of them.
    """
    first: dict[tuple[Any, ...], tuple[Any, str]] = {}
    for record in records:
        place = tuple(record[key] for key in ("protocol", "suite", "supports", "dataset"))
        facts: dict[tuple[Any, ...], Any] = {
            (*place, f"test images ({name})"): [hits[key] for key in ("images", "labels", "groups")]
            for name, hits in record["hits"].items()
        }
        if record["images"]["train"] and isinstance(record.get("split"), dict):
            facts[*place, record["seed"], record["shots"], "training images"] = record["split"].get("sha256")
        for key, value in facts.items():
            known, row = first.setdefault(key, (value, record["row"]))
            if known != value:
                raise ValueError(
                    f"{row} and {record['row']} have different {key[-1]} of {record['dataset']} (seed "
                    f"{record['seed']}), so they cannot be compared: run all cells again, in a new folder."
                )
