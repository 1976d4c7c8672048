"""Exported files of strangers, whose checksums are right; `tests.fuzz.exports` tries what is not thought of here."""

import copy
import hashlib
import json
import zipfile

import numpy as np
import pytest

import nfjax
from nfjax.serving import ExportedFileError
from tests.fuzz.exports import CONFIG, PROGRAM, WEIGHTS, valid


def write(folder, where="inside", change=lambda config: None, *, program=None, weights=None, **options):
    """An export of a small model with another config, program or weights."""
    config, own_program, own_weights = copy.deepcopy(valid(where))
    program = own_program if program is None else program
    weights = own_weights if weights is None else weights
    config["sha256"] = {PROGRAM: hashlib.sha256(program).hexdigest(), WEIGHTS: hashlib.sha256(weights).hexdigest()}
    config = change(config) or config
    (folder / WEIGHTS).write_bytes(weights)
    with zipfile.ZipFile(folder / "a.zip", "w", **options) as archive:
        archive.writestr(CONFIG, config if isinstance(config, str) else json.dumps(config))
        archive.writestr(PROGRAM, program)
    return folder / "a.zip"


def refused(path, said, **options):
    with pytest.raises(ExportedFileError, match=said) as caught:
        nfjax.load_exported(path, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_an_expected_checksum_is_that_of_the_file(tmp_path):
    path = write(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert nfjax.load_exported(path, expected_sha256=digest.upper()).config["num_classes"] == 3
    refused(path, rf"a\.zip has the sha256 {digest}; expected 0{{64}}", expected_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"expected_sha256='abc'; expected 64 hexadecimal digits"):
        nfjax.load_exported(path, expected_sha256="abc")


@pytest.mark.parametrize(
    "name",
    [f"../{WEIGHTS}", f"inner/{WEIGHTS}", "absolute", "", ".", "..", "\0.safetensors", "a\n.safetensors", CONFIG, 5],
)
def test_weights_are_only_ever_in_the_same_folder(name, tmp_path):
    (tmp_path / "served" / "inner").mkdir(parents=True)
    weights = valid("beside")[2]
    for place in (tmp_path, tmp_path / "served" / "inner"):
        (place / WEIGHTS).write_bytes(weights)
    name = str(tmp_path / WEIGHTS) if name == "absolute" else name

    def change(config):
        config["weights"], config["sha256"][str(name)] = name, hashlib.sha256(weights).hexdigest()

    refused(write(tmp_path / "served", "beside", change), r"its config\.json has no right weights")


def test_members_are_the_documented_ones_and_stored(tmp_path):
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(write(tmp_path, compression=compression), r"config\.json is compressed, expected it to be stored")
    with zipfile.ZipFile(write(tmp_path), "a") as archive:
        archive.writestr("../evil", b"")
    refused(tmp_path / "a.zip", r"holds '\.\./evil, config\.json, model\.stablehlo', expected config\.json and model")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(CONFIG, "{}")
    refused(tmp_path / "a.zip", r"holds 'config\.json', expected config\.json and model\.stablehlo")


def test_members_are_no_larger_than_the_file(tmp_path):
    content = write(tmp_path).read_bytes()
    sizes = content.rindex(b"PK\1\2") + 20  # of the program, in the directory: stored, and of the content
    claimed = content[:sizes] + 2 * (2**31 - 1).to_bytes(4, "little") + content[sizes + 8 :]
    (tmp_path / "a.zip").write_bytes(claimed)
    refused(tmp_path / "a.zip", rf"model\.stablehlo claims 2147483647 bytes, expected at most {len(claimed)}\.")
    long = write(tmp_path, change=lambda config: config.update(license="x" * (16 << 20)))
    refused(long, r"config\.json claims \d+ bytes, expected at most 16777216")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: "[" * 100_000, r"is damaged.*RecursionError"),
        (lambda config: "[]", r"format and version 'list'; expected"),
        (lambda config: '{"x": NaN}', r"NaN is no number of JSON"),
        (lambda config: config.update(sha256=None, versions=5), r"no right versions, sha256"),
        (lambda config: config.update(sha256={}), r"sha256 of model\.stablehlo is \w+, expected None"),
        (
            lambda config: {key: config[key] for key in config if key not in ("std", "platforms")},
            r"right std, platforms",
        ),
        (lambda config: config.update(std=[0.5, 0, 0.5], mean=[True]), r"no right mean, std"),
        (lambda config: config["input"].update(shape=["0*b", 32, 32, 3]), r"no right input"),
        (lambda config: config["input"].update(shape=["b", 32, 32]), r"no right input"),
        (lambda config: config["input"].update(shape=["b", 64, 64, 3]), r"its config\.json describes another program"),
        (lambda config: config["input"].update(dtype="uint8"), r"its config\.json describes another program"),
        (lambda config: config.update(outputs=2 * config["outputs"]), r"its config\.json describes another program"),
        (lambda config: config.update(platforms=["cpu"]), r"its program is for \('cpu', 'cuda', 'tpu'\)"),
        (lambda config: config.update(weights=WEIGHTS), r"is not a safetensors file"),
    ],
)
def test_a_config_that_is_not_the_programs(change, said, tmp_path):
    refused(write(tmp_path, change=change), said)


@pytest.mark.parametrize("where", ["table", "cut", "nothing"])
def test_programs_that_are_none(where, tmp_path):
    program = valid("inside")[1]
    program = {"table": b"\xff\xff\xff\x7f" + program[4:], "cut": program[:100], "nothing": b""}[where]
    refused(write(tmp_path, program=program), r"cannot read this program of jax .*export the model again")


def test_a_program_that_jax_cannot_compile(tmp_path, capfd):
    program = valid("inside")[1]
    version = program.index(b"ML\xefR") + 4  # after the mark of MLIR's bytecode
    exported = nfjax.load_exported(write(tmp_path, program=program[:version] + b"\xff" + program[version + 1 :]))
    with pytest.raises(
        ExportedFileError, match=r"jax .* cannot run the program of 'test_vit2.*'.*Export the model again"
    ):
        exported(np.zeros((1, 32, 32, 3), np.float32))


HEADERS = [{"x": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, {"x": 5}, None]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_weights_beside_that_are_none(header, tmp_path):
    written = b"" if header is None else json.dumps(header).encode()
    weights = len(written).to_bytes(8, "little") + written + b"\0"
    refused(write(tmp_path, "beside", weights=weights), r"beside\.safetensors is not a safetensors file")


def test_weights_beside_that_are_others(tmp_path):
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    written = json.dumps(header).encode()
    weights = len(written).to_bytes(8, "little") + written + bytes(4)
    refused(write(tmp_path, "beside", weights=weights), r"takes other arguments than images and these weights")
    own = valid("beside")[2]
    turned = own.replace(b'"shape":[64,192]', b'"shape":[192,64]')
    assert turned != own
    refused(
        write(tmp_path, "beside", weights=turned), r"its program takes '.*' as float32\[64,192\], found \(192, 64\)"
    )
