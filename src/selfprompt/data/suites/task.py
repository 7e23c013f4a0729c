"""The record of one task of a suite: its data set, its template, its shifted domains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.templates import PHOTO


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite: a data set as the published protocols use it.

    Attributes:
        suite: Name of the suite, "embedded".
        name: Name within the suite, "animals".
        dataset: ``train`` is the whole training pool, from which shots are drawn; ``val`` and ``test`` are of the
            source domain.
        template: The template for class names, with one ``{}``.
        domains: Shifted test sets by name; their images are in ``test``. A domain with all classes keeps the classes
            of ``dataset``; one with fewer has its own list, for which a classifier must be rebuilt.
        source: Origin and licence of the images, in one sentence.
        folder: The folder that recorded paths are relative to; None for the root of the suite.
        list_more_test: Lists the further test images of ``more_test``.
    """

    suite: str
    name: str
    dataset: Dataset
    template: str = PHOTO
    domains: Mapping[str, Dataset] = field(default_factory=dict)
    source: str = ""
    folder: Path | None = None
    list_more_test: Callable[[], tuple[Item, ...]] = field(default=tuple, repr=False)

    @cached_property
    def more_test(self) -> tuple[Item, ...]:
        """Further test images, with the labels of ``dataset``, listed on first use; empty in published suites.

        Published protocols do not use them: they sharpen the comparison of methods, together with ``dataset.test``.

        Raises:
            ValueError: If they are missing or damaged.
        """
        return self.list_more_test()
