"""Chromium without a window, for tests of pages; they are skipped where it is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser with a camera that shows a test picture; its pages may use this machine only."""
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        sandbox = ("--no-sandbox",)  # which root cannot use; the tests open their own pages only
        browser = playwright.chromium.launch(executable_path=program, args=[*sandbox, *CAMERA])
        yield browser
        browser.close()
