"""The user's own folders as tasks of a benchmark: names, draws, tables, and the command as a user types it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.benchmarks.evaluating import adapt_method
from selfprompt.benchmarks.own_folders import draw_test_images, fingerprint, load_folder_task, name_folders
from selfprompt.benchmarks.protocols import Evaluation, build_grid, given_keys
from selfprompt.benchmarks.results import read_results
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import fitted_recipe
from selfprompt.data.class_description import ClassDescription
from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.readers.read import read_dataset
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.reports.bench_page import ranking
from selfprompt.reports.bench_tables import all_tables, headline_value
from selfprompt.reports.tables import format_value
from tests.benchmarks.test_results import values, write
from tests.conftest import COLOURS, write_photos

QUICK = ("--backbone", "embedded/clip", "--seeds", "1,2,3")


def read(path: Path, name: str = "photos"):
    return load_folder_task({name: path}, "skip", "folder", name, None)


def test_other_classes_are_evaluated_with_what_is_said_about_them():
    method = build_method("zero-shot", load_backbone("embedded/clip"), ["cat", "dog"])
    said = (ClassDescription(("hen", "chicken")), ClassDescription(("cow",)))
    adapted = adapt_method(method, Evaluation("new", ("hen", "cow"), (), {}, descriptions=said), "zero-shot")
    assert adapted.descriptions == said
    adapted = adapt_method(method, Evaluation("new", ("hen", "cow"), (), {"template": "{}."}), "zero-shot")
    assert adapted.classes == ("hen", "cow")


class TestNames:
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("my photos", "my-photos"),
            ("猫", "猫"),
            ("a: <b>|?*", "a-b"),
            (".hidden", "hidden"),
            ("...", "images"),
            ("x" * 200, "x" * 60),
            ("new\nline\x1b[31m", "new-line-31m"),
        ],
    )
    def test_hold_letters_and_digits(self, tmp_path, path, name):
        assert list(name_folders([str(tmp_path / path)])) == [name]

    def test_of_a_manifest_is_without_its_suffix(self, tmp_path):
        (tmp_path / "list.csv").touch()
        assert name_folders([str(tmp_path / "list.csv")]) == {"list": tmp_path / "list.csv"}

    def test_are_distinct(self, tmp_path):
        paths = [str(tmp_path / path) for path in ("a/photos", "b/Photos", "c", "a /photos")]
        assert list(name_folders(paths)) == ["a-photos", "b-Photos", "c", "a-photos-2"]

    def test_one_folder_is_given_once(self, tmp_path):
        with pytest.raises(ValueError, match="Each folder may be given once"):
            name_folders([str(tmp_path / "a"), str(tmp_path / "b" / ".." / "a")])

    @given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1, max_size=4, unique=True))
    def test_stay_inside_the_output_folder(self, paths):
        try:
            names = name_folders([os.path.join("/none", path.lstrip("/~")) for path in paths])
        except ValueError:  # two spellings of one folder
            return
        assert len(names) == len(paths)
        for name in names:
            assert name.strip(".")
            assert not set(name) & set('/\\:*?"<>|\n\r\t ')
            assert Path(f"out/folder-{name}").resolve().parent == Path("out").resolve()


class TestImages:
    def test_a_moved_folder_is_the_same_and_a_changed_one_is_not(self, tmp_path):
        counts = dict.fromkeys(COLOURS, 3)
        before = fingerprint(read(write_photos(tmp_path / "a", counts)).dataset)
        shutil.move(tmp_path / "a", tmp_path / "b")
        assert fingerprint(read(tmp_path / "b").dataset) == before
        shutil.move(tmp_path / "b" / "blue" / "0.png", tmp_path / "b" / "dark_red" / "9.png")
        changed = fingerprint(read(tmp_path / "b").dataset)
        (tmp_path / "b" / "blue").rename(tmp_path / "b" / "azure")
        renamed = fingerprint(read(tmp_path / "b").dataset)
        (tmp_path / "b" / "classes.yaml").write_text("azure: {names: [azure, sky blue]}\n", encoding="utf-8")
        assert len({before, changed, renamed, fingerprint(read(tmp_path / "b").dataset)}) == 4

    def test_the_seed_draws_the_test_images(self, photos):
        dataset = read_dataset(photos, holdout=0)
        draws = [{item.source for item in draw_test_images(dataset, 0.25, seed).test} for seed in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2]
        assert {len(draw) for draw in draws} == {4 * 2}

    def test_a_test_split_stays(self, split_photos):
        dataset = read_dataset(split_photos)
        assert draw_test_images(dataset, 0.25, 1) is dataset

    def test_something_must_be_left_to_train_on(self, tmp_path):
        folder = write_photos(tmp_path / "photos", dict.fromkeys(COLOURS, 1))
        with pytest.raises(ValueError, match="a class needs at least two images, one to train on and one to test on"):
            read(folder)
        for name in COLOURS:
            shutil.copy(folder / name / "0.png", folder / name / "copy.png")
        with pytest.raises(ValueError, match="no class has two different images"):
            draw_test_images(read(folder).dataset, 0.25, 1)


class TestGrid:
    def grid(self, rows="zero-shot,ridge", **changed):
        settings = {"seeds": (1, 2), "shots": (0,), "contents": {"photos": "hash"}} | changed
        return build_grid("holdout", "folder", parse_rows(rows), ["photos"], **settings)

    def test_an_untrained_method_has_a_cell_per_seed(self):
        assert [(cell.row, cell.seed) for cell in self.grid()] == [
            ("zero-shot", 1),
            ("ridge", 1),
            ("zero-shot", 2),
            ("ridge", 2),
        ]

    def test_changed_images_and_another_share_of_test_images_make_other_cells(self):
        grids = [self.grid(), self.grid(contents={"photos": "other"}), self.grid(overrides={"holdout": 0.5})]
        assert len({cell.id for cells in grids for cell in cells}) == 12

    def test_no_row_has_test_images_of_its_own(self, tmp_path):
        with pytest.raises(ValueError, match=r"holdout is the same for all rows, 0\.25; give --holdout instead"):
            self.grid("ridge[holdout=0.5]")
        (tmp_path / "mine.yaml").write_text("method: ridge\nholdout: 0.5\n")
        with pytest.raises(ValueError, match=r"the file sets holdout 0\.5"):
            self.grid(str(tmp_path / "mine.yaml"))

    def test_recipes_are_fitted_to_the_folder_but_for_what_is_given(self):
        dataset = Dataset("photos", ("a", "b"), tuple(Item(Path(f"{number}.png"), number % 2) for number in range(40)))
        (cell,) = self.grid("sep[lr=0.1]", seeds=(1,), overrides={"crop": 0.5})
        recipe = fitted_recipe(cell, cell.recipe, dataset)
        assert (recipe.train.batch_size, recipe.train.epochs) == (10, 75)  # a quarter of the images, 300 steps
        assert (recipe.train.lr, recipe.train.crop, recipe.train.augment) == (0.1, 0.5, "crop-flip")
        (cell,) = self.grid("coop[batch_size=20,epochs=3]", seeds=(1,))
        recipe = fitted_recipe(cell, cell.recipe, dataset)
        assert (recipe.train.batch_size, recipe.train.epochs, recipe.train.augment) == (20, 3, "none")
        assert given_keys(self.grid("sep[options.layers=[1],lr=0.1]", seeds=(1,))[0]) == {"options.layers", "lr"}


class TestTables:
    @pytest.fixture
    def runs(self, tmp_path):
        """Three draws of a quarter of the images."""
        drawn = {"suite": "folder", "held_out": True, "recipe": {"holdout": 0.25}, "contents": "a"}
        for seed, zero_shot, ridge, auto in ((1, 50, 80, 82), (2, 52, 82, 81), (3, 51, 87, 89)):
            for row, value in (("zero-shot", zero_shot), ("ridge", ridge), ("auto", auto)):
                extra = (
                    {"selection": {"chosen": "gda, mirror" if seed == 2 else "sep", "candidates": [{"seconds": 5.0}]}}
                    if row == "auto"
                    else {}
                )
                shots = {"shots": 0}
                write(tmp_path, "holdout", "photos", row, seed, {"test": value}, **drawn, **shots, **extra)
        return tmp_path

    def test_the_interval_allows_for_images_that_the_draws_share(self, runs):
        (table, _) = all_tables(read_results(runs).results)
        row = values([table], "accuracy, all images", "ridge")
        assert row["photos"].deviation == pytest.approx(3.605551)
        # t of two degrees of freedom is 4.302653; 4.302653 * 3.605551 * sqrt(1 / 3 + 0.25 / 0.75) = 12.666667
        assert row["photos"].interval == pytest.approx((83 - 12.666667, 83 + 12.666667), abs=1e-4)
        assert "Nadeau and Bengio" in table.notes[0]
        assert table.notes[-1] == "auto chose on photos: sep (2 of 3); gda, mirror (1 of 3)."
        assert values([table], "all images", "auto")["training, s"] == "17.0"  # 12 of training, 5 of comparing

    def test_differences_are_of_the_same_images(self, runs):
        _, paired = all_tables(read_results(runs).results)
        assert paired.title == "holdout, folder: points ahead of zero-shot on the same images, all images"
        assert values([paired], "all images", "ridge")["photos"].values == (30, 30, 36)
        _, paired = all_tables(read_results(runs).results, baseline="auto")
        row = values([paired], "all images", "ridge")["photos"]
        # -2, 1, -2: mean -1, deviation sqrt(3), and 4.302653 * sqrt(3) * sqrt(2 / 3) = 6.084870
        assert format_value(row) == "-1.00 ± 1.73 (-7.08 to 5.08)"
        assert format_value(values([paired], "all images", "zero-shot")["photos"]).startswith("-33.00")

    def test_all_images_are_more_than_any_shots(self, runs):
        few = {"suite": "folder", "held_out": True, "recipe": {"holdout": 0.25}, "shots": 4, "contents": "a"}
        write(runs, "holdout", "photos", "ridge", 1, {"test": 95}, **few)
        results = read_results(runs).results
        assert headline_value([result for result in results if result.row == "ridge"]) == pytest.approx(83)
        assert ranking(results) == ["auto", "ridge", "zero-shot"]  # 84, 83, 51

    def test_without_the_baseline_it_is_auto(self, runs):
        results = [result for result in read_results(runs).results if result.row != "zero-shot"]
        _, paired = all_tables(results)
        assert paired.title.startswith("holdout, folder: points ahead of auto")
        assert all_tables([result for result in results if result.row == "ridge"])[1:] == []

    def test_a_note_says_that_images_changed(self, runs):
        assert not any("different images" in note for note in read_results(runs).notes)
        other = {"suite": "folder", "held_out": True, "recipe": {"holdout": 0.25}, "contents": "b", "shots": 0}
        write(runs, "holdout", "photos", "simpleshot", 1, {"test": 50}, **other)
        assert "Results on photos come from different images or class names" in " ".join(read_results(runs).notes)


class TestCommand:
    @pytest.mark.filterwarnings("ignore:Glyph")  # a plot with a name for which matplotlib's font has no glyph
    def test_runs_resumes_and_reports(self, run, photos, tmp_path):
        folder, out = tmp_path / "my photos, all", tmp_path / "runs"
        shutil.copytree(photos, folder)
        command = ("bench", "--suite", "folder", "--datasets", folder, *QUICK, "--out", out)
        done = run(*command, "--methods", "zero-shot,ridge")
        assert done.status == 0, done.err
        assert "6 cells, 0 already done" in done.out
        files = {path.parent.relative_to(out).parts: json.loads(path.read_text()) for path in out.rglob("result.json")}
        assert {parts[:3] for parts in files} == {
            ("holdout", "folder-my-photos-all", "zero-shot"),
            ("holdout", "folder-my-photos-all", "ridge"),
        }
        tested = {}
        for path in out.rglob("split.json"):
            split = json.loads(path.read_text())
            assert not {name for name, _ in split["train"]} & {name for name, _ in split["test"]}
            assert len(split["test"]) == 8
            seed = path.parent.name.partition("-")[0]
            tested.setdefault(seed, set()).add(tuple(map(tuple, split["test"])))
        assert all(len(tests) == 1 for tests in tested.values()), "the same images for every method of a seed"
        assert len(set.union(*tested.values())) == 3, "other images for each seed"
        assert all(path.partition("/")[0] in COLOURS for path, _ in next(iter(tested["seed1"])))
        again = run(*command, "--methods", "zero-shot,ridge,simpleshot")
        assert "9 cells, 6 already done" in again.out
        report = run("report", out, "--html", tmp_path / "page.html", "--baseline", "ridge")
        assert report.status == 0, report.err
        assert "points ahead of ridge on the same images" in report.out
        assert "holdout, folder" in (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_takes_several_folders_manifests_and_shots(self, run, photos, split_photos, tmp_path):
        lines = [f"{photos / name / f'{number}.png'},{name}" for name in ("dark_red", "blue") for number in range(4)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
        folders = f"{tmp_path / 'list.csv'},{split_photos}"
        command = ("bench", "holdout", "--datasets", folders, "--methods", "ridge,simpleshot", "--shots", "1,2")
        done = run(
            *command, "--backbone", "embedded/mae", "--seeds", "1,2", "--holdout", "0.5", "--out", tmp_path / "o"
        )
        assert done.status == 0, done.err
        assert "split has a test split: every seed uses its test images." in done.out
        results = read_results(tmp_path / "o").results
        assert len(results) == 2 * 2 * 2 * 2
        totals = {(r.dataset, r.shots, r.record["images"]["train"], r.evaluations["test"].total) for r in results}
        assert totals == {("list", 1, 2, 4), ("list", 2, 4, 4), ("split", 1, 2, 8), ("split", 2, 4, 8)}
        titles = [table.title for table in all_tables(results, baseline="ridge")]
        assert titles == [
            "holdout, folder: accuracy, 1 shot",
            "holdout, folder: accuracy, 2 shots",
            "holdout, folder: points ahead of ridge on the same images, 1 shot",
            "holdout, folder: points ahead of ridge on the same images, 2 shots",
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "A protocol is needed, such as selfprompt bench few-shot"),
            (["--suite", "folder"], "--datasets is needed: your folder"),
            (["few-shot", "--suite", "folder"], "Your own folders are compared by the protocol holdout, got few-shot"),
            (["few-shot", "--holdout", "0.5"], "--holdout needs --suite folder"),
            (["holdout", "--suite", "embedded"], "holdout is defined for the suites folder, got 'embedded'."),
            (["holdout", "--datasets", "a", "--root", "b"], "--root is for published suites"),
            (["holdout", "--datasets", "a", "--holdout", "0"], "--holdout must be above 0 and below 1, got 0.0"),
            (["holdout", "--datasets", "a,a"], "--datasets must be names separated by commas, each once"),
            (
                ["holdout", "--datasets", "a", "--methods", "auto", "--epochs", "3"],
                "epochs cannot be set with the method",
            ),
            (["holdout", "--datasets", "a", "--methods", "auto[lr=0.1]"], "lr cannot be set with the method auto"),
        ],
    )
    def test_wrong_usage(self, run, arguments, message):
        done = run("bench", *arguments, "--list")
        assert done.status == 2
        assert message in done.err

    def test_a_missing_folder_is_named(self, run, tmp_path):
        done = run("bench", "holdout", "--datasets", tmp_path / "none", "--list")
        assert done.status == 1
        assert f"{tmp_path / 'none'} does not exist" in done.err
