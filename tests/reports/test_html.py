"""Pages of results: whole in one file, nothing from outside, nothing unescaped."""

import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from selfprompt.reports import html
from selfprompt.reports.plot_style import NARROW

EVIL = '<script>alert("x")</script> & <img src=http://example.org/x.png>'
IGNORED = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects elements, their attributes and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in IGNORED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words += data

    def attributes(self, name: str) -> list[str]:
        return [found[name] or "" for _, found in self.elements if name in found]


@pytest.fixture
def page(tmp_path):
    """Write a page of these blocks and read it."""

    def write(*blocks, title="A title", note="", **head):
        html.write_page(tmp_path / "page.html", title, [("A section", blocks)], note, **head)
        return Reader((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


def drawn() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1], [1, 0])
    return figure


def every_block(words: str) -> list[html.Block]:
    return [
        html.text(words),
        html.table([words, "b"], [[words, "1.0"]], words),
        html.bars([html.Bar(words, 50.0, note=words)], words),
        html.headline(words, words, words, "good"),
        html.note([words]),
        html.matrix([words, "b"], [[1, 2], [0, 3]], words),
        html.figure(drawn(), words, words),
        html.pictures([html.Picture(Image.new("RGB", (8, 8)), words, words)]),
        html.code(words),
    ]


def test_all_text_on_a_page_is_escaped(page):
    read = page(*every_block(EVIL), title=EVIL, note=EVIL)
    assert "script" not in {tag for tag, _ in read.elements}
    # title twice (tab and heading), note, and the places in the blocks that are text; alt texts are attributes
    assert read.words.count(EVIL) == 2 + 1 + 8 + 3 + 3 + 1 + 3
    assert read.attributes("alt") == [EVIL, EVIL]
    assert read.open == []


def test_nothing_is_loaded_from_elsewhere(page, tmp_path):
    read = page(*every_block("words"))
    assert not {tag for tag, _ in read.elements} & {"script", "link", "iframe", "object", "embed", "base"}
    assert len(read.attributes("src")) == 2
    assert all(source.startswith("data:image/") for source in read.attributes("src"))
    assert all(target.startswith("#") for target in read.attributes("href"))
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "page.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(found["content"] for _, found in read.elements if found.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_a_figure_is_a_drawing_that_names_no_other_file(page):
    (source,) = page(html.figure(drawn(), "", "a line")).attributes("src")
    drawing = base64.b64decode(source.partition("base64,")[2]).decode()
    assert drawing.lstrip().startswith("<?xml")
    assert not [target for target in re.findall(r'href="([^"]*)"', drawing) if not target.startswith("#")]


def test_numbers_stand_to_the_right(page):
    rows = [["a", "71.2 %", "60.1 - 70.3 %", "-"], ["b", "+3", "82.41 ± 0.30 (-1.2 to 84) [4 of 7]", "see below"]]
    read = page(html.table(["name", "one", "two", "three"], rows))
    assert [found.get("class") for tag, found in read.elements if tag == "td"] == 2 * [None, "number", "number", None]


def test_whatever_may_be_wider_than_a_phone_is_in_a_box_that_says_what_it_is(page):
    wide = Figure(figsize=(12, 3))
    read = page(html.table(list("abcde"), [list("vwxyz")], "five columns"), html.figure(wide, "a wide chart", "alt"))
    boxes = [found for _, found in read.elements if found.get("class") == "scroll"]
    assert [(box["role"], box["aria-label"], box["tabindex"]) for box in boxes] == [
        ("region", "five columns", "0"),
        ("region", "a wide chart", "0"),
    ]
    assert "Scroll sideways" in read.words


def test_a_chart_that_fits_a_phone_needs_no_box(page):
    read = page(html.figure(Figure(figsize=(NARROW, 3)), "", "alt"))
    assert "region" not in read.attributes("role")
    (style,) = read.attributes("style")
    assert "min-width" not in style
    assert "Scroll" not in read.words


def test_a_table_with_many_columns_becomes_cards_on_a_phone(page):
    read = page(html.table(["name", "one", "two", "three"], [["a", "1", "2", "3"]]), html.table(["b"], [["c"]]))
    assert [found.get("class") for tag, found in read.elements if tag == "table"] == ["stack", None]
    assert read.attributes("data-label") == ["name", "one", "two", "three", "b"]


def test_best_cells_and_rows_are_marked_and_intervals_are_small(page):
    rows = [["a", "82.41 ± 0.30 (81.66 to 83.16)"], ["b", "9.0 [4 of 7]"]]
    read = page(html.table(["name", "value"], rows, best={(0, 1)}, marked=[0]))
    assert [found.get("class") for tag, found in read.elements if tag == "td"] == [None, "number best", None, "number"]
    assert read.attributes("class").count("marked") == 1
    assert [tag for tag, _ in read.elements].count("small") == 2
    assert "82.41 ± 0.30 (81.66 to 83.16)" in read.words


def test_a_matrix_is_coloured_by_the_share_of_the_row(page):
    read = page(html.matrix(["cat", "dog"], [[3, 1], [0, 0]], "who is who"))
    assert read.attributes("style") == ["--share: 0.75", "--share: 0.25"]
    assert read.attributes("aria-label") == ["who is who"]


def test_bars_have_their_length_interval_and_chance_level(page):
    bars = [html.Bar("tuned", 80.0, 70.0, 88.5, strong=True), html.Bar("zero-shot", 50.0)]
    read = page(html.bars(bars, chance=25.0))
    assert read.attributes("style") == [
        "width: 80.00%",
        "left: 70.00%; width: 18.50%",
        "left: 25.00%",
        "width: 50.00%",
        "left: 25.00%",
    ]
    assert "80.0 % 70.0 - 88.5 %" in read.words


def test_the_head_has_what_comes_first_and_the_facts(page):
    read = page(lead=[html.headline("91.0 %", "of 100 images", "Good.", "good")], facts=[("command", "train <x>")])
    assert read.words.index("91.0 %") < read.words.index("train <x>") < read.words.index("A section")


def test_figures_side_by_side_are_all_there(page):
    read = page(html.side_by_side([html.figure(drawn(), EVIL, "one"), html.figure(drawn(), "b", "two")]))
    assert read.attributes("alt") == ["one", "two"]
    assert EVIL in read.words
    assert "columns" in read.attributes("class")


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 cells, one for each column, got \\['only'\\]"):
        html.table(["a", "b"], [["only"]])


def test_wrong_pictures_are_marked_and_notes_are_shown(page):
    picture = Image.new("L", (4, 4))
    read = page(
        html.pictures(
            [
                html.Picture(picture, "cat"),
                html.Picture(picture, "dog", wrong=True),
                html.Picture(picture, "cow", "a hint"),
            ]
        )
    )
    assert read.attributes("class").count("wrong") == 1
    assert "a hint" in read.words
    assert "✗ dog" in read.words


def test_photographs_are_jpeg_and_drawings_png(page):
    noise, drawing = Image.effect_noise((200, 200), 50), Image.new("RGB", (200, 200), "red")
    sources = page(html.pictures([html.Picture(noise, "a"), html.Picture(drawing, "b")])).attributes("src")
    assert [source.partition(";")[0] for source in sources] == ["data:image/jpeg", "data:image/png"]


def test_large_pictures_become_small(page):
    (source,) = page(html.pictures([html.Picture(Image.effect_noise((900, 600), 50), "noise")])).attributes("src")
    assert len(source) < 400_000


def test_a_link_is_relative_and_quoted(page):
    assert page(html.link('a b/"x".html', EVIL)).attributes("href") == ["a%20b/%22x%22.html"]


def test_backticks_make_code(page):
    read = page(html.text("run `a < b` now"))
    assert "run a < b now" in read.words
    assert "code" in {tag for tag, _ in read.elements}


def test_a_page_that_cannot_be_written_leaves_the_old_one(page, tmp_path, monkeypatch):
    page(html.text("the old one"))
    before = (tmp_path / "page.html").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RuntimeError, match="could not be written"):
        page(html.text("the new one"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_bytes() == before
