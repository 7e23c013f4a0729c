"""Reporters receive the progress of a run."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from selfprompt.utils.progress import Progress

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Receives the progress of a run: the command line shows it, Python code may ignore it."""

    def message(self, line: str) -> None:
        """Report a choice or a finished step in one line."""

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        """Enter a step that takes time; call the returned function with (done, total)."""


class LogReporter:
    """Writes messages and the names of stages to the log."""

    def message(self, line: str) -> None:
        logger.info(line)

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        logger.info(name)
        return nullcontext(lambda done, total: None)
