"""One file a paper: parameters, logits and loss of each method."""

import ast
from itertools import pairwise
from pathlib import Path

NOT_METHODS = ("__init__", "base", "class_texts", "heads", "registry", "traits")


def list_methods() -> dict[str, str]:
    """Every method that ships: name and first line of its file's docstring. Reads the files, imports none."""
    rows = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NOT_METHODS:
            rows[path.stem.replace("_", "-")] = (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n")[0]
    return rows


def option_texts(name: str) -> dict[str, str]:
    """What each option of a method that ships means: the text under its field. Reads the file, imports none."""
    path = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    texts: dict[str, str] = {}
    for node in ast.parse(path.read_bytes()).body if path.is_file() else ():
        if isinstance(node, ast.ImportFrom) and any(alias.name.endswith("Options") for alias in node.names):
            texts |= option_texts((node.module or "").rpartition(".")[2])  # those that its options inherit
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
            for field, text in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts
