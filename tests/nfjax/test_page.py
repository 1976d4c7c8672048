"""The page that classifies in a browser: its pixels against Pillow's, in node; and itself, in Chromium."""

import base64
import functools
import http.server
import itertools
import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import nfjax
from nfjax.__main__ import main
from nfjax.onnx import page
from nfjax.transforms import EvalTransform

ROOT = Path(__file__).parents[2]
PREPARE = """
import { readFileSync } from "node:fs";
import { prepare } from "%s";
const found = JSON.parse(readFileSync(0)).map(({ rgba, height, width, config }) =>
  Buffer.from(prepare(Buffer.from(rgba, "base64"), height, width, config)).toString("base64"));
console.log(JSON.stringify(found));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
def test_pixels_are_pillows():
    # Of one scale in both directions, where every Pillow goes across first.
    sizes = [((50, 61), (64, 64)), ((150, 100), (32, 32)), ((33, 128), (40, 40)), ((96, 96), (48, 32))]
    options = [(mode, filter, pct) for mode in ("center", "border") for filter in page.FILTERS for pct in (0.875, 1.2)]
    rng = np.random.default_rng(0)
    jobs, wanted = [], []
    for (shape, size), (mode, filter, pct) in itertools.product(sizes, options):
        if filter == "box" and min(size) > min(shape):
            continue  # where the nearest pixel is a tie, of the last bit of a quotient
        rgba = rng.integers(0, 256, (*shape, 4), np.uint8)
        transform = EvalTransform(size, pct, mode, filter, (0.485, 0.456, 0.406), (1, 1, 1))
        config = page.settings(transform)
        wanted.append(transform.pixels(Image.fromarray(rgba[..., :3])))
        pixels = base64.b64encode(rgba.tobytes()).decode()
        jobs.append({"rgba": pixels, "height": shape[0], "width": shape[1], "config": config})
    command = ["node", "--input-type=module", "-e", PREPARE % (ROOT / "nfjax/data/prepare.mjs").as_uri()]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, pixels in zip(json.loads(done.stdout), wanted, strict=True):
        assert base64.b64decode(found) == pixels.tobytes()


def test_mistakes(tmp_path):
    model = nfjax.load("test_nfnet", weights=None, num_classes=0)
    with pytest.raises(ValueError, match="has no classifier, and so no classes"):
        page.write_page(model, tmp_path)
    model = nfjax.load("test_nfnet", weights=None)
    with pytest.raises(FileNotFoundError, match=r"has no ort\.wasm\.bundle\.min\.mjs and "):
        page.write_page(model, tmp_path / "site", runtime=tmp_path)
    assert not (tmp_path / "site").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; expected a folder for the page"):
        page.write_page(model, tmp_path / "file")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a page, and the model in it."""
    folder = tmp_path_factory.mktemp("page")
    model = nfjax.load("test_nfnet", weights=None, seed=3)
    kernel = model.head.fc.kernel
    kernel.set_value(30 * kernel.get_value())  # so that classes are told apart
    nfjax.save(model, folder / "model")
    assert main(["export", str(folder / "model"), "--page", str(folder / "site")]) == 0
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder / "model"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("npm")), reason="chromium or npm is not here")
def test_in_a_browser(site, tmp_path):
    """The classes of a dropped picture are those of `nfjax.classify`; nothing is asked of anybody else."""
    playwright = pytest.importorskip("playwright.sync_api")
    address, model = site
    pictures = []
    for number, pixels in enumerate(load_sample_images().images):
        for suffix in ("png", "jpg"):
            Image.fromarray(pixels).save(tmp_path / f"{number}.{suffix}")
            pictures.append(tmp_path / f"{number}.{suffix}")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asked = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        playwright.expect(tab.locator("#said")).to_have_text("The model is ready.", timeout=60_000)
        for path in pictures:
            drop(tab, path)
            playwright.expect(tab.locator("#said")).to_have_text(f"{path.name}:", timeout=60_000)
            names = tab.locator("#classes .name").all_text_contents()
            shares = [float(text.rstrip(" %")) / 100 for text in tab.locator("#classes .share").all_text_contents()]
            expected = nfjax.classify(path, model)
            assert len(names) == 5
            assert names[0] == expected[0][0]
            if path.suffix == ".png":  # JPEGs are decoded by the browser
                assert names == [name for name, _, _ in expected]
                assert np.allclose(shares, [probability for _, probability, _ in expected], atol=6e-4)
        tab.screenshot(path=tmp_path / "page.png")
        drop(tab, tmp_path / "broken.png")
        said = "broken.png is no picture that this browser can read."
        playwright.expect(tab.locator("#said")).to_have_text(said)
        assert tab.locator("#classes li").count() == 0
        browser.close()
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


def drop(tab, path):
    """Drop a file on the page, as a hand would."""
    content = base64.b64encode(path.read_bytes()).decode()
    script = """([content, name]) => {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], name));
        for (const kind of ["dragover", "drop"]) {
            document.getElementById("drop").dispatchEvent(
                new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
        }
    }"""
    tab.evaluate(script, [content, path.name])
