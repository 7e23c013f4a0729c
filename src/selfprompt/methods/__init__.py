"""One file a paper: parameters, logits and loss of each method."""

import ast
from pathlib import Path

NOT_METHODS = ("__init__", "base", "heads", "registry", "traits")


def list_methods() -> dict[str, str]:
    """Every method that ships: name and first line of its file's docstring. Reads the files, imports none."""
    rows = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NOT_METHODS:
            rows[path.stem.replace("_", "-")] = (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n")[0]
    return rows
