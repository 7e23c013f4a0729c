import json
import re
import string
import time
from dataclasses import asdict, fields
from itertools import pairwise

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.recipe import (
    FIELDS,
    SHIPPED,
    Recipe,
    file_values,
    load_recipe,
    read_recipe,
    recipe_names,
    shipped_recipe,
)
from selfprompt.recipes.renamed import _log_once
from selfprompt.utils.validation import check_types

# What belongs to the machine or to the user's data and never to a recipe.
MACHINE = {
    *("memory", "feature_cache", "workers", "devices", "device", "on_bad_image", "on_empty_class"),
    *(
        "class_names",
        "checkpoint_every",
        "keep_every",
        "log_to",
        "holdout",
        "calibrate",
        "accumulate",
        "precision",
        "float32",
        "compile",
    ),
}
OUTCOME = [name for names in FIELDS.values() for name in names if name not in MACHINE]


def text_of(name: str) -> str:
    return (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_recipes_that_the_documentation_names_ship():
    expected = {"sep", "sep-authors", "spt-deep", "spt-shallow", "spt-kmeans", "spt-authors", "vpt-deep", "vpt-shallow"}
    assert expected | {"gatevpt", "coop", "zero-shot", "linear", "full"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
class TestShipped:
    def test_is_complete(self, name):
        assert list(yaml.safe_load(text_of(name))) == OUTCOME, "all keys that change the outcome, in their order"

    def test_lists_every_option_of_its_method(self, name):
        from selfprompt.methods.registry import find_method, make_options

        values = yaml.safe_load(text_of(name))
        method = find_method(values["method"])
        assert list(values["options"]) == [field.name for field in fields(method.Options)]
        options = make_options(method, values["options"])
        assert json.loads(json.dumps(asdict(options))) == values["options"]

    def test_opens_with_what_it_is_and_the_command(self, name):
        header = text_of(name).split("\n\n")[0].splitlines()
        assert header[0].startswith("# ")
        assert all(line.startswith("#") for line in header)
        assert header[-2:] == ["#", f"#   selfprompt train PHOTOS --method {name} --out OUT"]

    def test_builds_its_method(self, name):
        from selfprompt.methods.registry import build_method
        from selfprompt.models.loading.by_name import load_backbone
        from tests.methods.tiny import traits

        recipe = load_recipe(name)
        kind = "clip" if traits(recipe.method).needs_text else "mae"
        method = build_method(recipe.method, load_backbone(f"embedded/{kind}"), ["cat", "dog"], **recipe.options)
        assert method.name == recipe.method
        assert shipped_recipe(name) == name

    def test_names_a_backbone_that_exists(self, name):
        import open_clip
        import timm

        family, *rest = load_recipe(name).backbone.split("/")
        if family == "open_clip":
            assert tuple(rest) in open_clip.list_pretrained()
        else:
            assert family == "timm"
            assert rest[0] in timm.list_pretrained()

    def test_survives_writing_and_reading(self, name, tmp_path):
        recipe = load_recipe(name)
        path = tmp_path / "copy.yaml"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        assert load_recipe(str(path)) == recipe

    def test_diffs_line_by_line_against_any_other(self, name):
        lines = [line.split(":")[0] for line in text_of(name).splitlines() if re.match(r"\w", line)]
        assert lines == OUTCOME


@pytest.mark.parametrize(("name", "meant"), [("spt", "spt-deep"), ("vpt", "vpt-deep"), ("sep", "sep")])
def test_a_bare_name_means_the_deep_variant(name, meant):
    assert load_recipe(name) == load_recipe(meant)


def test_a_custom_method_starts_from_the_defaults():
    assert load_recipe("package.module:Class") == Recipe(method="package.module:Class")


WORDS = st.text(string.printable + "äß猫\U0001f436", max_size=20)
PLAIN = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.lists(st.integers(), max_size=3),
)


@st.composite
def recipes(draw):
    """Any valid recipe."""
    data = DataOptions(
        shots=draw(st.integers(0, 1000)),
        classes=draw(st.sampled_from(["all", "base", "new"])),
        holdout=draw(st.floats(0.01, 0.99)),
        memory=draw(st.sampled_from(["2GB", "500 MB", "1.5GiB", "0"])),
        class_names=draw(st.none() | WORDS),
    )
    lr = draw(st.floats(1e-12, 1e6))
    epochs = draw(st.integers(1, 500))
    train = TrainOptions(
        epochs=epochs,
        warmup_epochs=draw(st.integers(0, epochs - 1)),
        lr=lr,
        warmup_lr=lr * draw(st.floats(0, 1)),
        min_lr=lr * draw(st.floats(0, 1)),
        weight_decay=draw(st.floats(0, 10)),
        decay="weights",
        head_weight_decay=draw(st.none() | st.floats(0, 10)),
        devices=draw(st.sampled_from([1, 4, "auto", "2"])),
        precision=draw(st.sampled_from(["32-true", "bf16-mixed", "16-mixed"])),
        ema_decay=draw(st.floats(0, 0.999)),
        drop_last=draw(st.booleans()),
    )
    return Recipe(
        method=draw(st.sampled_from(["sep", "spt", "linear"])),
        options=draw(st.dictionaries(st.text(string.ascii_lowercase + "_", min_size=1), PLAIN, max_size=4)),
        backbone=draw(WORDS),
        statistics=draw(st.sampled_from(["backbone", "imagenet"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        eval_batch_size=draw(st.integers(1, 5000)),
        data=data,
        train=train,
    )


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    recipe = Recipe(backbone="0E0", options={"template": "1e3"})
    path = tmp_path / "numbers.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = read_recipe(path)
    assert (again.backbone, again.options["template"]) == ("0E0", "1e3")


@settings(max_examples=40, deadline=None)
@given(recipe=recipes())
def test_any_recipe_survives_writing_and_reading(recipe, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(recipe.to_yaml().encode())
    again = read_recipe(path)
    shipped = load_recipe(recipe.method).options  # a method's recipe lists all its options; a file adds to them
    assert again.flat() == recipe.flat() | {"options": {**shipped, **recipe.options}}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_overrides_the_recipe_of_its_method(tmp_path):
    recipe = load_recipe(write(tmp_path / "my.yaml", "method: sep-authors\nlr: 1e-3\noptions: {text_prompts: 2}\n"))
    released = load_recipe("sep-authors")
    assert recipe.method == "sep"
    assert recipe.train.lr == 1e-3, "1e-3 without a dot is a number, whatever YAML 1.1 says"
    assert recipe.options == {**released.options, "text_prompts": 2}
    assert recipe.eval_batch_size == released.eval_batch_size == 500


def test_few_epochs_shorten_a_long_warm_up():
    deep = load_recipe("spt-deep")
    assert deep.train.warmup_epochs == 10
    assert deep.changed({"epochs": 100}).train.warmup_epochs == 10
    assert deep.changed({"epochs": 10}).train.warmup_epochs == 1
    assert deep.changed({"epochs": 1}).train.warmup_epochs == 0
    with pytest.raises(ValueError, match="warmup_epochs must be smaller than epochs, got 10 of 10"):
        deep.changed({"epochs": 10, "warmup_epochs": 10})


WRONG = {
    "unknown key": ("metod: sep", "unknown key 'metod'. Did you mean 'method'?"),
    "an option at the top": ("text_prompts: 3", "unknown key 'text_prompts'. The options of the method go under"),
    "unknown method": ("method: seep", "Unknown method or recipe 'seep'. Did you mean 'sep'?"),
    "method is a number": ("method: 3", "method must be text, got 3."),
    "text for a number": ("lr: fast", "lr must be a number, got 'fast'."),
    "text for a whole number": ("epochs: many", "epochs must be a whole number, got 'many'."),
    "a fraction": ("epochs: 1.5", "epochs must be a whole number, got 1.5."),
    "true for a number": ("shots: true", "shots must be a whole number, got True."),
    "null": ("seed: null", "seed must be a whole number, got None."),
    "number or null": ("head_weight_decay: big", "head_weight_decay must be a number or null, got 'big'."),
    "text for a switch": ("drop_last: 'no'", "drop_last must be true or false, got 'no'."),
    "wrong resizing": (
        "resize: squish",
        "resize must be one of backbone, crop, pad, squash or a whole number, got 'squish'.",
    ),
    "text for true or false": ("flip: 'yes'", "flip must be true or false or null, got 'yes'."),
    "wrong choice": ("augment: flip", "augment must be one of crop-flip, half-crop-flip, none, got 'flip'."),
    "options are no mapping": ("options: 5", "options must be names with values, got 5."),
    "below the range": ("epochs: 0", "epochs must be at least 1, got 0."),
    "above the range": ("holdout: 1.0", "holdout must be below 1, got 1.0."),
    "infinite": ("lr: .inf", "lr must be a finite number, got inf."),
    "not a number": ("lr: .nan", "lr must be a finite number, got nan."),
    "negative seed": ("seed: -1", "seed must lie in 0..2**63 - 1, got -1."),
    "no batch": ("eval_batch_size: 0", "eval_batch_size must lie in 1..10000, got 0."),
    "no mapping": ("- sep", "a recipe consists of 'key: value' lines, got list."),
    "no YAML": ("a: b: c", "not valid YAML"),
    "not text": ("a: \0", "not valid YAML"),
    "a key twice": ("lr: 0.1\nlr: 0.2", "not valid YAML: the key 'lr' occurs twice."),
    "an option twice": ("options: {a: 1, a: 2}", "the key 'a' occurs twice."),
    "an infinite option": ("options: {shrink: -.inf}", "options.shrink must be a finite number, got -inf."),
    "a number for an option's name": ("options: {1: 2}", "names of options must be text, got 1."),
    "itself": ("method: wrong.yaml", "method must be the name of a method or shipped recipe, not of a file"),
    "an alias of itself": ("options: &a {b: *a}", "aliases (*name) are not taken; write the value out."),
    "an alias of a list": ("a: &a [*a]", "aliases (*name) are not taken"),
    "an alias bomb": (
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{new}: &{new} [{f'*{old},' * 9}]\n" for old, new in pairwise("abcdefghi")),
        "aliases (*name) are not taken",
    ),
    "3,000 brackets": ("options: " + "[" * 3000, "lists and mappings may be nested 20 deep."),
    "3,000 brackets that close": ("options: " + "[" * 3000 + "]" * 3000, "may be nested 20 deep."),
    "3,000 braces": ("options: " + "{a: " * 3000, "may be nested 20 deep."),
    "3,000 dashes": ("- " * 3000, "may be nested 20 deep."),
    "3,000 indents": ("\n".join(f"{' ' * depth}a:" for depth in range(100)), "may be nested 20 deep."),
    "code": ("method: !!python/object/apply:os.system ['false']", "not valid YAML: could not determine a constructor"),
    "another tag": ("lr: !secret 3", "not valid YAML: could not determine a constructor"),
    "a tag that its value contradicts": ("lr: !!int ''", "not valid YAML: IndexError."),
    "another such tag": ("drop_last: !!bool maybe", "not valid YAML: KeyError."),
    "no such day": ("seed: 2001-99-99", "not valid YAML: month must be in 1..12."),
    "a date": ("seed: 2001-01-01", "seed must be a whole number, got datetime.date(2001, 1, 1)."),
    "a long number": ("seed: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
    "a list for a key": ("? [a, [b]]\n: 1", "not valid YAML"),
    "a number for a key": ("1: 2", "unknown key 1."),
    "several documents": ("lr: 1\n---\nlr: 2", "not valid YAML"),
    "a long method": ("method: " + "x" * 5000, "method must be a name of up to 300 letters, got 5,000."),
    "a text for options": ("options: a", "options must be names with values, got 'a'."),
    "a long text": ("# " + "x" * 100_000, "not valid YAML: it must have at most 32,768 characters"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_file_is_refused_by_name(fault, tmp_path):
    text, message = WRONG[fault]
    path = write(tmp_path / "wrong.yaml", text)
    with pytest.raises(ValueError, match=re.escape(path) + ".*" + re.escape(message)):
        load_recipe(path)


def test_a_file_without_end_is_refused_at_its_beginning(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"large\.yaml: not valid YAML: it must have at most 32,768 characters"):
        load_recipe(str(tmp_path / "large.yaml"))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_have_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "my.yaml").write_text("lr: 0.5", encoding=encoding)
    assert load_recipe(str(tmp_path / "my.yaml")).train.lr == 0.5


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"class_names: caf\xe9.txt")
    with pytest.raises(ValueError, match=r"my\.yaml: not valid YAML: it must be UTF-8 text\."):
        load_recipe(str(tmp_path / "my.yaml"))


def test_files_that_name_each_other_are_refused(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    write(one, f"method: {other}")
    write(other, f"method: {one}")
    with pytest.raises(ValueError, match=r"one\.yaml: method must be the name of a method .* got '.*other\.yaml'"):
        load_recipe(str(one))


def test_what_a_user_wrote_is_of_the_kinds_of_a_recipe(tmp_path):
    assert file_values("coop") == {}
    assert file_values(write(tmp_path / "a.yaml", "method: coop\nlr: 0.1")) == {"lr": 0.1}
    assert file_values(write(tmp_path / "itself.yaml", f"method: {tmp_path / 'itself.yaml'}")) == {}
    with pytest.raises(ValueError, match=r"text\.yaml: options must be names with values, got 'a'"):
        file_values(write(tmp_path / "text.yaml", "options: a"))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: there is no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_an_empty_file_is_the_default_recipe(tmp_path):
    assert load_recipe(write(tmp_path / "empty.yaml", "# nothing yet\n")) == load_recipe("sep")


def test_check_types_leaves_other_names_and_other_types_alone():
    check_types(TrainOptions, {"nonsense": 1, "epochs": 3, "lr": 1, "devices": "auto"})
    check_types(dict, {"a": 1})


def test_the_former_name_of_a_key_is_still_read(tmp_path, caplog):
    _log_once.cache_clear()
    path = tmp_path / "old.yaml"
    path.write_text("method: coop\naccelerator: cpu\n", encoding="utf-8")
    assert load_recipe(str(path)).train.device == "cpu"
    assert load_recipe("coop").changed({"accelerator": "cpu"}).train.device == "cpu"
    assert [record.message for record in caplog.records] == ["accelerator is now called device."]
    with pytest.raises(ValueError, match="accelerator is the former name of device, and both are given: keep device"):
        load_recipe("coop").changed({"accelerator": "cpu", "device": "cpu"})
