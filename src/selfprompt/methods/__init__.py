"""Methods, one file per paper: parameters, logits and loss."""

import ast
from itertools import pairwise
from pathlib import Path
from sys import modules

NOT_METHODS = (
    "__init__",
    "base",
    "checks",
    "class_feature_cache",
    "class_rows",
    "class_texts",
    "frozen_features",
    "heads",
    "registry",
    "softmax_regression",
    "support",
    "traits",
)


def method_names() -> list[str]:
    """Return the names of the methods of the package, sorted; reads none of their files."""
    stems = sorted(path.stem for folder in __path__ for path in Path(folder).glob("*.py"))
    return [stem.replace("_", "-") for stem in stems if stem not in NOT_METHODS]


def list_methods() -> dict[str, str]:
    """Return the methods of the package with the first line of each file's docstring; imports none of them."""
    return {name: (ast.get_docstring(ast.parse(_source(name))) or "").split("\n")[0] for name in method_names()}


def option_texts(name: str) -> dict[str, str]:
    """Return the docstring of each option of a method; imports nothing.

    Args:
        name: A method of the package, or "package.module:Class" whose module has been imported.
    """
    texts: dict[str, str] = {}
    for node in ast.parse(_source(name)).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name.endswith("Options") for alias in node.names):
            texts |= option_texts((node.module or "").rpartition(".")[2])  # inherited options
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
            for field, text in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts


def _source(name: str) -> bytes:
    """Return the source of a method's file; empty if it has none."""
    module, colon, _ = name.partition(":")
    paths = [Path(folder, f"{name.replace('-', '_')}.py") for folder in __path__]
    if colon:
        paths = [Path(getattr(modules.get(module), "__file__", None) or "")]
    return next((path.read_bytes() for path in paths if path.is_file()), b"")
