"""``python -m perf``, run from a clone of the repository."""

import sys
from collections.abc import Sequence

from perf import command
from selfprompt.cli.main import run_module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_module(command, "perf", "python -m perf", "measure speed and memory against plain baselines", given)


if __name__ == "__main__":
    sys.exit(main())
