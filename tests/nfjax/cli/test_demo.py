"""`nfjax demo`: the function behind the page, and the page in Chromium."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import nfjax
from nfjax.__main__ import main
from nfjax.cli.demo import answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a photo, and a file that is none."""
    path = tmp_path_factory.mktemp("demo")
    nfjax.save(nfjax.load("test_nfnet", weights=None, seed=3), path / "model")
    Image.fromarray(load_sample_images().images[0]).save(path / "photo.png")
    (path / "broken.png").write_bytes(b"no picture")
    return path


def test_the_answer_is_that_of_classify(folder):
    classes, seen, said = answer(str(folder / "model"), str(folder / "photo.png"))
    assert [*classes.items()] == [
        (name, share) for name, share, _ in nfjax.classify(folder / "photo.png", folder / "model")
    ]
    assert (seen.shape, seen.dtype) == ((160, 160, 3), np.uint8)
    assert said == "photo.png, by test_nfnet.r160_in1k"


def test_what_is_wrong_is_a_sentence(folder):
    for model, path, expected in (
        (str(folder / "model"), None, "Drop a picture."),
        (None, str(folder / "photo.png"), "Choose a model."),
        (" ", str(folder / "photo.png"), "Choose a model."),
        (str(folder / "model"), str(folder / "broken.png"), r".*broken\.png .*is not an image.*"),
        ("test_nfmet", str(folder / "photo.png"), r"unknown model 'test_nfmet'; did you mean test_nfnet.*"),
    ):
        classes, seen, said = answer(model, path)
        assert (classes, seen) == ({}, None)
        assert re.fullmatch(expected, said)


def test_a_model_that_there_is_not(capsys):
    assert main(["demo", "test_nfmet"]) == 2
    assert "did you mean test_nfnet" in capsys.readouterr().err
    assert main(["demo", "test_nfnet", "--port", "99999"]) == 2
    assert capsys.readouterr().err == "error: --port=99999; expected a number from 1 to 65535.\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not here")
def test_in_a_browser(folder, tmp_path):
    """The labels that the page shows are those of `nfjax.classify`; the browser is sent to nobody else."""
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nfjax", "demo", str(folder / "model"), f"--port={port}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    demo = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, **pipes)
    asked = []
    try:
        address = demo.stdout.readline().partition(": ")[0]
        assert address == f"http://127.0.0.1:{port}"
        with playwright.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            tab = browser.new_page()
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(address)
            tab.locator("#picture input[type=file]").set_input_files(folder / "photo.png", timeout=60_000)
            said = tab.locator("#said")
            playwright.expect(said).to_contain_text("photo.png, by test_nfnet", timeout=120_000)
            text = tab.locator("#classes").inner_text()
            for name, share, _ in nfjax.classify(folder / "photo.png", folder / "model"):
                assert name in text
                assert f"{share:.0%}" in text
            tab.screenshot(path=tmp_path / "demo.png")
            tab.locator("#picture").get_by_label(re.compile("remove|clear", re.I)).first.click()
            playwright.expect(said).to_contain_text("Drop a picture.", timeout=60_000)
            tab.locator("#picture input[type=file]").set_input_files(folder / "broken.png")
            playwright.expect(said).to_contain_text("is not an image", timeout=60_000)
            browser.close()
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=30)
        assert (demo.returncode, err) == (130, "interrupted.\n")
    finally:
        demo.kill()
        demo.wait()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
