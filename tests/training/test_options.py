import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise

import pytest

from selfprompt.recipes import options
from selfprompt.recipes.options import DataOptions, TrainOptions


def test_the_defaults_are_valid_and_frozen():
    assert TrainOptions().optimizer == "sgd"
    assert DataOptions().shots == 16
    with pytest.raises(AttributeError):
        TrainOptions().lr = 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0."),
        ({"views": -1}, "views must be at least 0, got -1."),
        ({"lr": 0.0}, "lr must be above 0, got 0.0."),
        ({"lr": float("nan")}, "lr must be a finite number, got nan."),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0."),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0."),
        ({"ema_decay": 1.0}, "ema_decay must be below 1, got 1.0."),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw, got 'lion'."),
        (
            {"precision": "16-true"},
            "precision must be one of 32-true, bf16-mixed, 16-mixed, got '16-true'.",
        ),
        ({"devices": 0}, "devices must be 'auto' or a number from 1, got 0."),
        ({"devices": "two"}, "devices must be 'auto' or a number from 1, got 'two'."),
        ({"head_weight_decay": 0.5}, "head_weight_decay needs decay 'weights', got decay 'all'."),
        (
            {"head_weight_decay": -0.5, "decay": "weights"},
            "head_weight_decay must be at least 0, got -0.5.",
        ),
        ({"epochs": 1}, "warmup_epochs must be smaller than epochs, got 1 of 1."),
        ({"min_lr": 1.0}, "min_lr must not exceed lr, got min_lr 1.0 and lr 0.002."),
        ({"warmup_lr": 0.1}, "warmup_lr must not exceed lr, got warmup_lr 0.1 and lr 0.002."),
        ({"accumulate": 64}, "got 64 parts of 32 images."),
        ({"crop": 0.0}, "crop must be above 0 and at most 1, got 0.0."),
        ({"crop": 1.5}, "crop must be above 0 and at most 1, got 1.5."),
        ({"crop": float("nan")}, "crop must be above 0 and at most 1, got nan."),
    ],
)
def test_messages_on_wrong_training_options_name_the_remedy(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainOptions(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 1, "warmup_epochs": 0},
        {"epochs": 1, "schedule": "constant"},
        {"warmup_lr": 0.1, "schedule": "warmup_cosine"},
        {"devices": "auto"},
        {"devices": "2"},
        {"decay": "weights", "head_weight_decay": 0.5},
    ],
)
def test_valid_combinations_are_taken(values):
    TrainOptions(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": -1}, "shots must be at least 0, got -1."),
        ({"classes": "old"}, "classes must be one of all, base, new, got 'old'."),
        ({"holdout": 1.0}, "holdout must be below 1, got 1.0."),
        ({"holdout": -0.1}, "holdout must be at least 0, got -0.1."),
        ({"memory": "much"}, "memory must be a size such as '500MB' or '2GB', got 'much'."),
    ],
)
def test_messages_on_wrong_data_options_name_the_remedy(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DataOptions(**values)


@pytest.mark.parametrize("memory", ["2GB", "500MB", "1.5 GiB", "0"])
def test_every_memory_size_that_passes_is_one_the_image_store_reads(memory):
    from selfprompt.data.loading.store import parse_bytes

    assert parse_bytes(DataOptions(memory=memory).memory) >= 0


@pytest.mark.parametrize("options", [DataOptions, TrainOptions])
def test_every_field_has_a_docstring_for_the_help(options):
    (tree,) = ast.parse(inspect.getsource(options)).body
    lines = tree.body
    documented = {
        statement.target.id
        for statement, following in pairwise(lines)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }
    assert documented == {field.name for field in fields(options)}


def test_importing_the_options_imports_nothing_heavy():
    code = f"import sys; import {options.__name__}; print(any(m in sys.modules for m in ('torch', 'numpy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
