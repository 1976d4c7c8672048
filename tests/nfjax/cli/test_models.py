"""`nfjax list` and `info`."""

import json

import pytest

import nfjax
from nfjax.__main__ import main


def run(capsys, *argv, code=0):
    assert main(list(argv)) == code
    return capsys.readouterr()


def test_list_shows_every_architecture(capsys):
    lines = run(capsys, "list").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == nfjax.list_models()
    assert len({len(line) for line in lines}) == 1  # a row is a line, however wide


def test_list_pretrained(capsys):
    header, *rows = run(capsys, "list", "eca*", "--pretrained").out.splitlines()
    assert header.split()[:3] == ["name", "hub", "id"]
    assert len(rows) == 3
    for part in (
        "eca_nfnet_l0.ra2_in1k",
        "timm/eca_nfnet_l0.ra2_in1k",
        "apache-2.0",
        "224 / 288",
        "24.14",
        "4.24 / 7.01",
        "10.47 / 17.29",
        "81.76 / 82.59",
        "95.99 / 96.49",
    ):
        assert part in rows[0]


def test_list_json(capsys):
    models = json.loads(run(capsys, "list", "--pretrained", "--json").out)
    assert [model["name"] for model in models] == nfjax.list_models(pretrained=True)
    for model in models:
        data = nfjax.data_config(model["name"])
        assert model["name"].split(".")[1] in model["tags"]
        assert (model["hf_hub_id"], model["license"]) == (data.hf_hub_id, data.license)
        assert tuple(model["counts"][0]["img_size"]) == data.input_size[1:]
    (model,) = (model for model in models if model["name"] == "nfnet_l0.ra2_in1k")
    assert model["counts"][0]["params"] == 35_074_488
    assert [(row["img_size"], row["top1"]) for row in model["results"]] == [(224, 81.87), (288, 82.766)]


def test_info(capsys):
    text = run(capsys, "info", "eca_nfnet_l0").out
    for part in (
        "timm/eca_nfnet_l0.ra2_in1k",
        "bicubic",
        "0.485 0.456 0.406",
        "82.59",
        "288x288",
        "kernel 3x3x3x16",
        "112x112x16",
        "5,419,008",
    ):
        assert part in text
    assert "stem.conv1" not in run(capsys, "info", "eca_nfnet_l3", "--no-layers").out.partition("one image")[2]


def test_info_json(capsys):
    model = json.loads(run(capsys, "info", "test_vit2", "--json").out)
    assert model["counts"] == json.loads(run(capsys, "list", "test_vit2", "--json").out)[0]["counts"]
    assert sum(layer["param_count"] for layer in model["layers"]) == model["counts"][0]["params"]
    assert sum(layer["macs"] for layer in model["layers"]) == model["counts"][0]["macs"]
    assert "layers" not in json.loads(run(capsys, "info", "test_vit2", "--json", "--no-layers").out)


def test_info_of_a_folder(capsys, tmp_path):
    nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=7, in_chans=1), tmp_path)
    model = json.loads(run(capsys, "info", f"local-dir:{tmp_path}", "--json").out)
    stored = nfjax.load(f"local-dir:{tmp_path}")
    assert (model["architecture"], model["num_classes"]) == ("test_nfnet", 7)
    assert model["counts"][0]["params"] == sum(array.size for array in nfjax.state_dict(stored).values())
    assert model["results"] == []  # those published are of other weights


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["info", "eca_nfnet_l9"], "unknown model 'eca_nfnet_l9'; did you mean"),
        (["info", "eca_nfnet_l0.nope"], "eca_nfnet_l0 has no weights tagged 'nope'; known: eca_nfnet_l0.ra2_in1k."),
        (["info", "local-dir:nowhere"], "there is no folder nowhere"),
        (["list", "nfnet_f9"], "unknown model 'nfnet_f9'; did you mean"),
        (["list", "eca"], "no model is called eca; 'eca*' is 4 of them."),
        (["list", "eca_nfnet_l3", "--pretrained"], "no weights were published for eca_nfnet_l3"),
    ],
)
def test_errors_are_one_line(capsys, argv, message):
    captured = run(capsys, *argv, code=2)
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("command", ["list", "info"])
def test_help_ends_with_an_example_that_works(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    line = capsys.readouterr().out.splitlines()[-1]
    start = "  nfjax "
    assert line.startswith(start)
    run(capsys, *line.removeprefix(start).replace("'", "").split())
