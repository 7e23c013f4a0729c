"""The command line as a user types it: what each command does, prints and leaves; wrong usage; killed and resumed."""

import csv
import io
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import selfprompt
from selfprompt.cli.main import COMMANDS, main
from selfprompt.methods import option_texts
from selfprompt.models.loading import coverage
from selfprompt.recipes.recipe import load_recipe, recipe_names
from tests.conftest import COLOURS, FAST, photo, ran, started, write_photos

NAMES = ("blue", "dark red", "green apple", "猫, klein")


class TestWithoutTorch:
    """Commands that must be fast, and so import no torch."""

    SHORT = (
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["predict", "--help"],
        ["train", "--print_config"],
        ["methods"],
    )

    @pytest.mark.parametrize("arguments", SHORT, ids=" ".join)
    def test_answers_at_once(self, arguments):
        code = (
            "import sys\nfrom selfprompt.cli.main import main\n"
            "try: status = main(sys.argv[1:])\nexcept SystemExit as end: status = end.code\n"
            "assert not {'torch', 'timm', 'open_clip', 'sklearn'} & set(sys.modules)\nsys.exit(status)"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5

    def test_a_reader_that_goes_away_is_no_error(self):
        command = [sys.executable, "-m", "selfprompt", "train", "--print_config"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)
        process.stderr.close()

    def test_a_name_that_the_terminal_cannot_show_is_no_error(self, tmp_path):
        recipe = tmp_path / "my.yaml"
        recipe.write_text("method: sep\nbackbone: file/猫\n", encoding="utf-8")
        done = ran("train", "--config", recipe, "--resume", "--print_config", env={"PYTHONIOENCODING": "ascii"})
        assert done.status == 0
        assert yaml.safe_load(done.out)["backbone"] == "file/猫"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, run):
    done = run(command, "--help")
    assert done.status == 0
    assert f"usage: selfprompt {command}" in done.out
    assert COMMANDS[command] in done.out
    assert command in run("--help").out


def test_help_shows_the_defaults_of_the_recipe(run):
    text = " ".join(run("train", "--method", "spt-deep", "--help-all").out.split())
    assert "default: timm/vit_base_patch16_224.mae)" in text
    assert "Passes over the training images. (type: int, default: 100)" in text


def test_the_first_page_of_help_has_what_most_people_need(run):
    first, whole = run("train", "--help").out, run("train", "--help-all").out
    for option in ("--out", "--method", "--backbone", "--shots", "--holdout", "--seed", "--resume"):
        assert option in first
    assert "--help-all" in first
    assert "--on-bad-image {skip,fail}" in whole
    assert "--epochs" in whole
    assert "--epochs" not in first
    assert len(first.splitlines()) < 50


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_option_of_a_method_is_explained(recipe):
    known = load_recipe(recipe)
    assert known.options.keys() <= option_texts(known.method).keys()
    assert all(option_texts(known.method).values())


USAGE = {
    "no command": ([], 2, "usage: selfprompt COMMAND"),
    "unknown command": (["trian", "x"], 2, "unknown command 'trian'. Did you mean 'train'? Commands: train, eval"),
    "unknown option": (["train", "x", "--epohcs", "3"], 2, "unknown option --epohcs. Did you mean --epochs?"),
    "strange option": (["train", "x", "--zzz"], 2, "unknown option --zzz. See selfprompt train --help."),
    "short for an option": (["train", "x", "--epo", "3"], 2, "unknown option --epo."),
    "no value": (["train", "x", "--epochs"], 2, "--epochs needs a value. See selfprompt train --help."),
    "no value of --config": (["train", "x", "--config"], 2, "--config needs a value."),
    "a value too many": (["train", "x", "--quiet=3"], 2, "--quiet takes no value, got '3'."),
    "no whole number": (["train", "x", "--epochs", "3.5"], 2, "--epochs must be a whole number, got '3.5'."),
    "no number": (["train", "x", "--lr", "fast"], 2, "--lr must be a number, got 'fast'."),
    "no number or null": (["train", "x", "--head-weight-decay", "a"], 2, "must be a number or null, got 'a'."),
    "no switch": (["train", "x", "--drop-last", "maybe"], 2, "--drop-last must be true or false, got 'maybe'."),
    "no choice": (
        ["train", "x", "--augment", "crop-flop"],
        2,
        "--augment must be one of crop-flip, half-crop-flip, none, got 'crop-flop'. Did you mean crop-flip?",
    ),
    "no format": (["predict", "a", "b", "--format", "xml"], 2, "one of table, json, jsonl, csv, parquet, got 'xml'."),
    "a word too many": (["train", "my", "photos"], 2, "unexpected 'photos'. See selfprompt train --help."),
    "no images": (["predict", "a"], 2, "the following arguments are required: images. See selfprompt predict --help."),
    "no data": (["train", "--out", "x"], 2, "Images are needed: selfprompt train PHOTOS --out OUT"),
    "no out": (["train", "x"], 2, "--out is needed: the folder to save the classifier to."),
    "out of range": (["train", "x", "--method", "sep", "--epochs", "0"], 2, "epochs must be at least 1, got 0."),
    "infinite": (["train", "x", "--method=sep", "--lr", "1e999"], 2, "lr must be a finite number, got inf."),
    "unknown method": (["train", "x", "--method", "seep"], 2, "Unknown method or recipe 'seep'. Did you mean 'sep'?"),
    "no such recipe": (["train", "x", "--config", "none.yaml"], 2, "none.yaml: there is no such recipe file."),
    "top 0": (["predict", "a", "b", "--top", "0"], 2, "--top must be at least 1, got 0."),
    "batch size 0": (["eval", "a", "b", "--batch-size", "0"], 2, "--batch-size must be at least 1, got 0."),
    "nothing for --out": (["train", "x", "--out", ""], 2, "out must not be empty: give it a value, or leave it out."),
    "blanks for --out": (["predict", "a", "b", "--out", " "], 2, "out must not be empty"),
    "nothing for --out of a bench": (["bench", "few-shot", "--out="], 2, "out must not be empty"),
    "nothing for data": (["train", "", "--out", "x"], 2, "data must not be empty"),
    "nothing among images": (["predict", "a", "b", ""], 2, "images must not be empty"),
    "nothing for a page": (["report", "a", "--html", ""], 2, "html must not be empty"),
    "nothing for a demo": (["demo", "--out", ""], 2, "out must not be empty"),
    "nothing to analyze": (["analyze", "a", "--images", ""], 2, "images must not be empty"),
    "nothing to fetch to": (["data", "get", "dtd", "--root", ""], 2, "root must not be empty"),
    "brackets": (["train", "x", "--options.layers", "[" * 3000], 2, "...: lists and mappings may be nested 20 deep."),
    "brackets behind =": (
        ["train", "x", "--method=coop", f"--options.init_text={'{' * 3000}"],
        2,
        "may be nested 20 deep.",
    ),
    "dashes": (["train", "x", "--options.layers", "- " * 3000], 2, "may be nested 20 deep."),
    "an alias of itself": (["train", "x", "--options.layers", "&a [*a]"], 2, "aliases (*name) are not taken"),
    "no device": (["eval", "a", "b", "--device", "gpu"], 2, "device must be auto, cpu, cuda"),
    "too many devices": (["train", "x", "--out", "o", "--devices", "1000"], 2, "devices must be at most "),
    "no such option": (
        ["train", "x", "--method=sep", "--out", "o", "--options.text_prompts=0"],
        2,
        "must be at least 1, got 0.",
    ),
    "two kinds of names": (
        ["predict", "a", "b", "--classes", "c,d", "--class_names", "e"],
        2,
        "--classes and --class-names both give class names: use one of them.",
    ),
    "a guard of no CSV": (["predict", "a", "b", "--csv_guard"], 2, "--csv-guard is for CSV, got --format table."),
    "unknown suite": (["data", "list", "zoo"], 2, "Unknown suite 'zoo'."),
    "unknown task": (["data", "show", "embedded/zoo"], 2, "Unknown task 'embedded/zoo'."),
    "unknown data set": (["data", "get", "zoo"], 2, "Unknown data set 'zoo'."),
    "no picture": (["data", "show", "embedded/animals", "--out", "a.gif"], 2, "--out must end in .png, got a.gif."),
    "unknown task of the demo": (["demo", "--task", "zoo"], 2, "Unknown task 'embedded/zoo'."),
    "no shots": (["demo", "--shots", "0"], 2, "--shots must be at least 1, got 0."),
    "no row": (["bench", "few-shot", "--list", "--methods", "seep"], 2, "Unknown method or recipe 'seep'."),
    "no task of the suite": (["bench", "few-shot", "--list", "--datasets", "zoo"], 2, "embedded has no task 'zoo'."),
    "no seed": (["bench", "few-shot", "--list", "--seeds", "a"], 2, "--seeds must be whole numbers"),
    "no such photos": (["train", "none", "--out", "o", "--method=linear", "--backbone=embedded/mae"], 1, "none"),
    "no such classifier": (["eval", "./none", "none"], 1, "none"),
    "no such bench": (["report", "none"], 1, "none"),
    "no such root": (["data", "check", "none"], 1, "none is not a folder"),
    "unknown method to list": (["methods", "seep"], 2, "Did you mean 'sep'?"),
    "unknown backbone to list": (["backbones", "zzz"], 2, "No name of a backbone contains 'zzz'"),
}


@pytest.mark.parametrize("fault", USAGE)
def test_wrong_usage_ends_with_one_sentence(fault, run):
    arguments, status, message = USAGE[fault]
    done = run(*arguments)
    assert done.status == status
    assert message in " ".join((done.err or done.out).split())
    assert "class '" not in done.err, "Python's names are not the user's"


OPTIONS = {
    "unknown": (["--options.prompt", "3"], "unknown option --options.prompt. Did you mean --options.text-prompts?"),
    "like no other": (["--options.zzz", "3"], "unknown option --options.zzz. See selfprompt train --help."),
    "of the wrong kind": (["--options.text-prompts", "x"], "--options.text-prompts must be a whole number, got 'x'."),
    "no list": (["--options.layers", "3"], "--options.layers must be a list like [1,2], got '3'."),
    "a list of words": (["--options.layers", "[a]"], "layers must be a list, each a whole number, got ['a']."),
    "out of range": (["--options.text_prompts=0"], "--options.text-prompts must be at least 1, got 0."),
    "no choice": (["--options.fusion_axis", "rows"], "--options.fusion-axis must be one of tokens, batch, got 'rows'."),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_wrong_options_of_a_method_are_reported_before_anything_is_read(fault, run, tmp_path):
    arguments, message = OPTIONS[fault]
    done = run("train", tmp_path / "none", "--method", "sep", "--out", tmp_path / "out", *arguments)
    assert done.status in (1, 2)
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_options_that_are_texts_are_taken_as_they_are(run):
    """YAML would read them as a mapping, true, and a number."""
    for text in ("art: {}", "yes", "3"):
        done = run("train", "--method=sep", "--options.template", text, "--options.layers", "[1,2]", "--print-config")
        assert yaml.safe_load(done.out)["options"]["template"] == text
        assert yaml.safe_load(done.out)["options"]["layers"] == [1, 2]


def test_a_custom_method_takes_any_option(run):
    done = run("train", "--method", "mine:Method", "--options.size", "3", "--options.kind=fast", "--print-config")
    values = yaml.safe_load(done.out)
    assert (values["method"], values["options"]) == ("mine:Method", {"size": 3, "kind": "fast"})


METHOD = '''"""A linear probe with two options."""

from dataclasses import dataclass

from selfprompt.methods.linear import Linear, LinearOptions


@dataclass(frozen=True)
class FreshOptions(LinearOptions):
    """Options."""

    size: int = 3
    """How large it is."""
    layers: tuple[int, ...] = (1, 2)
    """Which blocks it reads."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}.")


class Fresh(Linear):
    """A method."""

    Options = FreshOptions
'''


@pytest.fixture(params=["fresh", "own_package.fresh:Fresh"])
def fresh_method(request, tmp_path, monkeypatch):
    """The name of a new method: a file among the methods, or a module of the user."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "fresh.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.setattr(selfprompt.methods, "__path__", [*selfprompt.methods.__path__, str(folder)])
    monkeypatch.syspath_prepend(str(tmp_path))
    yield request.param
    for module in ("selfprompt.methods.fresh", "own_package.fresh", "own_package"):
        sys.modules.pop(module, None)


def test_a_method_without_a_recipe_uses_its_defaults(fresh_method, run, photos, tmp_path):
    own = load_recipe("linear").options
    printed = yaml.safe_load(run("train", "--method", fresh_method, "--print-config").out)
    assert (printed["method"], printed["options"]) == (fresh_method, dict(own, size=3, layers=[1, 2]))
    assert printed["epochs"] == load_recipe(fresh_method).train.epochs
    text = run("train", "--method", fresh_method, "--help-all").out
    assert "--options.size SIZE" in text
    assert "How large it is. (type: int, default: 3)" in text
    settings = ["--method", fresh_method, "--backbone", "embedded/mae", "--epochs", "2", "--workers", "0"]
    assert run("train", photos, *settings, "--out", tmp_path / "out", "--options.size", "5").status == 0
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["options"]["size"] == 5


def test_a_wrong_option_of_a_new_method_is_reported_before_anything_is_read(fresh_method, run, tmp_path):
    for arguments, message in (
        (["--options.size", "0"], "--options.size must be at least 1, got 0."),
        (["--options.size", "x"], "--options.size must be a whole number, got 'x'."),
        (["--options.sise", "2"], "unknown option --options.sise. Did you mean --options.size?"),
    ):
        done = run("train", tmp_path / "none", "--method", fresh_method, "--out", tmp_path / "out", *arguments)
        assert (done.status, done.err) == (2, f"selfprompt: {message}\n")


def test_a_bench_checks_options_before_it_reads_data(run, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("selfprompt.data.suites.load_task", refuse)
    for row, message in (
        ("sep[options.text_prompts=0]", "text_prompts must be at least 1, got 0."),
        ("sep[options.text_prompts=many]", "text_prompts must be a whole number, got 'many'."),
    ):
        done = run("bench", "few-shot", "--methods", row, "--out", tmp_path / "runs")
        assert (done.status, done.err) == (2, f"selfprompt: {row}: {message}\n")


def test_methods_lists_all_and_shows_one(run):
    listed = run("methods").out
    assert all(name in listed for name in ("sep-authors", "spt-kmeans", "gatevpt", "zero-shot-ensemble"))
    shown = run("methods", "sep-authors").out
    assert "Source: SEP, arXiv 2405.15549." in shown
    assert "--options.text_prompts" in shown
    assert "default: batch" in shown, "the recipe's value, not the method's"
    assert "CONFIG" not in shown


def test_backbones_lists_forms_and_models_in_full(run):
    listed = run("backbones").out
    assert all(name in listed for name in ("embedded/mae", "file/<path>", "timm/vit_base_patch16_224.augreg_in21k"))
    assert "embedded/mae" not in run("backbones", "ViT-S-32").out


def test_backbones_searches_published_names_and_shows_what_works(run, monkeypatch):
    monkeypatch.setattr(coverage, "support_of", lambda model: coverage.Support(True, model.startswith("open_clip")))
    listed = run("backbones", "mobileclip2-b").out
    assert "open_clip/MobileCLIP2-B/TAG" in listed
    assert "apple/MobileCLIP2-B" in listed
    assert "= open_clip/MobileCLIP2-B/dfndr2b" in listed
    assert "heads, text, image prompts, both" in listed
    assert re.search(r"both: .*\bsep\b", listed), "which methods these are"
    assert re.search(r"\.\.\. and \d+ more of timm: give a longer word", run("backbones", "vit_").out)


def test_backbones_counts_what_works(run):
    listed = run("backbones", "vit_tiny_patch16_224", "--coverage").out
    assert re.search(r"timm/vit_tiny_patch16_224 *\W *2 \W *yes \W *\W *yes", listed)
    assert re.search(r"timm: architectures .*1 of 1 .*0 of 1 .*1 of 1", listed)


class TestConfig:
    def test_the_printed_recipe_gives_the_same_run(self, run, photos, tmp_path):
        settings = ["--method", "spt-deep", "--epochs", "1", "--backbone", "embedded/mae", "--options.prompts", "2"]
        printed = run("train", *settings, "--print-config")
        assert printed.status == 0
        recipe = tmp_path / "my.yaml"
        recipe.write_text(printed.out, encoding="utf-8")
        assert run("train", photos, *settings, "--published", "--out", tmp_path / "a", "--workers", "0").status == 0
        assert run("train", photos, "--config", recipe, "--out", tmp_path / "b", "--workers", "0").status == 0
        a, b = (load_file(tmp_path / name / "prompts.safetensors") for name in "ab")
        assert a.keys() == b.keys() == {"prompts", "head.weight", "head.bias"}
        assert all(torch.equal(a[name], b[name]) for name in a)
        kept = (tmp_path / "b" / "recipe.yaml").read_text(encoding="utf-8")
        assert kept == printed.out.replace("workers: 2", "workers: 0"), "the folder has the recipe of its run"

    def test_the_command_line_overrides_the_file_and_the_file_the_recipe(self, run, tmp_path):
        recipe = tmp_path / "my.yaml"
        recipe.write_text("method: spt-deep\nlr: 1e-3\nseed: 7\noptions:\n  prompts: 5\n", encoding="utf-8")
        done = run("train", "--config", recipe, "--seed=9", "--options.start=mean", "--epochs", "8", "--print_config")
        values = yaml.safe_load(done.out)
        assert (values["method"], values["lr"], values["seed"], values["epochs"]) == ("spt", 1e-3, 9, 8)
        assert values["warmup_epochs"] == 0, "8 epochs leave no room for the recipe's 10"
        assert values["options"]["prompts"] == 5
        assert values["options"]["start"] == "mean"
        assert values["weight_decay"] == 0.01
        again = yaml.safe_load(run("train", "--config", recipe, "--method", "vpt-deep", "--print_config").out)
        assert (again["method"], again["options"]["dropout"], again["lr"]) == ("vpt", 0.1, 1e-3)

    def test_both_spellings_of_an_option_are_one(self, run):
        one = run(
            "train",
            "--method=sep",
            "--print-config",
            "--batch-size",
            "7",
            "--on-bad-image=fail",
            "--options.text-prompts=2",
        )
        other = run(
            "train",
            "--method=sep",
            "--print_config",
            "--batch_size",
            "7",
            "--on_bad_image=fail",
            "--options.text_prompts=2",
        )
        assert one == other
        assert yaml.safe_load(one.out)["on_bad_image"] == "fail"


def test_the_former_name_of_an_option_is_still_taken(run):
    done = run("train", "--accelerator", "cpu", "--print-config")
    assert yaml.safe_load(done.out)["device"] == "cpu"
    assert done.err == "selfprompt: note: --accelerator is now called --device.\n"
    listed = run("bench", "few-shot", "--list", "--accelerator=cpu", "--seeds", "1", "--datasets", "animals")
    assert listed.status == 0
    assert "--accelerator is now called --device" in listed.err


class TestTrain:
    def test_prints_choices_and_accuracy(self, run, photos, tmp_path):
        out = tmp_path / "out"
        settings = [
            "--method",
            "coop",
            "--backbone",
            "embedded/clip",
            "--epochs",
            "2",
            "--shots",
            "3",
            "--workers",
            "0",
        ]
        done = run("train", photos, "--out", out, *settings)
        assert (done.status, done.err) == (0, "")
        for said in (
            "There is no test split: held out 8 images of 32 for testing (25% of each class, seed 1).",
            "Drew up to 3 training images per class (seed 1): 12 in all.",
            "training coop: 512 trainable parameters, 12 images, 2 epochs",
            "epoch 2/2",
            "95 % interval",
            "zero-shot",
            "tuned (coop)",
            "embedded/clip: ",
            f"selfprompt predict {out} IMAGES...",
        ):
            assert said in done.out
        files = {"README.md", "config.json", "log.csv", "prompts.safetensors", "recipe.yaml", "result.json"}
        assert {path.name for path in out.iterdir()} == files
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert result["images"] == {"train": 12, "val": 0, "test": 8}
        assert result["classes"] == list(NAMES)
        assert result["tuned"]["total"] == result["zero_shot"]["total"] == 8
        assert result["recipe"] == yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
        assert result["recipe"]["shots"] == 3
        assert torch.__version__.startswith(result["versions"]["torch"])
        assert len(result["history"]) == 2

    def test_quiet_prints_the_result_only(self, run, photos, tmp_path):
        done = run("train", photos, "--out", tmp_path / "out", *FAST, "--quiet")
        assert "tuned (linear)" in done.out
        assert "epoch 1" not in done.out
        assert "random weights" in done.out or "small backbone" in done.out, "every output says what embedded/mae is"

    def test_zero_shot_has_one_row_and_nothing_to_train(self, run, photos, tmp_path):
        done = run("train", photos, "--out", tmp_path / "out", "--method", "zero-shot", "--backbone", "embedded/clip")
        assert done.status == 0
        assert "zero-shot has nothing to train." in done.out
        assert "tuned" not in done.out
        assert run("predict", tmp_path / "out", photos / "blue" / "0.png", "--classes", "a sea,a wood").status == 0
        alike = run("predict", tmp_path / "out", photos / "blue" / "0.png", "--classes", "A sea,a wood,a sea")
        assert alike.status != 0
        assert "'A sea' and 'a sea' are the same tokens to embedded/clip" in " ".join(alike.err.split())

    def test_methods_whose_batches_matter_are_marked(self, run, photos, tmp_path):
        out = tmp_path / "out"
        settings = ["--method", "sep-authors", "--backbone", "embedded/clip", "--epochs", "1", "--shots", "1"]
        assert run("train", photos, "--out", out, *settings, "--eval-batch-size", "3", "--workers", "0").status == 0
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert (result["sample_wise"], result["eval_batch_size"]) == (False, 3)
        done = run("eval", out, photos, "--format", "json")
        assert json.loads(done.out)["confusion"] == result["tuned"]["confusion"]
        assert json.loads(done.out)["batch_size"] == 3
        assert "depends on the other images of its batch of 3" in done.err

    def test_manifests_are_read_like_folders(self, run, split_photos, tmp_path):
        files = [(p, p.parent.name, p.parent.parent.name) for p in sorted(split_photos.rglob("*.png"))]
        manifest = tmp_path / "photos.csv"
        with manifest.open("w", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label", "split"), *files])
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv(manifest), tmp_path / "photos.parquet")
        tensors = []
        for number, data in enumerate((split_photos, manifest, tmp_path / "photos.parquet")):
            out = tmp_path / str(number)
            assert run("train", data, "--out", out, *FAST, "--select", "best-val").status == 0
            assert json.loads((out / "result.json").read_text())["images"] == {"train": 12, "val": 6, "test": 8}
            tensors.append(load_file(out / "prompts.safetensors")["head.weight"])
        assert torch.equal(tensors[0], tensors[1])
        assert torch.equal(tensors[0], tensors[2])

    def test_names_come_from_classes_txt(self, run, tmp_path):
        photos = write_photos(tmp_path / "photos", {"n01": 4, "n02": 4})
        (photos / "classes.txt").write_text("n01\tred_panda\nn02\tsalt, pepper\n", encoding="utf-8")
        assert run("train", photos, "--out", tmp_path / "out", *FAST).status == 0
        assert selfprompt.load(tmp_path / "out").classes == ("red panda", "salt, pepper")
        elsewhere = tmp_path / "names.txt"
        elsewhere.write_text("n01 => fox\nn02 => hen\n", encoding="utf-8")
        assert run("train", photos, "--out", tmp_path / "two", *FAST, "--class-names", elsewhere).status == 0
        assert selfprompt.load(tmp_path / "two").classes == ("fox", "hen")
        done = run("eval", tmp_path / "two", photos, "--format", "json")
        assert set(json.loads(done.out)["per_class"]) == {"fox", "hen"}, "the run's own names, without being told"

    def test_classes_yaml_says_more_than_a_name(self, run, tmp_path):
        photos = write_photos(tmp_path / "photos", {"n01": 4, "n02": 4})
        file = tmp_path / "classes.yaml"
        file.write_text("n01:\n  names: [red_panda, bear cat]\n  descriptions: it climbs.\nn02: hen\n")
        out, options = tmp_path / "out", ["--method", "coop", "--backbone", "embedded/clip", "--epochs", "1"]
        assert run("train", photos, "--out", out, *options, "--class-names", file).status == 0
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert result["classes"] == ["red panda", "hen"]
        assert result["class_descriptions"][0]["names"] == ["red panda", "bear cat"]
        measured = json.loads(run("eval", out, photos, "--format", "json").out)
        assert measured["confusion"] == result["tuned"]["confusion"]
        assert set(measured["per_class"]) == {"red panda", "hen"}
        named = run("eval", out, photos, "--class-names", file, "--format", "json")
        assert json.loads(named.out)["confusion"] == measured["confusion"]
        assert "the classifier keeps its own texts (--classes changes them)" in " ".join(named.err.split())

        image = photos / "n01" / "0.png"
        predict = ["predict", out, image, "--format", "json", "--top", "9"]
        (before,) = json.loads(run(*predict).out)
        assert json.loads(run(*predict, "--class-names", file).out) == [before]
        file.write_text("n01:\n  names: [red_panda]\n  descriptions: it sleeps.\n")
        job = ["predict", out, image, "--out", tmp_path / "job", "--class-names", file]
        assert run(*job).status == 0
        assert run(*job).status == 0
        for option in ("--class-names", "--classes"):
            (after,) = json.loads(run(*predict, option, file).out)
            assert {name for name, _ in after["top"]} == {"red panda", "hen"}
            assert after["score"] != before["score"]
        file.write_text("n01:\n  names: [red_panda]\n  descriptions: it eats.\n")
        done = run(*job)
        assert (done.status, "its classifier is not the same" in " ".join(done.err.split())) == (1, True)
        file.write_text("n01: {description: it climbs.}")
        done = run("train", photos, "--out", tmp_path / "two", *options, "--class-names", file)
        assert done.status == 1
        assert "class 'n01': Unknown key 'description'. Did you mean 'descriptions'?" in " ".join(done.err.split())

    def test_base_classes_only(self, run, photos, tmp_path):
        assert run("train", photos, "--out", tmp_path / "out", *FAST, "--classes", "base", "--shots", "0").status == 0
        result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
        assert result["classes"] == ["blue", "dark red"]
        assert result["images"] == {"train": 12, "val": 0, "test": 4}
        measured = json.loads(run("eval", tmp_path / "out", photos, "--format", "json").out)
        assert measured["confusion"] == result["tuned"]["confusion"]


def test_published_data_sets_are_named_with_the_ways_that_there_are(run, tmp_path):
    done = run("train", "coop/caltech101", *FAST, "--out", tmp_path / "out")
    assert done.status == 1
    assert "selfprompt bench PROTOCOL --suite coop --root FOLDER" in done.err
    assert "load_task('coop/caltech101', FOLDER).dataset" in done.err


class TestEval:
    def test_the_data_of_the_run_give_its_numbers(self, run, linear, photos):
        result = json.loads((linear / "result.json").read_text(encoding="utf-8"))
        done = run("eval", linear, photos, "--format", "json")
        measured = json.loads(done.out)
        assert {name: measured[name] for name in result["tuned"]} == result["tuned"]
        assert (measured["split"], measured["total"]) == ("test", 8)
        assert "trained on these data, so only their test images are used" in done.err

    def test_other_data_are_used_in_full(self, run, linear, tmp_path):
        other = write_photos(tmp_path / "other", {"blue": 3, "green_apple": 2})
        done = run("eval", linear, other, "--format", "json")
        measured = json.loads(done.out)
        assert (measured["split"], measured["total"]) == ("all", 5)
        assert set(measured["per_class"]) == {"blue", "green apple"}
        assert len(measured["confusion"]) == 4, "of the classifier's classes"
        assert "no test split, so all images are used" in done.err

    def test_images_left_out_of_the_test_for_their_copies_stay_out(self, run, tmp_path):
        data = write_photos(tmp_path / "data", {"blue": 8, "dark_red": 8})
        for path in sorted(data.rglob("[0-5].png")):
            Image.open(path).save(path.with_suffix(".bmp"))
        assert "with the same pixels as a training image" in run("train", data, *FAST, "--out", tmp_path / "out").out
        result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
        measured = json.loads(run("eval", tmp_path / "out", data, "--format", "json").out)
        assert 0 < measured["total"] == result["images"]["test"] < 8
        assert {name: measured[name] for name in result["tuned"]} == result["tuned"]

    def test_one_class_is_enough(self, run, linear, tmp_path):
        done = run("eval", linear, write_photos(tmp_path / "one", {"blue": 3}), "--format", "json")
        assert json.loads(done.out)["total"] == 3
        assert set(json.loads(done.out)["per_class"]) == {"blue"}

    def test_images_that_were_all_for_training_are_no_test(self, run, photos, tmp_path):
        trained = run("train", photos, *FAST, "--holdout", "0", "--out", tmp_path / "out")
        assert trained.status == 0
        assert "the accuracy on other images is unknown" in trained.out
        assert "The accuracy is unknown: there are no test images." in trained.out
        result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
        assert (result["images"]["train"], result["images"]["test"], result["tuned"]) == (32, 0, None)
        done = run("eval", tmp_path / "out", photos)
        assert "trained on these images, so its accuracy on new images is unknown" in done.err

    def test_a_split_can_be_chosen(self, run, linear, split_photos):
        for split, total in (("auto", 8), ("test", 8), ("val", 6), ("train", 12), ("all", 26)):
            done = run("eval", linear, split_photos, "--split", split, "--format", "json")
            assert json.loads(done.out)["total"] == total

    def test_shows_the_hardest_classes(self, run, linear, photos):
        done = run("eval", linear, photos, "--split", "all")
        assert all(name in done.out for name in (*NAMES, "hardest classes", "95 % interval"))

    def test_strange_classes_are_named(self, run, linear, tmp_path):
        done = run("eval", linear, write_photos(tmp_path / "zoo", {"blue": 1, "zebra": 1}))
        assert done.status == 1
        assert "not among them: zebra" in done.err

    def test_new_names_need_no_training_where_names_are_read(self, run, coop, linear, tmp_path):
        zoo = write_photos(tmp_path / "zoo", {"sea": 2, "wood": 2})
        done = run("eval", coop, zoo, "--classes", "sea,wood,sand", "--format", "json")
        assert json.loads(done.out)["total"] == 4
        refused = run("eval", linear, zoo, "--classes", "sea,wood")
        assert (refused.status, refused.out) == (1, "")
        assert "linear cannot take new class names" in refused.err


def first_column(text: str) -> str:
    """A table's first column without spaces: a long path is folded at the terminal's width."""
    cells = [line.split("│")[1] for line in text.splitlines() if line.count("│") > 1]
    return "".join("".join(cells).split())


class TestPredict:
    def test_json(self, run, linear, photos):
        done = run("predict", linear, photos / "blue", photos / "dark_red" / "1.png", "--format", "json", "--top", "99")
        records = json.loads(done.out)
        paths = [*(f"{photos}/blue/{number}.png" for number in range(8)), f"{photos}/dark_red/1.png"]
        assert [record["image"] for record in records] == paths
        for record in records:
            names, scores = zip(*record["top"], strict=True)
            assert set(names) == set(NAMES), "no more than there are"
            assert list(scores) == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1, abs=1e-5)
            assert (record["label"], record["score"]) == tuple(record["top"][0])

    def test_csv(self, run, linear, photos):
        done = run("predict", linear, photos, "--format", "csv", "--top", "2")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert list(rows[0]) == ["image", "rank", "label", "score"]
        assert [row["rank"] for row in rows] == ["1", "2"] * 32
        assert {row["label"] for row in rows} <= set(NAMES), "a comma in a name is quoted"

    def test_table(self, run, linear, photos):
        done = run("predict", linear, photos / "blue" / "0.png", "--top", "4")
        assert "probability" in done.out
        assert first_column(done.out) == str(photos / "blue" / "0.png")
        assert all(name in done.out for name in NAMES)

    def test_the_result_alone_goes_to_the_standard_output(self, run, linear, photos):
        done = run("predict", linear, photos, "--format", "json")
        json.loads(done.out)
        note = selfprompt.load(linear).method.backbone.note
        assert note in done.err
        assert note not in done.out

    def test_names_that_look_like_markup_are_shown_as_they_are(self, run, linear, tmp_path):
        path = tmp_path / "a [bold] :cat: [link].png"
        photo(COLOURS["blue"], 1).save(path)
        assert first_column(run("predict", linear, path).out) == str(path).replace(" ", "")

    def test_new_names(self, run, coop, photos):
        image = photos / "blue" / "0.png"
        done = run(
            "predict", coop, image, "--classes", 'sea, deep  wood ,"salt, pepper"', "--format", "json", "--top", "9"
        )
        (record,) = json.loads(done.out)
        assert {name for name, _ in record["top"]} == {"sea", "deep wood", "salt, pepper"}

    def test_new_names_from_a_file(self, run, coop, photos, tmp_path):
        names = tmp_path / "names.txt"
        image = photos / "blue" / "0.png"
        names.write_text("sea\ndeep_wood\n\nsalt, pepper\n", encoding="utf-8")
        command = ["predict", coop, image, "--class_names", names, "--format", "json", "--top", "9"]
        assert {name for name, _ in json.loads(run(*command).out)[0]["top"]} == {"sea", "deep wood", "salt, pepper"}
        names.write_text("blue\tsea\ndark red\tbrick\n", encoding="utf-8")
        found = {name for name, _ in json.loads(run(*command).out)[0]["top"]}
        assert found == {"sea", "brick", "green apple", "猫, klein"}
        names.write_text("", encoding="utf-8")
        assert run(*command).status == 1
        assert run("predict", coop, image, "--class_names", tmp_path / "none.txt").status == 1

    @pytest.mark.parametrize(("names", "message"), [("sea", "at least 2"), (",", "at least 2"), ("a,a", "must differ")])
    def test_new_names_must_make_a_choice(self, run, coop, photos, names, message):
        done = run("predict", coop, photos / "blue" / "0.png", "--classes", names)
        assert (done.status, done.out) == (2, "")
        assert message in done.err

    def test_new_names_are_refused_where_none_are_read(self, run, linear, photos):
        done = run("predict", linear, photos / "blue", "--classes", "sea,wood")
        assert (done.status, done.out) == (1, "")
        assert "linear cannot take new class names: its head was trained for 4 classes." in done.err


@pytest.mark.parametrize(("command", "hint"), [("train", True), ("predict", False)])
def test_ctrl_c_ends_in_a_sentence(command, hint, run, photos, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfprompt.training.tune.tune", interrupted)
    monkeypatch.setattr("selfprompt.inference.loading.load", interrupted)
    arguments = {"train": [photos, "--out", tmp_path / "out"], "predict": [tmp_path, photos]}
    done = run(command, *arguments[command])
    assert done.status == 130
    assert done.err.startswith("selfprompt: interrupted.")
    assert ("--resume" in done.err) is hint


def test_a_bug_ends_with_one_sentence_and_shows_a_traceback_on_request(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("selfprompt.training.tune.tune", lambda *_, **__: {}["missing"])
    command = ["train", str(photos), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'missing'. This is a bug; SELFPROMPT_DEBUG=1 shows where it happened." in said
    monkeypatch.setenv("SELFPROMPT_DEBUG", "1")
    with pytest.raises(KeyError):
        main(command)


def test_ctrl_c_while_training_leaves_a_run_that_resumes(run, photos, tmp_path, monkeypatch):
    from selfprompt.training.logs import RunLog

    settings = [photos, *FAST, "--epochs", "3", "--lr", "0.1"]
    table = RunLog.write_csv

    def interrupted(self, history):
        table(self, history)
        if len(history) == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write_csv", interrupted)
        done = run("train", *settings, "--out", tmp_path / "out")
    signal.signal(signal.SIGINT, before)
    assert done.status == 130
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint.safetensors", "log.csv", "recipe.yaml"}
    refused = run("train", *settings, "--out", tmp_path / "out")
    assert refused.status == 1
    assert "holds an unfinished run. Resume it with --resume, delete it, or choose another folder." in refused.err
    other = run("train", *settings, "--out", tmp_path / "out", "--resume", "--seed", "5")
    assert other.status == 1
    assert "belongs to another run: " in other.err
    assert "seed was 1 and is 5" in other.err
    moved = shutil.copytree(photos, tmp_path / "elsewhere" / photos.name)
    others = shutil.copytree(photos, tmp_path / "others" / photos.name)
    for path in others.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")  # other pictures under the same names
    mixed = run("train", others, *settings[1:], "--out", tmp_path / "out", "--resume")
    assert mixed.status == 1
    assert "belongs to another run: images was " in mixed.err
    resumed = run("train", moved, *settings[1:], "--out", tmp_path / "out", "--resume")
    assert resumed.status == 0
    assert "resuming from the last checkpoint" in resumed.out
    assert "epoch 2/3" not in resumed.out
    started_late = run("train", *settings, "--out", tmp_path / "straight", "--resume")
    assert "no checkpoint yet: starting from epoch 1" in started_late.out
    tensors = [(tmp_path / name / "prompts.safetensors").read_bytes() for name in ("out", "straight")]
    assert tensors[0] == tensors[1]


IN_A_NEW_PROCESS = """
import sys, torch, selfprompt
from selfprompt.cli.main import main
folder, photos, logits = sys.argv[1:]
torch.save(selfprompt.load(folder).logits(torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)), logits)
status = main(["eval", folder, photos, "--format", "json"])
print("--")
sys.exit(status or main(["predict", folder, photos, "--format", "json", "--top", "4"]))
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bytes_and_then_used(photos, tmp_path):
    """The whole life of a classifier: train in a process that is killed, go on in another, use it in a third."""
    settings = ["--method", "coop", "--backbone", "embedded/clip", "--epochs", "8", "--ema-decay", "0.5"]
    out = tmp_path / "killed"
    process = started("train", photos, "--out", out, *settings)
    while not (out / "log.csv").exists():  # written after the first checkpoint
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (out / "checkpoint.safetensors").exists()
    assert not (out / "result.json").exists(), "killed too late for this test to mean anything"
    assert main(["predict", str(out), str(photos)]) == 1, "an unfinished run is no classifier"

    resumed = ran("train", photos, "--out", out, *settings, "--resume")
    assert resumed.status == 0, resumed.err
    assert "resuming from the last checkpoint" in resumed.out
    assert main(["train", str(photos), "--out", str(tmp_path / "straight"), *settings]) == 0
    killed, straight = ((tmp_path / name / "prompts.safetensors").read_bytes() for name in ("killed", "straight"))
    assert killed == straight
    names = sorted(path.name for path in out.iterdir())
    assert names == ["README.md", "config.json", "log.csv", "prompts.safetensors", "recipe.yaml", "result.json"]

    command = [sys.executable, "-c", IN_A_NEW_PROCESS, out, photos, tmp_path / "logits.pt"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    measured, records = map(json.loads, said.stdout.split("--\n"))
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert {name: measured[name] for name in result["tuned"]} == result["tuned"]
    classifier = selfprompt.load(tmp_path / "straight")
    here = classifier.predict(sorted(photos.rglob("*.png")), top=4)
    assert [record["top"] for record in records] == [[list(pair) for pair in p.top] for p in here]
    logits = classifier.logits(torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_and_only_one_prints(photos, tmp_path):
    settings = ["--method", "coop", "--backbone", "embedded/clip", "--epochs", "3", "--shots", "5", "--batch-size", "7"]
    two = ran(
        *("train", photos, "--out", tmp_path / "two", *settings, "--devices", "2", "--device", "cpu"),
        env={"GLOO_SOCKET_IFNAME": "lo"},
    )
    assert (two.status, two.err) == (0, "")
    said = ("training coop: 512 trainable parameters", "Saved to", "points against zero-shot")
    assert [two.out.count(words) for words in said] == [1, 1, 1]
    assert main(["train", str(photos), "--out", str(tmp_path / "one"), *settings]) == 0
    one, both = (load_file(tmp_path / name / "prompts.safetensors") for name in ("one", "two"))
    assert one.keys() == both.keys()
    for name in one:  # float32: a batch's gradient is summed in another order
        torch.testing.assert_close(both[name], one[name], rtol=0, atol=1e-5, msg=name)
    results = [json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert results[0]["tuned"]["confusion"] == results[1]["tuned"]["confusion"]
    assert not [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]
