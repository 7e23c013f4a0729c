"""``python -m selfprompt`` is the command line."""

import sys

from selfprompt.cli.main import main

sys.exit(main())
