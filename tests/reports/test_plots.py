"""Plots show the numbers that they are given."""

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from selfprompt.reports import analysis_plots, plots
from selfprompt.reports.plots import Estimate
from selfprompt.reports.summary_picture import summary_picture

HISTORY = [{"epoch": n, "loss": 2 / n, "train_accuracy": n / 4} for n in (1, 2, 3)]
MANY = [f"method {n}" for n in range(20)]


def words(figure) -> list[str]:
    """Every word on a figure."""
    figure.draw_without_rendering()
    return [found.get_text() for found in figure.findobj(Text)]


def test_training_curves_show_every_epoch_of_runs_that_have_some():
    figure = plots.training_curves({"SEP": HISTORY, "zero-shot": []})
    losses, accuracies = figure.axes
    assert [list(line.get_ydata()) for line in losses.lines] == [[2, 1, 2 / 3]]
    assert [list(line.get_ydata()) for line in accuracies.lines] == [[25, 50, 75]]
    assert losses.get_ylim()[1] > 2


def test_bars_have_their_height_number_and_interval():
    figure = plots.accuracy_bars(["base", "H"], {"before": [Estimate(50, 40, 65), Estimate(20)]}, chance=[10, 10])
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [50, 20]
    whiskers = [list(segment[:, 1]) for c in axes.collections for segment in c.get_segments()]
    assert whiskers == [[40, 65]]
    assert {"50.0", "20.0", "base", "H", "chance"} <= set(words(figure))


def test_a_series_must_fit_the_groups():
    with pytest.raises(ValueError, match="'before' needs one estimate for each of 2 groups, got 1"):
        plots.accuracy_bars(["base", "new"], {"before": [Estimate(50)]})


def test_an_estimate_reads_results():
    assert Estimate.of({"accuracy": 50.0, "interval": [40.0, 60.0], "total": 9}) == Estimate(50, 40, 60)


def test_the_scatter_lists_points_by_their_harmonic_mean():
    figure = plots.base_new_scatter({"worse": (90, 10), "better": (60, 60)})
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["better  (H 60.0)", "worse  (H 18.0)"]
    assert any(word.startswith("H ") for word in words(figure))


@pytest.mark.parametrize("point", [(0, 0), (100, 100)])
def test_the_scatter_bears_the_ends_of_the_scale(point):
    plots.base_new_scatter({"one": point}).draw_without_rendering()


def test_the_scatter_needs_a_point():
    with pytest.raises(ValueError, match="at least 1 point"):
        plots.base_new_scatter({})


def test_many_series_are_distinguishable():
    figure = plots.base_new_scatter({name: (50 + n, 50) for n, name in enumerate(MANY)})
    points = figure.axes[0].collections[:20]
    looks = {(tuple(point.get_facecolor()[0]), point.get_paths()[0].vertices.tobytes()) for point in points}
    assert len(looks) == 20


def test_shots_curves_show_means_and_spread():
    figure = plots.shots_curves({"SEP": {4: [60, 70], 1: [50]}}, reference={"zero-shot": 40})
    curve, level = figure.axes[0].lines
    assert list(curve.get_xdata()) == [1, 4]
    assert list(curve.get_ydata()) == [50, 65]
    assert set(level.get_ydata()) == {40}
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(65 + 50**0.5)  # the sample standard deviation of 60 and 70


def test_gains_are_ranked():
    figure = plots.gain_bars({"pets": -2.0, "cars": 5.0}, method="SEP", baseline="CoOp")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pets", "cars"]
    assert {"-2.0", "+5.0"} <= set(words(figure))


def test_confusion_is_in_percent_of_the_true_class():
    figure = plots.confusion_matrix([[3, 1], [0, 0]], ["cat", "dog"])
    assert figure.axes[0].images[0].get_array().tolist() == [[75, 25], [0, 0]]
    assert {"cat", "dog", "75", "25"} <= set(words(figure))


def test_reliability_leaves_empty_bins_out():
    figure = plots.reliability_diagram([(0.2, 0.1, 5), (0.5, 0.0, 0), (0.9, 0.8, 7)], error=0.07)
    assert list(figure.axes[0].lines[1].get_ydata()) == [10, 80]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [5, 7]
    assert "expected calibration error 7.0 %" in words(figure)


def test_the_summary_is_a_picture(tmp_path):
    shown = [(Image.new("RGB", (8, 8)), "cat", said) for said in ("cat", "dog", "cat")]
    summary_picture(tmp_path / "a.png", {"SEP": Estimate(50, 40, 60)}, {"SEP": HISTORY}, shown, "A caption")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800


NAMES = ["a $x$ name", "$", "cost $5", "50 $_{a$", "_hidden", "back\\slash^2", "猫, [bold]x[/bold]", "[/x]", "<b>&"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_shown_literally(tmp_path):
    estimates = [Estimate(50, 40, 60)] * len(NAMES)
    square = [[int(row == column) for column in range(len(NAMES))] for row in range(len(NAMES))]
    figures = {
        "curves": plots.training_curves(dict.fromkeys(NAMES, HISTORY)),
        "bars": plots.accuracy_bars(NAMES, dict.fromkeys(NAMES, estimates)),
        "scatter": plots.base_new_scatter({name: (50.0 + n, 40.0) for n, name in enumerate(NAMES)}),
        "shots": plots.shots_curves({name: {1: [50.0], 4: [60.0]} for name in NAMES}, reference={"$a$": 40.0}),
        "gains": plots.gain_bars(dict.fromkeys(NAMES, 1.0), method=NAMES[0], baseline=NAMES[3]),
        "confusion": plots.confusion_matrix(square, NAMES),
    }
    for kind, figure in figures.items():
        shown = " ".join(words(figure)).replace("\\$", "$")  # escaped for matplotlib, which does not show it
        assert not [name for name in NAMES if name not in shown], kind
        figure.savefig(tmp_path / "figure.svg")
    tile = Image.new("RGB", (8, 8))
    summary_picture(
        tmp_path / "summary.png", {name: Estimate(50) for name in NAMES}, {NAMES[0]: HISTORY},
        [(tile, name, NAMES[0]) for name in NAMES], NAMES[3],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_pictures_are_shown_literally():
    pixels = np.zeros((len(NAMES), 8, 8, 3), dtype=np.uint8)
    weights = np.full((1, len(NAMES), 4), 0.25)
    drawn = analysis_plots.attention_pictures(pixels, NAMES, weights, (2, 2))
    assert set(NAMES) <= {word.removeprefix(" ").replace("\\$", "$") for word in words(drawn)} | {NAMES[6]}
    assert analysis_plots.to_png(drawn)


def test_the_learning_curve_shows_points_and_intervals():
    figure = plots.learning_curve([(1, 40.0, (30.0, 50.0)), (2, 60.0, (52.0, 68.0)), (3.4, 70.0, (63.0, 77.0))])
    axes = figure.axes[0]
    line = axes.get_lines()[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3.4], [40, 60, 70])
    ends = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [[30, 50], [52, 68], [63, 77]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3.4"]
    with pytest.raises(ValueError, match="needs at least 1 point, got none"):
        plots.learning_curve([])
