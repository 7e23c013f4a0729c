"""The strict protocols: one setting for all tasks, union and hits by hand, unbalanced supports, comparisons."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from selfprompt.benchmarks.comparison import compare
from selfprompt.benchmarks.evaluating import PartLogits, strict_record, with_halves
from selfprompt.benchmarks.protocols import build_grid, cell_recipe
from selfprompt.benchmarks.results import read_results
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import RunCache, run_grid
from selfprompt.benchmarks.strict import DEVELOPMENT_TASKS
from selfprompt.benchmarks.supports import group_drawings, strict_test_images
from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.suites import list_tasks, load_task
from selfprompt.data.suites.task import SuiteTask
from selfprompt.metrics import harmonic_mean
from selfprompt.reports.bench_page import commands
from selfprompt.reports.bench_tables import all_tables
from selfprompt.reports.tables import Estimate, to_csv, to_latex, to_markdown
from tests.benchmarks.drawn_suite import CLASSES, draw_suite
from tests.benchmarks.test_results import metrics, write
from tests.benchmarks.test_runner import counted

ROWS = "sep,coop,prograd,tcp,promptsrc,clip-lora,mmrl,clip-svd,tip-adapter-f,two-stage"
KEYS = ("base", "new", "union", "union-base", "union-new")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_suite(tmp_path_factory.mktemp("suite"), ("animals", "food"), train=6)


def bench(root, out, rows, protocol="strict", **changed):
    """Run a grid on animals; returns the results by row."""
    settings = {"datasets": ("animals",), "seeds": (1,), "shots": (2,), "overrides": {}} | changed
    cells = build_grid(protocol, "embedded", parse_rows(rows), settings.pop("datasets"), **settings)
    states = {outcome.cell.row: outcome.state for outcome in run_grid(cells, out, RunCache(root))}
    assert set(states.values()) == {"done"}, [path.read_text() for path in out.rglob("error.txt")]
    return {cell.row: json.loads((out / cell.folder / "result.json").read_text()) for cell in cells}


class TestRules:
    @pytest.mark.parametrize("protocol", ["strict", "strict-few-shot"])
    def test_one_setting_for_all_tasks_and_shots(self, protocol):
        """Where base-to-new and few-shot change epochs, rates or texts with the data set, strict does not."""
        tasks, shots = ("imagenet", "eurosat", "fgvc_aircraft", "dtd"), (1, 4, 16)
        cells = build_grid(protocol, "coop", parse_rows(ROWS), tasks, (1,), shots)
        settings = {}
        for cell in cells:
            recipe = cell.recipe.changed({"shots": 0}).flat()
            settings.setdefault(cell.row, set()).add((json.dumps(recipe, sort_keys=True), cell.steps // cell.shots))
        assert {row: len(found) for row, found in settings.items()} == dict.fromkeys(ROWS.split(","), 1)
        usual = build_grid("few-shot", "coop", parse_rows("coop"), tasks, (1,), shots)
        assert len({cell.recipe.train.epochs for cell in usual}) > 1

    def test_all_methods_have_the_template_of_the_task(self):
        for name in ("fgvc_aircraft", "dtd"):
            task = SuiteTask("coop", name, load_task("embedded/animals").dataset, template="a {} of this task.")
            for cell in build_grid("strict", "coop", parse_rows(ROWS), (name,), (1,), (16,)):
                options = cell_recipe(cell, task, 100).options
                assert options.get("template", task.template) == task.template, cell.row

    def test_rules_for_a_method_stay(self):
        (cell,) = build_grid("strict", "embedded", parse_rows("sep"), ("food",), (1,), (16,))
        assert (cell.recipe.train.lr, cell.recipe.backbone) == (0.006, "embedded/clip")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["strict", "--select", "best-val"], "strict uses no validation images"),
            (["strict", "--methods", "coop[select=best-val]"], "strict uses no validation images"),
            (["strict", "--methods", "sep[options.template='{}']"], "gives all methods the task's template"),
            (["strict", "--shots", "0"], "--shots must be at least 1, got 0"),
            (["strict", "--supports", "dirichlet"], "--supports dirichlet needs the protocol strict-few-shot"),
            (["few-shot", "--supports", "dirichlet"], "--supports is for the protocols strict and strict-few-shot"),
            (["base-to-new", "--splits", "lists"], "--splits is for the protocols strict"),
            (["strict", "--splits", "lists"], "--splits needs --suite coop and --root"),
            (["strict", "--seeds", "1..9999999999"], "--seeds must be whole numbers"),
        ],
    )
    def test_what_is_refused(self, root, run, tmp_path, words, message):
        methods = [] if "--methods" in words else ["--methods", "coop"]
        done = run("bench", *words, *methods, "--root", root, "--datasets", "animals", "--out", tmp_path / "out")
        assert done.status
        assert message in done.err
        assert not (tmp_path / "out").exists()

    def test_a_template_in_a_recipe_file(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: sep\noptions: {template: '{}'}\n")
        with pytest.raises(ValueError, match=r"mine.yaml: strict gives all methods the task's template"):
            build_grid("strict", "embedded", parse_rows(str(file)), ("food",), (1,), (16,))

    def test_ten_seeds_by_default(self, root, run):
        done = run("bench", "strict", "--root", root, "--datasets", "animals", "--methods", "coop", "--list")
        assert done.out.count("embedded-animals/coop/seed") == 10

    def test_development_tasks_exist(self):
        for suite, tasks in DEVELOPMENT_TASKS.items():
            assert set(tasks) < set(list_tasks(suite))


def test_union_and_its_parts_equal_golden():
    with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as file:
        arrays = dict(file)
    names, base, new = tuple("abcdefghi"), arrays["base_labels"], arrays["new_labels"]
    no_images = ImageTable("golden", fetch=lambda index: None)

    def part(classes, logits, labels):
        items = tuple(Item(IndexedSource(no_images, number), int(label)) for number, label in enumerate(labels))
        return PartLogits(classes, items, torch.from_numpy(logits), torch.from_numpy(labels))

    joint = np.concatenate([arrays["joint_base"], arrays["joint_new"]])
    parts = {
        "base": part(names[:5], arrays["base_logits"], base),
        "new": part(names[5:], arrays["new_logits"], new),
        "union": part(names, joint, np.concatenate([base, new + 5])),
    }
    found = {name: one.metrics()["accuracy"] / 100 for name, one in with_halves(parts).items()}
    assert found["union"] == pytest.approx(float(arrays["union_accuracy"]), rel=1e-9)
    assert found["union-base"] == pytest.approx(float(arrays["union_base"]), rel=1e-9)
    assert found["union-new"] == pytest.approx(float(arrays["union_new"]), rel=1e-9)
    shares = np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)
    scores = shares[:, :5].sum(axis=1)
    right = [arrays[f"{name}_logits"].argmax(axis=1) == labels for name, labels in (("base", base), ("new", new))]
    wins = (scores[:40][right[0]][:, None] > scores[40:][right[1]]).sum()
    record = strict_record(parts)
    assert record["openworld_auc"] == pytest.approx(100 * wins / (40 * 30))
    assert record["hits"]["union"]["right"].count("1") == round(found["union"] * 70)


def test_a_drawing_is_what_a_set_has_for_a_class():
    task = load_task("embedded/food")
    items = [item for item in strict_test_images(task) if item.label == 0]
    names = [item.source.name.rpartition("/")[2].rpartition("-")[0] for item in items]
    groups = group_drawings(items)
    assert names[:8] == [""] * 8, "views of the protocols' test images, of fluent-emoji-flat"
    assert set(groups[:8]) == {0}
    assert {group for name, group in zip(names, groups, strict=True) if name == "fluent-emoji-flat"} == {0}
    assert len(set(groups)) == len(set(names) - {""}) == 2
    assert len(set(group_drawings(task.dataset.test))) == len(task.dataset.classes)


class TestRuns:
    def test_zero_shot_among_all_classes_by_hand(self, root, tmp_path):
        result = bench(root, tmp_path, "zero-shot")["zero-shot"]
        evaluations = result["evaluations"]
        assert tuple(evaluations) == KEYS
        assert (evaluations["base"]["correct"], evaluations["base"]["total"]) == counted(root, CLASSES[:3])
        assert (evaluations["new"]["correct"], evaluations["new"]["total"]) == counted(root, CLASSES[3:])
        assert (evaluations["union"]["correct"], evaluations["union"]["total"]) == counted(root, CLASSES)
        parts = evaluations["union-base"], evaluations["union-new"]
        assert sum(part["correct"] for part in parts) == evaluations["union"]["correct"]
        assert [part["total"] for part in parts] == [6, 4]
        bound = evaluations["base"]["accuracy"] * evaluations["new"]["accuracy"] / 100
        assert 0 <= result["openworld_auc"] <= bound + 1e-9

    def test_hits_are_those_of_the_metrics_on_the_same_images(self, root, tmp_path):
        results = bench(root, tmp_path, "zero-shot,zs-lp,ridge")
        for result in results.values():
            for name, hits in result["hits"].items():
                found = result["evaluations"][name]
                assert (hits["right"].count("1"), len(hits["right"])) == (found["correct"], found["total"])
                assert hits["images"] == results["zero-shot"]["hits"][name]["images"]
        assert set(results["ridge"]["hits"]) == {"base"}
        assert results["ridge"]["evaluations"]["union"] is results["ridge"]["openworld_auc"] is None
        assert results["zero-shot"]["hits"]["union"]["labels"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]

    def test_no_validation_image_is_used(self, root, tmp_path):
        """Without their files, results stay the same."""
        first = bench(root, tmp_path / "a", "zs-lp")["zs-lp"]
        other = shutil.copytree(root, tmp_path / "suite")
        for file in other.glob("animals/val/*/*.png"):
            file.write_bytes(b"not an image")
        second = bench(other, tmp_path / "b", "zs-lp")["zs-lp"]
        assert first["images"] == {"train": 6, "val": 0}
        assert second["hits"] == first["hits"]
        assert second["notes"] == first["notes"]

    def test_supports_of_the_seed_are_those_of_base_to_new(self, root, tmp_path):
        protocols, rows = ("strict", "base-to-new"), parse_rows("ridge")
        cells = [build_grid(name, "embedded", rows, ("animals",), (1,), (2,))[0] for name in protocols]
        list(run_grid(cells, tmp_path, RunCache(root)))
        strict, usual = (json.loads((tmp_path / cell.folder / "split.json").read_text()) for cell in cells)
        assert strict["train"] == usual["train"]

    @pytest.mark.parametrize("supports", ["marginal", "marginal-absent", "dirichlet"])
    def test_unbalanced_supports(self, root, tmp_path, supports):
        """Seed 2 of the Dirichlet draw leaves out the second class."""
        rows, draw = "zero-shot,ridge,linear,zs-lp", {"seeds": (2,), "shots": (1,), "supports": supports}
        results = bench(root, tmp_path, rows, "strict-few-shot", **draw)
        absent = supports == "dirichlet"
        for row, result in results.items():
            assert result["evaluations"]["test"]["total"] == 10, "the test set stays whole"
            assert result["supports"] == supports
            scored = result["evaluations"]["test"]
            assert len(scored["per_class"]) == 5
            if absent and row in ("ridge", "linear"):
                assert scored["per_class"]["green"] == 0
                assert not any(true[1] for true in scored["confusion"]), "the absent class is never predicted"
        assert any("none of 1 class" in note for note in results["ridge"]["notes"]) == absent

    def test_a_text_method_keeps_classes_that_were_not_drawn(self, root, tmp_path):
        results = bench(
            root, tmp_path, "zero-shot,zs-lp", "strict-few-shot", seeds=(3,), shots=(1,), supports="dirichlet"
        )
        assert results["zs-lp"]["classes"] == list(CLASSES)
        assert all(np.isfinite(result["evaluations"]["test"]["calibration_error"]) for result in results.values())

    def test_further_test_images_are_used(self, tmp_path):
        suite = draw_suite(tmp_path / "suite", more=3)
        result = bench(suite, tmp_path / "out", "zero-shot")["zero-shot"]
        assert [result["evaluations"][name]["total"] for name in KEYS] == [15, 10, 25, 15, 10]
        assert result["hits"]["base"]["labels"] == [0, 0, 1, 1, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert result["hits"]["base"]["groups"] == [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8]
        task = load_task("embedded/food")
        assert strict_test_images(task) == task.dataset.test + task.more_test


def hits(right, labels=None):
    labels = [0] * len(right) if labels is None else labels
    groups = list(range(len(right)))
    return {"images": "same", "labels": labels, "groups": groups, "right": "".join(map(str, right))}


def strict_result(runs, dataset, row, seed, base, new, union, **changed):
    """A result of the protocol strict with these hits."""
    parts = {"base": base, "new": new, "union": union}
    facts = {
        "hits": {name: hits(part) for name, part in parts.items()},
        "supports": "balanced",
        "openworld_auc": 25.0,
        "split": {"file": "split.json", "sha256": f"{dataset}{seed}"},
    }
    counts = {name: metrics(sum(part), len(part)) for name, part in parts.items()}
    write(runs, "strict", dataset, row, seed, counts, **facts | changed)


@pytest.fixture
def runs(tmp_path):
    """CoOp is ahead of zero-shot by 20 points of union accuracy on travel and flags, and by 80 on food."""
    half = [1] * 50 + [0] * 50
    for name, gain in (("travel", 20), ("flags", 20), ("food", 80), ("animals", 0)):
        plain = [1] * 10 + [0] * 90
        better = [1] * (10 + gain) + [0] * (90 - gain)
        strict_result(tmp_path, name, "zero-shot", 1, half, half, plain)
        for seed in (1, 2, 3):
            strict_result(tmp_path, name, "coop", seed, half, half, better)
    return tmp_path


def table(tables, *words):
    (found,) = [one for one in tables if all(word in one.title for word in words)]
    return found


class TestComparisons:
    def test_differences_by_hand(self, runs):
        results = read_results(runs).results
        found = compare(results, ("food", "travel", "flags"), "union accuracy")
        lead = found.lead("coop", "zero-shot")
        assert (lead.difference, lead.task, lead.others) == (pytest.approx(40), "food", pytest.approx(20))
        assert found.seeds == (1, 2, 3)
        assert lead.is_ahead
        back = found.lead("zero-shot", "coop")
        assert (back.difference, back.is_behind, back.is_ahead) == (pytest.approx(-40), True, False)
        assert pytest.approx(lead.interval.p) == 2 / 10_001
        same = compare(results, ("food", "travel"), "H").lead("coop", "zero-shot")
        assert (same.difference, same.interval.low, same.interval.high, same.interval.p) == (0, 0, 0, 1)

    def test_a_gain_on_one_task_is_no_claim(self, tmp_path):
        half = [1] * 50 + [0] * 50
        for name, gain in (("travel", 0), ("flags", 0), ("food", 50)):
            strict_result(tmp_path, name, "zero-shot", 1, half, half, half)
            strict_result(tmp_path, name, "coop", 1, half, half, [1] * (50 + gain) + [0] * (50 - gain))
        results = read_results(tmp_path).results
        lead = compare(results, ("food", "travel", "flags"), "union accuracy").lead("coop", "zero-shot")
        assert lead.interval.low > 0
        assert not lead.is_ahead
        one = compare(results, ("food",), "union accuracy").lead("coop", "zero-shot")
        assert (one.task, one.others, one.is_ahead) == ("", None, False)

    def test_intervals_of_h_hold_both_halves(self, tmp_path):
        rng = np.random.default_rng(1)
        for name, row in product(("food", "flags"), ("zero-shot", "coop")):
            base, new = ((rng.random(80) < share).astype(int).tolist() for share in (0.8, 0.5))
            strict_result(tmp_path, name, row, 1, base, new, base)
        results = read_results(tmp_path).results
        found = compare(results, ("food", "flags"), "H")
        by_hand = [
            harmonic_mean(result.evaluations["base"].accuracy, result.evaluations["new"].accuracy)
            for result in results
            if (result.dataset, result.label) == ("food", "coop")
        ]
        assert found.values[0, found.rows.index("coop")] == pytest.approx(by_hand[0])
        spreads = found.samples.std(axis=2)
        assert (spreads > 2).all()
        assert (spreads < 8).all()

    def test_rows_without_the_quantity_are_left_out(self, runs):
        half = [1] * 50 + [0] * 50
        strict_result(runs, "food", "ridge", 1, half, half, half, hits={"base": hits(half)})
        results = read_results(runs).results
        assert set(compare(results, ("food", "travel"), "H").rows) == {"coop", "zero-shot"}
        assert compare([r for r in results if r.row != "coop"], ("food", "travel"), "H") is None

    def test_seeds_that_all_rows_have(self, runs):
        half = [1] * 50 + [0] * 50
        for name in ("food", "travel"):
            strict_result(runs, name, "sep", 2, half, half, half)
        results = read_results(runs).results
        assert compare(results, ("food", "travel"), "H").seeds == (2,)
        strict_result(runs, "flags", "sep", 7, half, half, half)
        assert compare(read_results(runs).results, ("food", "travel", "flags"), "H") is None

    def test_tables(self, runs):
        tables = all_tables(read_results(runs).results)
        assert "average over 3 held-out tasks" in tables[0].title
        ahead = table(tables, "points ahead of zero-shot, union accuracy on 3 held-out tasks")
        (line,) = ahead.rows
        assert (line[0], line[3].note, line[4]) == ("coop", "food", "ahead")
        assert (line[1].value, line[3].value) == (pytest.approx(40), pytest.approx(20))
        (line,) = table(tables, "points ahead of zero-shot, H on").rows
        assert line[4] is None
        together = table(tables, "average over 4 tasks, all classes together")
        assert {row[0]: row[1].mean for row in together.rows} == {"zero-shot": 10, "coop": pytest.approx(40)}
        assert table(tables, "union accuracy on every task").columns == ("method", "animals", "food", "travel", "flags")
        assert sum(note.startswith("Differences are paired") for one in tables for note in one.notes) == 1

    def test_all_pairs(self, runs):
        half = [1] * 50 + [0] * 50
        for name, seed in product(("travel", "flags", "food", "animals"), (1, 2, 3)):
            strict_result(runs, name, "sep", seed, half, half, half)
        pairs = table(all_tables(read_results(runs).results, baseline="sep"), "each other row, union accuracy")
        assert pairs.columns == ("method", "zero-shot", "coop", "sep")
        assert [row[0] for row in pairs.rows] == ["zero-shot", "coop", "sep"]
        assert pairs.rows[1][2] is None
        assert isinstance(pairs.rows[2][1], Estimate)
        assert (pairs.rows[2][1].value, pairs.rows[2][1].mark) == (pytest.approx(40), "*")
        assert pairs.rows[1][3].mark == ""

    def test_every_form_of_a_report(self, runs, run):
        files = {kind: runs / f"tables.{kind}" for kind in ("html", "csv", "json", "markdown", "latex")}
        done = run("report", runs, *(word for kind, file in files.items() for word in (f"--{kind}", file)))
        assert done.status == 0, done.err
        assert "points ahead of zero-shot" in done.out
        assert "points ahead of zero-shot, H on 3 held-out tasks" in files["html"].read_text()
        (command,) = commands(read_results(runs).results)
        assert command.startswith("selfprompt bench strict --suite embedded --datasets animals,food,travel,flags")
        assert "+40.00 (" in files["markdown"].read_text()
        assert "$+$40.00 {\\scriptsize (" in files["latex"].read_text()
        tables = all_tables(read_results(runs).results)
        assert ",food" in to_csv(tables)
        assert to_markdown(tables)
        assert to_latex(tables)


class TestReading:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"hits": None}, "hits must be"),
            ({"hits": {"base": hits([1, 1]), "other": []}}, "hits must hold"),
            ({"hits": {"other": hits([1])}}, "the hits of other disagree"),
            ({"hits": {"base": []}}, "hits must hold images, labels, groups and right"),
            ({"hits": {"base": hits([1, 0])}}, "the hits of base disagree with its counts"),
            ({"hits": {"base": hits([1, 2])}}, "the hits must be a 0 or 1"),
            ({"hits": {"base": hits([1, 1], ["a", 0])}}, "the labels of hits must be whole numbers"),
            ({"hits": {"base": hits([1, 1]) | {"groups": [0, -1]}}}, "the groups of hits must be whole numbers"),
            ({"hits": {"base": hits([1, 1]) | {"groups": [0]}}}, "the hits must be a 0 or 1"),
            ({"supports": "some"}, "supports must be"),
            ({"openworld_auc": "x"}, "openworld_auc must be"),
        ],
    )
    def test_damaged_hits_are_named(self, tmp_path, changed, message):
        strict_result(tmp_path, "food", "coop", 1, [1, 1], [1], [1], **changed)
        with pytest.raises(ValueError, match=r"result.json is damaged") as caught:
            read_results(tmp_path)
        assert message in str(caught.value)

    def test_other_test_images_cannot_be_compared(self, tmp_path):
        strict_result(tmp_path, "food", "coop", 1, [1, 1], [1], [1])
        other = {name: hits([1, 1] if name == "base" else [1]) | {"images": name} for name in ("base", "new", "union")}
        strict_result(tmp_path, "food", "sep", 1, [1, 1], [1], [1], hits=other)
        with pytest.raises(ValueError, match=r"different test images \(base\) of food"):
            read_results(tmp_path)

    def test_labels_that_belong_to_other_images(self, tmp_path):
        strict_result(tmp_path, "food", "coop", 1, [1, 1], [1], [1])
        other = {"base": hits([1, 1], [0, 3]), "new": hits([1]), "union": hits([1])}
        strict_result(tmp_path, "food", "sep", 1, [1, 1], [1], [1], hits=other)
        with pytest.raises(ValueError, match=r"different test images \(base\) of food"):
            read_results(tmp_path)

    def test_other_training_images_cannot_be_compared(self, tmp_path):
        strict_result(tmp_path, "food", "coop", 1, [1, 1], [1], [1])
        strict_result(tmp_path, "food", "sep", 1, [1, 1], [1], [1], split={"sha256": "another"})
        with pytest.raises(ValueError, match="different training images of food"):
            read_results(tmp_path)


@pytest.mark.slow
def test_the_embedded_suite_from_command_to_tables(run, tmp_path):
    words = ["bench", "strict", "--suite", "embedded", "--datasets", "food,flags", "--methods", "zero-shot,zs-lp"]
    done = run(*words, "--seeds", "1..2", "--shots", 4, "--out", tmp_path)
    assert done.status == 0, done.err
    done = run("report", tmp_path, "--html", tmp_path / "page.html")
    assert done.status == 0, done.err
    said = " ".join(done.out.split())
    assert "average over 2 held-out tasks, all classes together" in said
    assert "points ahead of zero-shot, H on 2 held-out tasks" in said
    results = read_results(tmp_path).results
    assert len(results) == 2 + 4
    assert {result.evaluations["union"].total for result in results} == {
        len(strict_test_images(load_task(f"embedded/{name}"))) for name in ("food", "flags")
    }
