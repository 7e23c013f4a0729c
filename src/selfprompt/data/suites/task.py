"""The record of one published or shipped data set: its images, its template, its shifted domains."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfprompt.data.dataset import Dataset
from selfprompt.data.templates import PHOTO


@dataclass(frozen=True)
class SuiteTask:
    """One data set of a suite, as the published protocols use it.

    Attributes:
        suite: Name of the suite, "embedded".
        name: Name within the suite, "animals".
        dataset: ``train`` is the whole training pool, from which shots are drawn; ``val`` and ``test`` are of the
            source style.
        template: The text for a class name, with one ``{}``.
        domains: Shifted test sets by name; their images stand in ``test``. A domain that has all classes keeps the
            classes of ``dataset``; one with fewer has its own, and a classifier is built anew for them.
        source: Where the images are from and their licence, in one sentence.
    """

    suite: str
    name: str
    dataset: Dataset
    template: str = PHOTO
    domains: Mapping[str, Dataset] = field(default_factory=dict)
    source: str = ""
