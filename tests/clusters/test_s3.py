"""Work in an object store: a server of the S3 protocol, with kills and a line that breaks. `pytest -m slow`."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nfjax
from port.stores import Store
from tests.helpers.s3 import Server
from train.checkpoints.files import load_arrays

pytestmark = pytest.mark.slow
pytest.importorskip("s3fs")
pytest.importorskip("moto")
parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("NFJAX_KILLS", "10"))  # of each test
CONFIG = """
from train import config as c

def get_config():
    return c.Config(
        epochs=4, model=c.Model("test_vit2", drop_rate=0.2), data=c.Data(batch_size=120, image_size=16, shift=1),
        augment=c.Augment(no_aug=True), optim=c.Optim(lr=0.05), ema=c.Ema(decay=0.9),
        checkpoint=c.Checkpoint(every_epochs=0.25), log=c.Log(every_steps=1, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def server():
    found = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found
    found.stop()


@pytest.fixture(autouse=True)
def good_line(server):
    yield
    server.mode = "good"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return os.environ.get("NFJAX_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def start(cache, server):
    def start(*words):
        environment = os.environ | server.environment | {"JAX_PLATFORMS": "cpu", "NFJAX_CACHE": cache}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-m", "nfjax", *map(str, words)], env=environment, text=True, **pipes)

    return start


def ended(process):
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def content(address):
    """Every file with its hash, of a folder or a store."""
    if isinstance(address, Path):
        names = {
            path.relative_to(address).as_posix(): path.read_bytes() for path in address.rglob("*") if path.is_file()
        }
    else:
        names = {name: Store(address).read(name) for name in Store(address).files()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    nfjax.save(nfjax.load("test_nfnet", weights=None), root / "model")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(23):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(root / "photos" / f"{i:02}.png")
    (root / "photos" / "04.png").write_bytes(b"no image")
    return root


def put(folder, address):
    for path in folder.rglob("*"):
        if path.is_file():
            Store(address).put(path.relative_to(folder).as_posix(), path)


def embed(model, images, output):
    options = ["--img-size", "32", "--batch-size", "4", "--part-size", "5", "--patience", "20"]
    return ["embed", images, "--model", model, *options, "-o", output]


def test_embedding_killed_on_a_line_that_breaks(photos, start, server, tmp_path):
    """Two processes at a time, killed at random, every third request cut off: the bytes of a folder undisturbed."""
    assert ended(start(*embed(photos / "model", photos / "photos", tmp_path / "out")))[0] == 1
    put(photos / "model", "s3://bucket/model")
    put(photos / "photos", "s3://bucket/photos")
    server.mode = "broken"
    chance, kills = random.Random(0), 0
    given = embed(photos / "model", photos / "photos", "s3://bucket/out")
    store, processes = Store("s3://bucket/out"), [start(*given), start(*given)]
    began = time.monotonic()
    while not store.exists("plan.json"):
        time.sleep(0.1)
    usual = time.monotonic() - began
    while kills < KILLS:
        time.sleep(chance.uniform(0.3, 1.3) * usual)
        index = chance.randrange(2)
        if processes[index].poll() is None:
            processes[index].send_signal(signal.SIGKILL)
            kills += 1
            print(f"kill {kills} after {time.monotonic() - began:.0f} s", flush=True)
        processes[index].communicate()
        processes[index] = start(*given)
        for part in chance.sample(range(5), 3):  # begin anew, lest there is nothing left to disturb
            store.remove(f"part-0000{part}.parquet")
    found = [ended(process) for process in processes]
    assert [code for code, *_ in found] == [1, 1], found
    assert content("s3://bucket/out") == content(tmp_path / "out")
    # and everything from there
    code, _, err = ended(start(*embed("s3://bucket/model", "s3://bucket/photos", "s3://bucket/out2")))
    assert code == 1, err
    assert "s3://bucket/photos/04.png is not an image" in err
    Store("s3://bucket/out2").get("part-00001.parquet", tmp_path / "one")
    theirs = parquet.read_table(tmp_path / "out" / "part-00001.parquet").to_pydict()
    ours = parquet.read_table(tmp_path / "one").to_pydict()
    assert ours["embeddings"] == theirs["embeddings"]
    assert ours["files"] == [f"s3://bucket/photos/{Path(name).name}" for name in theirs["files"]]


def test_training_killed_on_a_line_that_breaks(start, server, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    given = ["train", f"--config={tmp_path / 'config.py'}"]
    code, _, err = ended(start(*given, f"--workdir={tmp_path / 'whole'}"))
    assert code == 0, err
    server.mode, address = "broken", "s3://bucket/runs/one"
    store, chance, kills = Store(address), random.Random(0), 0
    while True:
        process = start(*given, f"--workdir={address}")
        before = set(store.names("checkpoints"))
        if kills < KILLS:
            while process.poll() is None and set(store.names("checkpoints")) <= before:
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 0.5))
            if process.poll() is None:
                process.kill()
                process.communicate()
                kills += 1
                print(f"kill {kills}: checkpoints {store.names('checkpoints')}", flush=True)
                continue
        code, out, err = ended(process)
        assert code == 0, err
        break
    copy = tmp_path / "copy"
    for name in store.files():
        store.get(name, copy / name)
    for step in (p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()):
        first, second = (load_arrays(folder, int(step)) for folder in (tmp_path / "whole", copy))
        assert {name: a.tobytes() for name, a in first.items()} == {name: a.tobytes() for name, a in second.items()}
    assert (copy / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    server.mode = "slow"
    code, out, err = ended(start("evaluate", "--model", address, "-o", tmp_path / "evaluation"))
    assert code == 0, err
    assert "top-1" in out


def test_one_sentence(photos, start, server, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    train = ["train", f"--config={tmp_path / 'config.py'}", "--workdir=s3://bucket/runs/two"]
    broken = photos / "photos" / "04.png"
    image = ["classify", "s3://none/x.png", "--model", photos / "model"]
    for mode, words, said in (
        ("denied", embed(photos / "model", photos / "photos", "s3://bucket/denied"), "no permission"),
        ("denied", train, "s3://bucket/runs/two/.owner: no permission"),
        ("denied", image, "s3://none/x.png: no permission"),
        ("good", image, "s3://none/x.png: there is no such file or bucket"),
        ("good", [*image[:1], broken, "--model", "s3://bucket/none"], "s3://bucket/none: there is no such file"),
    ):
        server.mode = mode
        code, out, err = ended(start(*words))
        assert code in (1, 2)
        assert said in err
        assert "Traceback" not in out + err
    server.mode = "gone"
    code, out, err = ended(start("classify", broken, "--model", "s3://bucket/model"))
    assert code == 2
    assert "Traceback" not in out + err
    assert err.startswith("error: s3://bucket/model")


def test_a_full_bucket(start, server, tmp_path):
    """The run goes on, says so, and keeps at its end what it could not send."""
    (tmp_path / "config.py").write_text(CONFIG)
    process = start("train", f"--config={tmp_path / 'config.py'}", "--workdir=s3://bucket/runs/full")
    while not Store("s3://bucket/runs/full").names("checkpoints"):
        time.sleep(0.1)
        assert process.poll() is None
    server.mode = "full"
    code, out, err = ended(process)
    assert code == 2
    assert "is not sent yet" in out
    assert "What was not sent is in" in err
    assert "Traceback" not in out + err
    kept = Path(err.partition("What was not sent is in ")[2].partition(":")[0])
    assert (kept / "full" / "final" / "model.safetensors").exists()
