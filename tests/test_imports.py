"""The import rules, checked in the source: arrows go one way, and the command line starts without torch."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

import selfprompt
from selfprompt.methods import NOT_METHODS, list_methods

SOURCE = Path(selfprompt.__file__).parent


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        importer: The importing module without the package's name: "models.loading.by_name".
        name: What is imported; modules of the package without its name, with a dot in front: ".tokens".
        first: Whether it happens while the importer itself is imported.
        typing: Whether it is under TYPE_CHECKING.
    """

    importer: str
    name: str
    first: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.name}"


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the package."""
    return tuple(found for path in sorted(SOURCE.rglob("*.py")) for found in _of_file(path))


def _of_file(path: Path) -> Iterator[Import]:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    importer = ".".join(part for part in parts if part != "__init__") or "__init__"
    for node, first, typing in _walk(ast.parse(path.read_text(encoding="utf-8")), True, False):
        for name in _names(node):
            inside = name == "selfprompt" or name.startswith("selfprompt.")
            yield Import(importer, name.removeprefix("selfprompt") or "." if inside else name, first, typing)


def _walk(node: ast.AST, first: bool, typing: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        inner = first and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, first, typing
        yield from _walk(child, inner, guarded)


def _names(node: ast.AST) -> list[str]:
    """Modules that a statement imports; ``from package import module`` gives the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    assert node.level == 0, "imports are absolute"
    module = node.module or ""
    folder = SOURCE.parent / module.replace(".", "/")
    return [
        f"{module}.{alias.name}" if (folder / alias.name).with_suffix(".py").is_file() else module
        for alias in node.names
    ]


def within(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a module is one of those named, or lies inside one."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)


# who -> which modules of the package it may import, for typing included
MAY_IMPORT = {
    "utils": (".utils",),
    "metrics": (),
    "estimator": (".data", ".inference", ".models.backbone", ".training", ".utils"),
    "pages": (),
    "engines": (".engines", ".utils"),
    "models": (".models", ".utils"),
    "prompts": (".models.tokens", ".models.tower", ".models.block", ".prompts"),
    "recipes": (".recipes", ".utils"),
    "data": (".data", ".utils"),
    "methods": (
        ".utils",
        ".models",
        ".prompts",
        ".data.dataset",
        ".data.class_description",
        ".data.class_names",
        ".data.templates",
        ".data.loading.feature_cache",
        ".data.views",
        ".recipes",
        ".methods",
    ),
    "analysis": (".models", ".prompts", ".methods", ".analysis"),
    "inference": (".utils", ".models.loading", ".data", ".methods", ".metrics", ".inference"),
    "serving": (".utils", ".data.loading", ".inference", ".pages", ".serving"),
    "training": (".utils", ".recipes", ".models.loading", ".data", ".methods", ".metrics", ".inference", ".training"),
    "runtime": (
        ".utils",
        ".data.loading.image_inputs",
        ".data.loading.image_views",
        ".inference.answers",
        ".inference.calibration",
        ".inference.image_paths",
        ".inference.predictions",
        ".inference.record_checks",
        ".runtime",
    ),
    "exporting": (
        ".utils",
        ".data",
        ".methods",
        ".inference",
        ".training.reporter",
        ".runtime",
        ".pages",
        ".exporting",
    ),
    "reviewing": (
        ".utils",
        ".recipes",
        ".models.loading",
        ".data",
        ".methods",
        ".metrics",
        ".inference",
        ".training.reporter",
        ".reviewing",
    ),
    "benchmarks": (
        ".utils",
        ".recipes",
        ".models.loading",
        ".data",
        ".methods",
        ".metrics",
        ".inference",
        ".training",
        ".benchmarks",
    ),
    "reports": (
        ".utils",
        ".metrics",
        ".data",
        ".methods",
        ".prompts.fusion",
        ".inference",
        ".analysis",
        ".benchmarks.results",
        ".benchmarks.published",
        ".benchmarks.comparison",
        ".benchmarks.strict",
        ".reviewing",
        ".reports",
    ),
}


EXACTLY = {("recipes", ".methods")}
"""A package that may be imported, but none of its modules: it lists the names of methods, and imports nothing."""


@pytest.mark.parametrize("who", MAY_IMPORT)
def test_arrows_go_one_way(who):
    own = [found for found in imports() if within(found.importer, (who,)) and found.name.startswith(".")]
    own = [found for found in own if (who, found.name) not in EXACTLY]
    wrong = [str(found) for found in own if not within(found.name, MAY_IMPORT[who])]
    assert not wrong, f"{who} may import {MAY_IMPORT[who]}"


def test_every_module_has_a_rule_or_may_import_everything():
    modules = {found.importer for found in imports()}
    top = ("__init__", "__main__", "cli")
    assert not [module for module in sorted(modules) if not within(module, (*MAY_IMPORT, *top))]


def test_no_imports_go_in_a_circle():
    """Imports inside functions and for typing count, too: a reader meets them all the same."""
    modules = {found.importer for found in imports()}
    graph = {module: {f.name[1:] for f in imports() if f.importer == module} & modules for module in modules}
    while leaves := {module for module, targets in graph.items() if not targets}:
        graph = {module: targets - leaves for module, targets in graph.items() if module not in leaves}
    assert not graph, "these modules import each other, or something that does"


# library -> the modules that may import it
LIBRARIES = {
    "timm": ("models",),
    "ftfy": ("models.loading.text_cleaning",),
    "tokenizers": ("models.loading.json_tokenizer",),
    "regex": ("models.loading.bpe",),
    "open_clip": ("models", "methods.zero_shot", "methods.promptsrc"),  # templates, class names
    "lightning_fabric": ("training",),
    "pytorch_lightning": ("training.logs",),
    "matplotlib": ("reports", "analysis"),
    "jinja2": ("reports",),
    "yaml": ("utils.yaml_text",),
    "PIL": ("data", "inference.answers", "inference.inputs", "reports", "runtime"),
    "torchvision": (),
    "sklearn": ("estimator", "training.selection", "methods.lpclip", "methods.ridge", "analysis", "reviewing"),
    "cleanlab": ("reviewing.problems",),
    "jsonargparse": ("cli",),
    "rich": ("cli", "training.progress_bar"),
    "safetensors": (
        "inference.artifact",
        "training.checkpoint",
        "models.loading.weight_files",
        "data.loading.feature_cache",
    ),
    "huggingface_hub": ("inference.hub", "models.loading.downloads"),
    "filelock": ("utils.locks",),
    "scipy": ("benchmarks.results", "methods.softmax_regression", "metrics", "reviewing", "training.calibrate"),
    "submitit": ("engines.slurm",),
    "ray": ("engines.ray",),
    "starlette": ("serving",),
    "uvicorn": ("serving.server",),
    "pyarrow": ("data.readers.manifest", "data.loading.archived_images", "inference.parquet_rows"),
    "datasets": ("data",),
    "onnx": ("exporting",),
    "onnx_ir": ("exporting",),
    "onnxruntime": ("exporting", "runtime.session"),
    "pillow_heif": ("data.loading.image_files",),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_by_the_modules_named_for_it(library):
    users = [found for found in imports() if within(found.name, (library,))]
    assert not [str(found) for found in users if not within(found.importer, LIBRARIES[library])]


LIGHT = ("__init__", "__main__", "utils", "recipes", "metrics", "cli", "methods", "reports")
LIGHT += ("benchmarks.results", "benchmarks.published", "benchmarks.cells", "benchmarks.rows")  # what a report reads
LIGHT += ("benchmarks.strict", "benchmarks.hits", "benchmarks.comparison", "benchmarks.bootstrap")
LIGHT += ("inference.predictions", "serving.limits")
HEAVY = ("torch", "torchvision", "timm", "open_clip", "lightning_fabric", "torchmetrics", "sklearn")


def test_the_command_line_and_the_recipes_import_no_torch():
    light = [found for found in imports() if found.first and not found.typing and within(found.importer, LIGHT)]
    light = [found for found in light if not found.importer.startswith("methods.")]  # the package, not its methods
    assert not [str(found) for found in light if within(found.name, HEAVY)]
    inside = {found.name[1:] for found in light if found.name.startswith(".")}
    assert not [name for name in sorted(inside) if name and not within(name, LIGHT)]


NOT_FOR_PREDICTING = ("sklearn", "scipy", "pandas", "matplotlib", "lightning_fabric", "torchmetrics", "transformers")
NOT_FOR_PREDICTING += ("datasets", "pyarrow", "jinja2", "submitit", "tensorboard", "huggingface_hub")
NOT_FOR_PREDICTING += ("open_clip", "timm", "torchvision", "torch._dynamo", "torch._inductor")


@pytest.mark.slow
def test_predicting_loads_what_it_needs(coop, photos):
    code = (
        "import sys\nfrom selfprompt.cli.main import main\nstatus = main(sys.argv[2:])\n"
        "print(*sorted(set(sys.argv[1].split(',')) & set(sys.modules)), file=sys.stderr)\nsys.exit(status)"
    )
    command = ["predict", coop, photos / "blue" / "0.png", "--format", "csv", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(NOT_FOR_PREDICTING), *map(str, command)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert len(done.stdout.splitlines()) == 2


WITHOUT_TORCH = {"numpy", "PIL", "onnxruntime"}


def test_the_runtime_loads_numpy_pillow_and_onnxruntime_alone():
    """Followed from module to module, also through imports inside functions."""
    modules, found = {"runtime", "runtime.__main__"}, set[str]()
    while left := modules - found:
        found |= left
        modules |= {one.name[1:] for one in imports() if one.importer in left and not one.typing and one.name[0] == "."}
    used = [one for one in imports() if one.importer in found and not one.typing and one.name[0] != "."]
    used = [one for one in used if one.first or within(one.importer, ("runtime",))]  # others only where they are used
    assert {one.name.partition(".")[0] for one in used} - set(sys.stdlib_module_names) <= WITHOUT_TORCH


def test_no_method_imports_another_one():
    own = [found for found in imports() if within(found.importer, ("methods",))]
    methods = tuple(
        f".methods.{path.stem}" for path in (SOURCE / "methods").glob("*.py") if path.stem not in NOT_METHODS
    )
    wrong = [found for found in own if within(found.name, methods)]
    assert not [str(found) for found in wrong if not _is_subclass_of(found)]


def _is_subclass_of(found: Import) -> bool:
    """The exception: a plain subclass of its parent method (KgCoOp of CoOp)."""
    from selfprompt.methods.registry import find_method

    own, other = (find_method(name.rpartition(".")[2].replace("_", "-")) for name in (found.importer, found.name))
    return issubclass(own, other)


def test_the_files_of_methods_are_its_registry():
    files = {path.stem.replace("_", "-") for path in (SOURCE / "methods").glob("*.py")}
    assert set(list_methods()) == files - {name.replace("_", "-") for name in NOT_METHODS}
    assert all(text.endswith(".") for text in list_methods().values()), "each opens with one sentence"


def test_no_submodule_has_a_name_that_export_cannot_bear():
    """torch.export builds a GraphModule, which owns these names."""
    from selfprompt.methods.registry import build_method
    from selfprompt.models.loading.by_name import load_backbone

    backbone = load_backbone("embedded/clip")
    for name in list_methods():
        method = build_method(name, backbone, ["cat", "dog"])
        words = {word for path, _ in method.named_modules() for word in path.split(".")}
        words |= {word for path, _ in method.named_parameters() for word in path.split(".")}
        assert not words & {"meta", "graph", "code"}, name


def test_private_names_of_libraries_stay_in_models():
    private = {"_pos_embed", "_pool", "_embeds", "_attn_pool", "resblocks", "attn_mask", "patch_drop", "norm_pre"}
    for path in sorted(SOURCE.rglob("*.py")):
        if "models" not in path.parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not used & private, path


def test_only_the_command_line_and_the_report_print():
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prints = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
        assert not prints or path.parent.name in ("cli", "reports") or path.match("runtime/__main__.py"), path


def test_every_module_and_public_name_has_a_docstring():
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
    for name in selfprompt.__all__:
        assert inspect.getdoc(getattr(selfprompt, name)), name
