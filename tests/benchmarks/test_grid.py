"""From a command line to cells: rows, ids, folders, and the order in which values of a recipe override each other."""

import pytest

from selfprompt.benchmarks.protocols import build_grid
from selfprompt.benchmarks.rows import parse_rows, row_slug

ROWS = "zero-shot,coop,sep[options.layers=[1,2],epochs=3]"


def cells(protocol="base-to-new", suite="embedded", rows=ROWS, names=("animals", "food"), **changed):
    settings = {"seeds": (1, 2, 3), "shots": (16,), "overrides": {}} | changed
    return build_grid(protocol, suite, parse_rows(rows), names, **settings)


class TestEntries:
    def test_commas_inside_brackets_do_not_part(self):
        first, second = parse_rows("sep[options.layers=[1,2],epochs=3], coop[options.init_text='a, b',lr=1e-3]")
        assert (first.label, first.name) == ("sep[options.layers=[1,2],epochs=3]", "sep")
        assert first.changes == {"options": {"layers": [1, 2]}, "epochs": 3}
        assert second.changes == {"options": {"init_text": "a, b"}, "lr": 0.001}

    def test_nothing_is_an_empty_text(self):
        (entry,) = parse_rows("coop[options.init_text=]")
        assert entry.changes == {"options": {"init_text": ""}}

    def test_a_recipe_file_is_a_row(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: coop\nepochs: 7\n")
        (entry,) = parse_rows(f"{file}[lr=0.5]")
        assert entry.recipe().changed(entry.changes).train.epochs == 7
        assert row_slug(str(file)) == "mine"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "At least one method"),
            ("sep,sep", "once"),
            ("sep[epochs=3", "brackets"),
            ("sep[epochs]", "'epochs' in 'sep\\[epochs\\]' must be key=value"),
            ("sepp", "Did you mean 'sep'"),
            ("sep[epoch=3]", "Did you mean 'epochs'"),
            ("sep[options.layer=3]", "no option 'layer'"),
            ("sep[epochs=many]", "epochs must be a whole number"),
            ("sep[seed=2]", "seed cannot be changed here"),
        ],
    )
    def test_what_is_wrong_is_said(self, text, words):
        with pytest.raises(ValueError, match=words):
            parse_rows(text)


class TestGrid:
    def test_every_row_data_set_and_seed_once(self):
        grid = cells()
        assert len(grid) == 2 * (1 + 3 + 3), "zero-shot sees no training image: once a data set"
        assert len({cell.id for cell in grid}) == len({cell.folder for cell in grid}) == len(grid)
        assert [cell.dataset for cell in grid] == ["animals"] * 7 + ["food"] * 7, "decoded images serve all cells"
        assert {(cell.seed, cell.shots) for cell in grid if cell.row == "coop"} == {(1, 16), (2, 16), (3, 16)}
        assert {(cell.seed, cell.shots) for cell in grid if cell.row == "zero-shot"} == {(1, 0)}
        assert all(cell.recipe.data.classes == "base" for cell in grid)

    def test_shots_are_drawn_from_all_classes(self):
        grid = cells("few-shot", rows="coop", names=("animals",), shots=(1, 2, 4))
        assert [(cell.shots, cell.seed) for cell in grid] == [(k, s) for k in (1, 2, 4) for s in (1, 2, 3)]
        assert {cell.recipe.data.classes for cell in grid} == {"all"}

    def test_the_id_is_what_changes_the_result(self):
        one = cells(rows="coop", names=("animals",), seeds=(1,))[0]
        assert cells(rows="coop", names=("animals",), seeds=(1,))[0].id == one.id
        assert cells(rows="coop", names=("animals",), seeds=(1,), overrides={"workers": 5})[0].id == one.id
        assert cells(rows="coop[workers=1]", names=("animals",), seeds=(1,))[0].id == one.id
        assert cells(rows="coop[views=0,feature_cache=x]", names=("animals",), seeds=(1,))[0].id == one.id
        others = [
            cells(rows="coop", names=("animals",), seeds=(2,)),
            cells(rows="coop", names=("food",), seeds=(1,)),
            cells(rows="coop", names=("animals",), seeds=(1,), shots=(8,)),
            cells(rows="coop", names=("animals",), seeds=(1,), overrides={"epochs": 7}),
            cells(rows="coop", names=("animals",), seeds=(1,), overrides={"views": 2}),
            cells("cross-dataset", rows="coop", names=("animals",), seeds=(1,), targets={"animals": ("food",)}),
            cells("cross-dataset", rows="coop", names=("animals",), seeds=(1,), targets={}),
        ]
        assert len({one.id, *(cell.id for (cell,) in others)}) == 8
        assert str(one.folder).startswith("base-to-new/embedded-animals/coop/seed1-shots16-")

    def test_the_row_wins_over_the_command_line_and_that_over_the_suite(self):
        by_row = {
            cell.row: cell.recipe
            for cell in cells(rows="coop,coop[epochs=9,backbone=mine]", names=("animals",), overrides={"epochs": 5})
        }
        assert (by_row["coop"].train.epochs, by_row["coop"].backbone) == (5, "embedded/clip")
        assert by_row["coop[epochs=9,backbone=mine]"].train.epochs == 9
        assert by_row["coop[epochs=9,backbone=mine]"].backbone == "mine"

    @pytest.mark.parametrize(
        ("shots", "name", "epochs"), [(1, "dtd", 50), (4, "dtd", 100), (16, "dtd", 200), (16, "imagenet", 50)]
    )
    def test_published_lengths(self, shots, name, epochs):
        (cell,) = cells("few-shot", "coop", "coop", (name,), seeds=(1,), shots=(shots,))
        assert cell.recipe.train.epochs == epochs
        assert cell.recipe.backbone == "open_clip/ViT-B-16/openai"

    def test_preprocessing_of_vtab(self):
        (cell,) = cells("vtab", "vtab", "spt-deep", ("dtd",), seeds=(1,), shots=(0,), preprocessing="spt")
        assert (cell.recipe.statistics, cell.recipe.train.augment, cell.preprocessing) == ("imagenet", "none", "spt")

    def test_a_protocol_needs_its_suite(self):
        with pytest.raises(ValueError, match="vtab is defined for the suites vtab, got 'embedded'"):
            cells("vtab")

    def test_values_of_a_recipe_file_override_those_of_the_suite(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: linear\nlr: 0.01\nbackbone: embedded/mae\noptions: {pooling: cls}\n")
        plain, custom = cells("few-shot", rows=f"linear,{file}", names=("animals",), seeds=(1,))
        assert plain.recipe.train.lr != 0.01, "the suite has a rate of its own"
        assert (custom.recipe.train.lr, custom.recipe.backbone) == (0.01, "embedded/mae")
        assert custom.recipe.options["pooling"] == "cls"
        assert custom.recipe.train.epochs == plain.recipe.train.epochs, "what the file leaves open follows the suite"
        assert custom.id != plain.id
        (over,) = cells("few-shot", rows=f"{file}", names=("animals",), seeds=(1,), overrides={"lr": 0.5})
        assert over.recipe.train.lr == 0.5, "the command line wins over the file"
        (row,) = cells("few-shot", rows=f"{file}[lr=0.25]", names=("animals",), seeds=(1,), overrides={"lr": 0.5})
        assert row.recipe.train.lr == 0.25

    def test_values_of_a_recipe_file_override_the_preprocessing_of_the_suite(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: linear\naugment: crop-flip\n")
        (cell,) = cells("vtab", "vtab", str(file), ("dtd",), seeds=(1,), shots=(0,), preprocessing="spt")
        assert (cell.recipe.statistics, cell.recipe.train.augment) == ("imagenet", "crop-flip")

    def test_texts_and_epochs_of_a_recipe_file_are_kept(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: coop\nepochs: 7\n")
        (cell,) = cells("few-shot", "coop", str(file), ("imagenet",), seeds=(1,), shots=(1,))
        assert (cell.recipe.train.epochs, cell.steps) == (7, 0)
        file.write_text("method: sep\noptions: {template: 'a drawing of a {}.'}\n")
        assert cells(rows=str(file), names=("animals",), seeds=(1,))[0].custom_texts

    @pytest.mark.parametrize("line", ["seed: 3", "shots: 4", "classes: new"])
    def test_what_the_grid_fixes_is_refused_in_a_recipe_file(self, tmp_path, line):
        file = tmp_path / "mine.yaml"
        file.write_text(f"method: coop\n{line}\n")
        with pytest.raises(ValueError, match=f"the file sets {line.replace(':', '')}.*remove the line"):
            cells(rows=str(file))

    def test_the_same_run_under_two_names_is_refused(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("method: coop\n")
        with pytest.raises(ValueError, match=r"coop and .*mine\.yaml are the same run under two names"):
            cells(rows=f"coop,{file}", names=("animals",))
        with pytest.raises(ValueError, match="the same run under two names"):
            cells(rows="coop,coop[workers=0]", names=("animals",))
