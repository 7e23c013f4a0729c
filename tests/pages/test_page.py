"""The page that classifies images, in a browser, with a backend of a few lines."""

import csv
import io
import re

import pytest
from PIL import Image

from selfprompt.inference.predictions import Prediction, as_csv, csv_header
from selfprompt.pages import page_files
from selfprompt.utils.csv_text import FORMULA_STARTS
from tests.browser import chromium

HOME = "http://localhost/"  # no server: the test answers the requests
BACKEND = """
export async function describe() {
  return {title: "dogs <b>", classes: ["<img src=x onerror=alert(1)>", "b"], note: "A toy.", parallel: 2};
}
export async function classify(blob, name) {
  if (name.startsWith("bad")) return {error: "not an image <i>"};
  if (name.startsWith("odd")) return {unknown: true};
  if (name.startsWith("lost")) throw new Error("the server is gone");
  return {top: [[`=<b>${name}</b>`, 0.75], ["b", blob.size > 0 ? 0.25 : 0]]};
}
"""
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """The page, in a browser with a camera."""
    yield from opened(browser.new_context(viewport={"width": 390, "height": 800}, permissions=["camera"]))


@pytest.fixture
def phone(browser):
    """The page on a phone."""
    yield from opened(browser.new_context(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True))


def opened(context):
    """The page with a backend; ``page.complaints`` collects what the browser objects to."""
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    files = page_files() | {"": page_files()["classify.html"], "backend.js": BACKEND.encode()}

    def answer(route):
        name = route.request.url.removeprefix(HOME)
        route.fulfill(body=files[name], content_type=TYPES[name.rpartition(".")[2] or "html"])

    page.route("**/*", answer)
    page.goto(HOME)
    page.get_by_text("Ready.").wait_for()
    yield page
    assert page.complaints == []
    context.close()


def picture() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(written, "PNG")
    return written.getvalue()


def wait_for(page, images):
    page.locator("#status", has_text=re.compile(f"^{images} images? done")).wait_for()


def give(page, *names):
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": picture()} for name in names])
    wait_for(page, len(names))


def test_it_shows_what_the_classifier_is(page):
    assert page.title() == "dogs <b>"
    page.get_by_text("2 classes").click()
    assert page.locator("#classes li").all_text_contents() == ["<img src=x onerror=alert(1)>", "b"]
    assert page.get_by_text("A toy.").is_visible()


def test_each_image_gets_its_own_answer_and_names_stay_text(page):
    give(page, "1<script>.png", "2.png", "bad.png", "odd.png", "lost.png")
    cards = page.locator("#gallery > li")
    assert cards.locator("h3").all_text_contents() == ["1<script>.png", "2.png", "bad.png", "odd.png", "lost.png"]
    assert cards.nth(0).locator(".bars li").all_text_contents() == ["=<b>1<script>.png</b>75.0 %", "b25.0 %"]
    assert cards.nth(1).locator("canvas").evaluate("canvas => [canvas.width, canvas.height]") == [40, 20]
    answers = [cards.nth(number).locator(".answer").text_content() for number in (2, 3, 4)]
    assert answers == ["not an image <i>", "unknown: unlike the trained classes", "the server is gone"]
    assert "2 images without a result" in page.locator("#status").text_content()


def test_the_table_downloads_as_the_csv_of_predict(page):
    give(page, '=1,"2.png', "odd.png", "bad.png")
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    text = download.value.path().read_text(encoding="utf-8-sig")
    shown = [
        Prediction('=1,"2.png', top=(('=<b>=1,"2.png</b>', 0.75), ("b", 0.25))),
        Prediction("odd.png", unknown=True),
        Prediction("bad.png", error="x"),
    ]
    assert text == csv_header(errors=False) + as_csv(shown, errors=False, guard=True)
    assert next(csv.DictReader(io.StringIO(text)))["image"] == "'=1,\"2.png"
    assert page.locator("#rows tr").count() == 3


def test_cells_are_guarded_like_those_of_predict(page):
    names = ["plain", *(f"{start}a" for start in FORMULA_STARTS), 'q"', "c,", "猫\nb", ""]
    text = page.evaluate(
        "names => import('./csv.js').then(({csvText}) => csvText(names.map(name => [name, '1', 'b', '0.5'])))", names
    )
    rows = list(csv.reader(io.StringIO(text, newline="")))
    theirs = as_csv([Prediction(name, top=(("b", 0.5),)) for name in names], errors=False, guard=True)
    assert [row[0] for row in rows[1:]] == [row[0] for row in csv.reader(io.StringIO(theirs, newline=""))]


def test_the_camera_takes_a_photo_and_is_switched_off(page):
    page.get_by_text("Take a photo").click()
    page.locator("#shoot:enabled").wait_for()
    page.evaluate("window.stream = document.querySelector('video').srcObject")
    page.get_by_text("Take the photo").click()
    wait_for(page, 1)
    assert page.locator("#gallery h3").text_content() == "photo-1.jpg"
    assert page.evaluate("stream.getTracks().every(track => track.readyState === 'ended')")


def test_a_phone_takes_the_photo_with_its_own_camera(phone):
    with phone.expect_file_chooser() as chooser:
        phone.get_by_text("Take a photo").tap()
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files({"name": "mine.png", "mimeType": "image/png", "buffer": picture()})
    wait_for(phone, 1)
    assert phone.locator("#gallery h3").text_content() == "mine.png"


def test_images_are_dropped_anywhere_on_the_page(page):
    page.evaluate(
        """() => { const data = new DataTransfer(); data.items.add(new File(["x"], "dropped.txt"));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})); }"""
    )
    wait_for(page, 1)
    assert page.locator(".picture").text_content() == "no preview"


def test_clear_starts_anew_from_the_keyboard(page):
    give(page, "1.png", "2.png")
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert page.locator("#gallery > li").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose"
    give(page, "3.png")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    give(page, "a" * 200 + ".png", "2.png")
    page.get_by_text("Table").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page):
    give(page, "1.png")
    unnamed = """[...document.querySelectorAll("button, canvas, [role=region], dialog, section:not(#results)")]
        .filter(one => !(one.textContent.trim() || one.getAttribute("aria-label"))).map(one => one.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.locator("#status").get_attribute("role") == "status"
