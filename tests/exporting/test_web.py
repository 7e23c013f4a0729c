"""The page of an export classifies in the browser, without a server, as the classifier does."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

import selfprompt
import selfprompt.runtime
from selfprompt.data.loading.image_views import view_of
from selfprompt.exporting.web import CHECKSUM, PACKAGE, PARTS, VERSION, cache_folder, find_runtime
from selfprompt.training.reporter import LogReporter
from tests.browser import chromium
from tests.exporting.test_runtime import Preprocessing

SIZES = ((20, 20), (31, 57), (57, 31), (200, 11), (3, 3), (1, 90), (110, 330), (21, 20))
KINDS = [("shortest", None), ("squash", None), ("pad", None), ("shortest", 29), ("squash", 29)]
VIEWS = """
import { view } from "./view.js";
import { readFileSync, writeFileSync } from "node:fs";
const views = JSON.parse(readFileSync("cases.json")).map(({ data, width, height, preprocess }) =>
  Array.from(view({ data: Uint8Array.from(data), width, height }, preprocess, COLUMNS_FIRST)));
writeFileSync("views.json", JSON.stringify(views));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browser_resizes_as_pillow_does(tmp_path):
    random, cases, expected = np.random.default_rng(0), [], []
    for mode, resize in KINDS:
        for interpolation in ("bicubic", "bilinear", "nearest"):
            preprocess = Preprocessing(mode=mode, resize=resize, interpolation=interpolation)
            for width, height in SIZES:
                pixels = random.integers(0, 256, (height, width, 3), np.uint8)
                cases.append({"data": pixels.ravel().tolist(), "width": width, "height": height})
                cases[-1]["preprocess"] = asdict(preprocess)
                expected.append(np.asarray(view_of(preprocess)(Image.fromarray(pixels))).ravel().tolist())
    for name in ("view.js", "resize.js"):
        (tmp_path / name).write_bytes((files("selfprompt.exporting") / "browser" / name).read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    columns_first = "true" if int(Image.__version__.split(".")[0]) >= 13 else "false"
    (tmp_path / "run.js").write_text(VIEWS.replace("COLUMNS_FIRST", columns_first))
    subprocess.run(["node", "run.js"], cwd=tmp_path, check=True, timeout=60)
    found = json.loads((tmp_path / "views.json").read_text())
    wrong = [one["preprocess"] for one, view, pixels in zip(cases, found, expected, strict=True) if view != pixels]
    assert not wrong


@pytest.fixture(scope="module")
def site(exported, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The page of the classifier on a plain server of files: its address and its folder."""
    if not (cache_folder() / f"{PACKAGE}-{VERSION}.tgz").exists():
        pytest.skip(f"{PACKAGE} has not been downloaded here; `selfprompt export --to web` does it")
    from selfprompt.exporting.export import export
    from selfprompt.exporting.web import Page

    folder = tmp_path_factory.mktemp("web") / "page"
    classifier = selfprompt.load(exported.classifier)
    export(classifier, folder, to="web", precisions=("fp32",), page=Page(title="<b>Dogs</b>", unknown=0.1))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_classifies_in_the_browser(site, width, tmp_path, photos):
    address, folder = site
    paths = [photos / "blue" / "0.png", photos / "green apple" / "1.png", tmp_path / "odd.png", tmp_path / "tall.png"]
    paths.append(tmp_path / "turned.jpg")
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 256, (90, 120, 4), np.uint8)).save(paths[2])
    Image.fromarray(random.integers(0, 256, (300, 50, 3), np.uint8)).save(paths[3])
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    halves = Image.new("RGB", (96, 64), (20, 60, 220))
    halves.paste((60, 220, 60), (0, 0, 30, 64))
    halves.save(paths[4], exif=exif, quality=95)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    runtime = selfprompt.runtime.load(folder)
    expected = runtime.predict(paths, unknown=0.1, top=4)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints: list[str] = []
        requests: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.set_input_files("#files", [*paths, tmp_path / "broken.png"])
        page.get_by_text(re.compile("^6 images done")).wait_for(timeout=60_000)
        assert page.inner_text("h1") == "<b>Dogs</b>"
        cards = [card.inner_text() for card in page.query_selector_all("#gallery > li")]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        rows = [
            [cell.text_content() for cell in row.query_selector_all("td")]
            for row in page.query_selector_all("#rows tr")
        ]
    assert not complaints
    assert not [url for url in requests if not url.startswith((address, "blob:", "data:"))]
    assert "not an image that this browser can read" in cards[5]
    for path, one, card in zip(paths, expected, cards, strict=False):
        scores = {label: float(score) for name, _, label, score in rows if name == path.name and score}
        if one.unknown:
            assert "unknown" in card
        else:
            assert list(scores) == list(one.classes)
            allowed = 0.02 if path.suffix == ".jpg" else 1e-3  # decoders of JPEG round differently
            assert list(scores.values()) == pytest.approx([score for _, score in one.top], abs=allowed)
    assert any(not one.unknown for one in expected)


@pytest.mark.slow
def test_new_classes_need_no_new_page(site, exported, tmp_path, run):
    _, folder = site
    copy = shutil.copytree(folder, tmp_path / "copy")
    said = run("export", exported.classifier, "--out", copy, "--classes", "sea,sky", "--classes-only")
    assert said.status == 0, said.err
    assert selfprompt.runtime.load(copy).classes == ("sea", "sky")
    assert json.loads((copy / "page.json").read_text())["least_typicality"] is None, "it has no calibration now"


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it has no ort\.wasm\.min\.mjs"):
        find_runtime(tmp_path, LogReporter())
    dist = tmp_path / "dist"
    dist.mkdir()
    for part in PARTS:
        (dist / part).write_bytes(part.encode())
    found = find_runtime(tmp_path, LogReporter())
    assert found == find_runtime(dist, LogReporter()) == {name: part.encode() for part, name in PARTS.items()}


def test_another_package_in_the_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    archive = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    archive.parent.mkdir()
    archive.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="is not the published file"):
        find_runtime(None, LogReporter())
    assert CHECKSUM.startswith("sha256:")


@pytest.mark.slow
def test_the_command_ends_with_how_to_go_on(exported, tmp_path, run):
    for part in PARTS:
        (tmp_path / part).write_bytes(part.encode())
    folder = tmp_path / "page"
    said = run("export", exported.classifier, "--to", "web", "--out", folder, "--onnxruntime-web", tmp_path)
    assert said.status == 0, said.err
    assert f"python -m http.server --bind 127.0.0.1 --directory {folder}; then open" in said.out
    assert (folder / "index.html").is_file()


@pytest.mark.slow
def test_wrong_usage_is_refused(exported, tmp_path, run):
    command = ("export", exported.classifier, "--to", "web", "--out", tmp_path / "out")
    assert "unknown must lie between 0 and 1" in run(*command, "--unknown", "2").err
    said = run(*command, "--onnxruntime-web", tmp_path)
    assert "is not the package onnxruntime-web" in said.err
    assert not (tmp_path / "out").exists()
