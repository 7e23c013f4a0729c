"""From result files to tables: every number here was worked out by hand."""

import csv
import html
import io
import json
import re
import shlex
from typing import get_args, get_type_hints

import pytest

from selfprompt.benchmarks.protocols import PROTOCOLS
from selfprompt.benchmarks.results import Difference, Spread, _Record, harmonic_spread, read_results, spread
from selfprompt.cli.console import Console
from selfprompt.cli.report import print_table
from selfprompt.data.suites import SUITES
from selfprompt.reports.bench_page import commands, ranking
from selfprompt.reports.bench_tables import PROTOCOL_TABLES, all_tables, evaluation_records
from selfprompt.reports.tables import Gain, Table, format_value, lay_out, to_csv, to_latex, to_markdown


def metrics(correct, total=100):
    """One evaluation with so many right answers, of two classes."""
    return {
        "accuracy": 100 * correct / total,
        "correct": correct,
        "total": total,
        "interval": [0.0, 100.0],
        "macro": 100 * correct / total,
        "per_class": {"cat": 100 * correct / total},
        "calibration_error": 0.1,
        "confusion": [[correct, total - correct], [0, 0]],
        "reliability": [[0.55, correct / total, total]],
    }


def write(runs, protocol, dataset, row, seed, evaluations, **changed):
    """A result file as ``run_cell`` writes it."""
    untrained = row.startswith("zero-shot")
    record = {
        "id": f"{protocol}{dataset}{row}{seed}{changed}",
        "protocol": protocol,
        "suite": "embedded",
        "dataset": dataset,
        "row": row,
        "seed": seed,
        "shots": 0 if untrained else 16,
        "preprocessing": "",
        "overrides": {},
        "evaluations": {
            name: value if isinstance(value, dict) else value and metrics(value) for name, value in evaluations.items()
        },
        "images": {"train": 0 if untrained else 32},
        "classes": ["cat", "dog"],
        "trainable_parameters": 0 if untrained else 2048,
        "train_seconds": 12.0,
        "seconds": 15.0,
        "peak_memory": {"process": 1000},
        "eval_batch_size": 100,
        "sample_wise": True,
        "backbone": {"name": "embedded/clip", "fingerprint": "f", "note": ""},
        "finished": f"2026-01-0{seed}T00:00:00+00:00",
    } | changed
    folder = runs / protocol / dataset / f"{row}-{record['shots']}-{seed}-{record['finished'][:10]}-{len(changed)}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def base_new(tmp_path):
    """CoOp on two data sets with three seeds, zero-shot with one, a head without new classes."""
    for seed, base in ((1, 80), (2, 82), (3, 87)):
        write(tmp_path, "base-to-new", "animals", "coop", seed, {"base": base, "new": 60})
        write(tmp_path, "base-to-new", "food", "coop", seed, {"base": 40, "new": 20})
        write(tmp_path, "base-to-new", "animals", "linear", seed, {"base": 70, "new": None})
    for name in ("animals", "food"):
        write(tmp_path, "base-to-new", name, "zero-shot", 1, {"base": 50, "new": 50})
    return tmp_path


def values(tables, title, row):
    """A row of the table whose title ends so, by column."""
    (table,) = [table for table in tables if table.title.endswith(title)]
    (line,) = [line for line in table.rows if line[0] == row]
    return dict(zip(table.columns, line, strict=True))


class TestSpread:
    def test_sample_deviation_and_interval_of_student(self):
        three = Spread((80.0, 82.0, 87.0))
        assert three.mean == pytest.approx(83)
        assert three.deviation == pytest.approx(3.605551)  # sqrt((9 + 1 + 16) / 2)
        # t of two degrees of freedom at 97.5 % is 4.302653; 4.302653 * 3.605551 / sqrt(3) = 8.956686
        assert three.interval == pytest.approx((74.043314, 91.956686))

    def test_an_interval_of_percentages_ends_at_0_and_100(self):
        assert Spread((90.0, 95.0, 100.0)).interval == (pytest.approx(82.58, abs=0.01), 100)
        assert Difference((90.0, 95.0, 100.0)).interval[1] == 100
        assert Difference((-5.0, 0.0, 5.0)).interval == (
            pytest.approx(-12.42, abs=0.01),
            pytest.approx(12.42, abs=0.01),
        )
        assert Spread((0.0, 5.0)).interval is None

    def test_two_seeds_have_no_interval_and_one_no_deviation(self):
        assert (Spread((80.0, 82.0)).deviation, Spread((80.0, 82.0)).interval) == (pytest.approx(1.414214), None)
        assert Spread((80.0,)).deviation is None
        assert spread({}) is None

    def test_h_is_that_of_the_means(self):
        h = harmonic_spread({1: 80.0, 2: 90.0}, {1: 60.0, 2: 70.0})
        assert h.mean == pytest.approx(2 * 85 * 65 / 150)
        assert h.values == (pytest.approx(2 * 80 * 60 / 140), pytest.approx(2 * 90 * 70 / 160))
        assert harmonic_spread({1: 80.0}, {}) is None


class TestBaseToNew:
    def test_one_data_set(self, base_new):
        row = values(all_tables(read_results(base_new).results), ": animals", "coop")
        assert row["base"].mean == pytest.approx(83)
        assert row["base"].interval == pytest.approx((74.043314, 91.956686))
        assert row["new"].mean == 60
        assert row["H"].mean == pytest.approx(69.650350)  # 2 * 83 * 60 / 143

    def test_h_both_ways(self, base_new):
        row = values(all_tables(read_results(base_new).results), "average over 2 data sets", "coop")
        assert row["base"].mean == pytest.approx(61.5)
        assert row["base"].values == (60, 61, 63.5)
        assert row["new"].mean == 40
        assert row["H of averages"].mean == pytest.approx(48.472906)  # 2 * 61.5 * 40 / 101.5
        assert row["average of H"].mean == pytest.approx(48.158508)  # (69.650350 + 26.666667) / 2
        assert row["trainable parameters"] == 2048

    def test_what_is_missing_is_not_averaged_over(self, base_new):
        row = values(all_tables(read_results(base_new).results), "average over 2 data sets", "linear")
        assert format_value(row["base"]) == "70.00 ± 0.00 (70.00 to 70.00) [1 of 2 data sets]"
        assert row["new"] is row["H of averages"] is row["average of H"] is None

    def test_h_of_all_data_sets_side_by_side(self, base_new):
        row = values(all_tables(read_results(base_new).results), "embedded: H", "coop")
        assert (row["animals"].mean, row["food"].mean) == (pytest.approx(69.650350), pytest.approx(26.666667))
        (table,) = [table for table in all_tables(read_results(base_new).results) if table.title.endswith(": H")]
        assert [row[0] for row in table.rows] == ["zero-shot", "coop"], "the linear probe has no new classes"

    def test_gain(self, base_new):
        row = values(all_tables(read_results(base_new).results), "gain of H over zero-shot", "coop")
        assert row["animals"].value == pytest.approx(19.650350)
        assert row["food"].value == pytest.approx(-23.333333)
        assert row["mean"].value == pytest.approx(-1.841492)
        row = values(all_tables(read_results(base_new).results, baseline="coop"), "over coop", "zero-shot")
        assert format_value(row["food"]) == "+23.33"

    def test_published_numbers_are_marked_and_stay_with_their_suite(self, base_new, tmp_path_factory):
        assert not any(table.published for table in all_tables(read_results(base_new).results, with_published=True))
        runs = tmp_path_factory.mktemp("coop")
        write(runs, "base-to-new", "dtd", "coop", 1, {"base": 80, "new": 60}, suite="coop")
        tables = all_tables(read_results(runs).results, with_published=True)
        row = values(tables, "average over 1 data set", "KgCoOp (published)")
        assert (row["base"], row["new"], row["H of averages"], row["average of H"]) == (80.73, 73.60, 77.00, None)
        assert "not ours" in tables[0].notes[-1]
        assert not any(table.published for table in all_tables(read_results(runs).results))


class TestOtherProtocols:
    def test_few_shot(self, tmp_path):
        for name, gain in (("animals", 0), ("food", 10)):
            for seed in (1, 2):
                for shots, value in ((1, 50), (16, 70)):
                    write(tmp_path, "few-shot", name, "coop", seed, {"test": value + gain + seed}, shots=shots)
            write(tmp_path, "few-shot", name, "zero-shot", 1, {"test": 40 + gain})
        tables = all_tables(read_results(tmp_path).results)
        assert tables[0].columns == ("method", "0", "1", "16")
        row = values(tables, "average over 2 data sets", "coop")
        assert (row["0"], row["1"].values, row["16"].values) == (None, (56, 57), (76, 77))
        assert values(tables, "average over 2 data sets", "zero-shot")["0"].mean == 45
        assert values(tables, "shots, food", "coop")["16"].mean == pytest.approx(81.5)

    def test_one_number_of_shots_has_the_data_sets_side_by_side(self, tmp_path):
        for name, value in (("animals", 50), ("food", 60)):
            write(tmp_path, "few-shot", name, "coop", 1, {"test": value}, shots=4)
            write(tmp_path, "few-shot", name, "zero-shot", 1, {"test": 40})
        tables = all_tables(read_results(tmp_path).results)
        row = values(tables, "accuracy with 4 shots", "coop")
        assert (row["animals"].mean, row["food"].mean, row["mean"].mean) == (50, 60, 55)
        assert values(tables, "accuracy with 4 shots", "zero-shot")["mean"].mean == 40
        assert not any("by shots, food" in table.title for table in tables)

    def test_the_source_is_not_part_of_the_average_of_shifted(self, tmp_path):
        for seed in (1, 2):
            accuracies = {"source": 90, "sketch": 40 + seed, "dark": 60}
            write(tmp_path, "domain-generalization", "animals", "coop", seed, accuracies)
            write(tmp_path, "domain-generalization", "food", "coop", seed, {"source": 70, "dark": 20})
        tables = all_tables(read_results(tmp_path).results)
        row = values(tables, "from animals", "coop")
        assert (row["source"].mean, row["average of shifted"].values) == (90, (50.5, 51))
        row = values(tables, "average over 2 data sets", "coop")
        assert (row["source"].mean, row["average of shifted"].values) == (80, (35.25, 35.5))

    def test_groups_of_vtab(self, tmp_path):
        from selfprompt.data.suites.vtab import GROUPS

        for group, accuracy in zip(GROUPS, (80, 90, 50), strict=True):
            for name in GROUPS[group]:
                write(tmp_path, "vtab", name, "spt-deep", 1, {"test": accuracy}, suite="vtab", shots=0)
        row = values(all_tables(read_results(tmp_path).results), ": groups", "spt-deep")
        assert [row[group].mean for group in GROUPS] == [80, 90, 50]
        assert row["mean of groups"].mean == pytest.approx(73.333333)
        assert row["mean of 19 tasks"].mean == pytest.approx(69.473684)  # (7 * 80 + 4 * 90 + 8 * 50) / 19


class TestReading:
    def test_labels_of_rows_with_one_name_show_what_was_changed(self, tmp_path):
        write(tmp_path, "few-shot", "animals", "coop", 1, {"test": 50})
        write(tmp_path, "few-shot", "animals", "coop", 1, {"test": 60}, overrides={"epochs": 5})
        tables = all_tables(read_results(tmp_path).results)
        assert [row[0] for row in tables[0].rows] == ["coop (epochs 5)", "coop (epochs as in the recipe)"]
        assert [row[1].mean for row in tables[0].rows] == [60, 50]

    def test_of_two_recipes_of_one_name_the_last_run_counts(self, tmp_path):
        write(tmp_path, "few-shot", "animals", "coop", 1, {"test": 60}, finished="2026-02-02T00:00:00+00:00", id="b")
        write(tmp_path, "few-shot", "animals", "coop", 1, {"test": 50}, finished="2026-02-01T00:00:00+00:00", id="a")
        grid_results = read_results(tmp_path)
        assert [result.id for result in grid_results.results] == ["b"]
        assert "1 results of earlier recipes" in grid_results.notes[0]

    def test_notes_report_toy_backbones_changed_weights_and_failed_cells(self, tmp_path):
        toy = {"name": "embedded/clip", "fingerprint": "g", "note": "a toy"}
        write(tmp_path, "few-shot", "animals", "coop", 1, {"test": 50})
        write(tmp_path, "few-shot", "animals", "sep", 1, {"test": 50}, backbone=toy, sample_wise=False)
        failed = write(tmp_path, "few-shot", "animals", "sep", 2, {"test": 50})
        (failed / "result.json").unlink()
        (failed / "error.txt").write_text("Traceback\nValueError: no\n")
        grid_results = read_results(tmp_path)
        assert grid_results.notes[0] == "a toy"
        assert "2 different weights" in grid_results.notes[1]
        assert "other images of the batch: sep (batches of 100)" in grid_results.notes[2]
        assert list(grid_results.failed.values()) == ["ValueError: no"]

    def test_a_folder_without_results(self, tmp_path):
        with pytest.raises(ValueError, match="holds no results of selfprompt bench"):
            read_results(tmp_path)
        with pytest.raises(ValueError, match="is not a folder"):
            read_results(tmp_path / "nowhere")


def test_notes_explain_missing_numbers_and_omitted_parts(tmp_path):
    write(tmp_path, "domain-generalization", "animals", "linear", 1, {"source": 90, "dark": 40}, restricted=["dark"])
    write(tmp_path, "domain-generalization", "food", "linear", 1, {"source": 90, "dark": None})
    write(tmp_path, "domain-generalization", "food", "coop", 1, {"source": 90, "dark": 30})
    first, *others = all_tables(read_results(tmp_path).results)
    assert first.notes == (
        "No number if a method cannot distinguish the classes: linear.",
        "On dark, predictions were restricted to the classes of the test set: linear.",
    )
    assert not any(table.notes for table in others)


def test_a_wide_table_has_its_columns_as_rows():
    columns = ("method", *(f"set {number}" for number in range(8)))
    wide = Table("t", columns, (("a", *map(float, range(8))), ("b", *(Spread((9.0,)) for _ in range(8)))))
    layout = lay_out(wide)
    assert layout.columns == ("", "a", "b")
    assert layout.rows[3] == ["set 3", "3.00", "9.00"]
    one = Table("t", columns, (("a", *[Spread((1.0,))] * 8), ("b", Spread((0.0,)), *[Spread((2.0,))] * 7)))
    assert lay_out(one).best == {(0, 1)} | {(row, 2) for row in range(1, 8)}
    assert lay_out(Table("t", columns[:8], wide.rows[:1])).columns == columns[:8], "it fits a page"
    assert lay_out(Table("t", columns, wide.rows * 5)).columns == columns, "it is longer than wide"


def test_labels_are_text_and_never_markup_in_a_terminal():
    labels = ["coop[epochs=1]", "coop[epochs=1,lr=1e-3]", "[/x]", "[red]a[/red]", ":cat:"]
    columns = ("method", *(f"[bold]set {number}" for number in range(8)))
    turned = Table("[title]", columns, tuple((label, *map(float, range(8))) for label in labels), ("[note]",))
    short = Table("[title]", columns[:3], tuple((label, 1.0, 2.0) for label in labels), ("[note]",))
    for table in (turned, short):
        output = io.StringIO()
        print_table(table, Console(file=output, width=200, emoji=False))
        assert not [text for text in (*labels, "[bold]set 0", "[title]", "[note]") if text not in output.getvalue()]


class TestForms:
    TABLE = Table(
        "a_b",
        ("method", "x & y"),
        (("one", Spread((80.0, 82.0, 87.0))), ("two", Spread((50.0,))), ("three", Gain(-1.5)), ("a (published)", 99.0)),
        ("5 %.",),
        published=1,
    )

    def test_latex(self):
        text = to_latex([self.TABLE])
        assert "\\textbf{83.00} {\\scriptsize $\\pm$ 3.61} \\\\" in text
        assert "two & 50.00 \\\\" in text
        assert "three & $-$1.50 \\\\\n\\midrule\na (published) & 99.00" in text
        assert "\\caption{a\\_b. 5 \\%.}" in text
        assert "method & x \\& y \\\\" in text

    def test_markdown(self):
        lines = to_markdown([self.TABLE]).splitlines()
        assert lines[0] == "**a_b**"
        assert lines[2:4] == ["| method | x & y |", "| --- | ---: |"]
        assert lines[4] == "| one | **83.00 ± 3.61** |"
        assert lines[-1] == "5 %."
        assert "a \\| b" in to_markdown([Table("t", ("method",), (("a | b",),))])

    def test_markdown_of_labels_that_look_like_markup(self):
        label = "*a* _b_ snake_case `c` [d](e) <f> $g$ coop[epochs=1]"
        line = to_markdown([Table("t", ("method", label), ((label, 1.0),))]).splitlines()[4]
        assert line.startswith(r"| \*a\* \_b\_ snake_case \`c\` [d]\(e) \<f\> \$g\$ coop[epochs=1] |")

    def test_csv(self):
        rows = list(csv.DictReader(to_csv([self.TABLE]).splitlines()))
        assert [row["row"] for row in rows] == ["one", "two", "three", "a (published)"]
        assert float(rows[0]["mean"]) == 83
        assert float(rows[0]["high95"]) == pytest.approx(91.956686)
        assert (rows[0]["seeds"], rows[1]["std"], rows[2]["mean"]) == ("3", "", "-1.5")
        assert [row["published"] for row in rows] == ["False", "False", "False", "True"]


def test_every_form_of_a_report(base_new, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    files = {kind: out / f"tables.{kind}" for kind in ("html", "csv", "json", "markdown", "latex")}
    done = run("report", base_new, *(word for kind, file in files.items() for word in (f"--{kind}", file)))
    assert done.status == 0
    assert "48.47" in done.out
    assert "48.16" in done.out
    report = json.loads(files["json"].read_text())
    assert len(report["cells"]) == len(evaluation_records(read_results(base_new).results)) == 19
    assert report["cells"][0]["correct"] + report["cells"][1]["correct"] > 0
    page = files["html"].read_text()
    assert page.count("data:image/svg+xml") == 1 + 1 + 3 + 2, "scatter, gain, calibration, confusion"
    assert "://" not in page.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    assert "48.47" in page
    assert "\\toprule" in files["latex"].read_text()
    assert "| coop |" in files["markdown"].read_text()
    assert run("report", base_new, "--baseline", "nothing").status == 1


def test_the_page_ranks_the_rows_and_says_how_to_repeat_the_runs(base_new, run):
    out = base_new / "page.html"
    assert run("report", base_new, "--html", out).status == 0
    page = html.unescape(out.read_text())
    first = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[1]
    assert re.findall(r"data-label=\"method\"><span>([\w-]+)", first) == ["zero-shot", "coop", "linear"]
    assert "2026-01-01 to 2026-01-03" in page
    rows = "--datasets animals,food --methods coop,linear,zero-shot --seeds 1,2,3 --shots 16"
    assert f"selfprompt bench base-to-new --suite embedded {rows}" in re.sub("</?span>", "", page)


def test_a_row_that_lacks_a_data_set_ranks_below_complete_ones(base_new):
    results = read_results(base_new).results
    assert ranking(results) == ["zero-shot", "coop", "linear"]
    assert ranking([result for result in results if result.dataset == "animals"]) == ["coop", "zero-shot", "linear"]


def test_a_command_has_the_changed_values_as_the_command_line_takes_them(tmp_path):
    changed = {"backbone": "my model", "ema_decay": 0.9, "compile": True}
    write(tmp_path, "few-shot", "food", "sep[options.layers=[1,2]]", 1, {"test": 50}, overrides=changed)
    (command,) = commands(read_results(tmp_path).results)
    assert shlex.split(command)[-6:] == ["--backbone", "my model", "--compile", "true", "--ema-decay", "0.9"]
    assert "'sep[options.layers=[1,2]]'" in command


def test_a_record_names_every_protocol_and_suite():
    kinds = get_type_hints(_Record)
    assert set(get_args(kinds["protocol"])) == set(PROTOCOLS) == set(PROTOCOL_TABLES)
    assert set(get_args(kinds["suite"])) == {*SUITES, "folder"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "zero"),
        ("suite", "mine"),
        ("seed", "1"),
        ("overrides", []),
        ("backbone", {}),
        ("finished", 3),
        ("evaluations", {"all": {"accuracy": 1}}),
        ("evaluations", []),
        ("evaluations", {}),
        ("evaluations", {"all": metrics(50) | {"confusion": [[1, 2], [3]]}}),
        ("evaluations", {"all": metrics(50) | {"confusion": [[1, -2], [3, 4]]}}),
        ("evaluations", {"all": metrics(50) | {"reliability": [[0.5, 0.5]]}}),
        ("evaluations", {"all": metrics(50) | {"reliability": [[0.5, 0.5, 0]]}}),
        ("images", {}),
        ("sample_wise", None),
    ],
)
def test_a_damaged_result_is_named(name, value, tmp_path):
    folder = write(tmp_path, "few-shot", "animals", "coop", 1, {"all": 50})
    record = json.loads((folder / "result.json").read_text()) | {name: value}
    (folder / "result.json").write_text(json.dumps(record))
    expected = rf"^{re.escape(str(folder))}/result.json is damaged: .*Delete it; selfprompt bench runs that cell again"
    with pytest.raises(ValueError, match=expected):
        read_results(tmp_path)
