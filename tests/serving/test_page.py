"""The page of the server in a browser: the token, answers, refusals."""

import io
import re

import pytest
from PIL import Image

from selfprompt.inference.predictions import Request
from selfprompt.serving.limits import Limits
from tests.browser import chromium
from tests.serving.running import number_picture, running


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.set_default_timeout(30_000)
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text) if "Security Policy" in said.text else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    assert page.complaints == []
    page.close()


def wait_for(page, images):
    page.locator("#status", has_text=re.compile(f"^{images} images? done")).wait_for()


def give(page, *files):
    page.set_input_files("#files", [{"name": n, "mimeType": "image/png", "buffer": data} for n, data in files])
    wait_for(page, len(files))


def noise() -> bytes:
    written = io.BytesIO()
    Image.effect_noise((400, 400), 80).save(written, "PNG")
    return written.getvalue()


def test_it_classifies_and_names_what_it_cannot(page):
    with running(Limits(max_bytes=100_000)) as server:
        page.goto(f"http://localhost:{server.port}")
        page.get_by_text("Ready.").wait_for()
        assert page.title() == "numbers"
        give(page, *((f"{n}.png", number_picture(n)) for n in range(12)), ("text.png", b"x"), ("large.png", noise()))
        cards = page.locator("#gallery > li")
        firsts = [cards.nth(n).locator(".bars .name").first.text_content() for n in range(12)]
        assert firsts == [f"class {n}" for n in range(12)]
        assert "not an image" in cards.nth(12).locator(".answer").text_content()
        assert "larger than" in cards.nth(13).locator(".answer").text_content()


def test_an_unknown_image_is_called_unknown(page):
    with running(calibrated=True, default=Request(unknown=0.05)) as server:
        page.goto(f"http://127.0.0.1:{server.port}")
        give(page, ("a.png", number_picture(1)))
        assert page.locator(".answer").text_content() == "unknown: unlike the trained classes"


def test_the_token_is_asked_for_until_it_is_right_and_kept_in_the_tab(page):
    with running(token="s3cret") as server:
        page.goto(f"http://localhost:{server.port}")
        for given, question in (("wrong", "Token of this server:"), ("s3cret", "This token is wrong.")):
            page.get_by_text(question).wait_for()
            page.locator("input[type=password]").fill(given)
            page.keyboard.press("Enter")
        page.get_by_text("Ready.").wait_for()
        give(page, ("a.png", number_picture(5)))
        page.reload()
        page.get_by_text("Ready.").wait_for()
        assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]


def test_a_server_that_has_gone_is_named(page):
    with running() as server:
        page.goto(f"http://localhost:{server.port}")
        page.get_by_text("Ready.").wait_for()
    give(page, ("a.png", number_picture(5)))
    assert page.locator(".answer").text_content() == "The server does not answer."
