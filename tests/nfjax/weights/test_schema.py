"""What a config.json may say; `tests.fuzz.configs` tries what is not thought of here."""

import json

import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.models import limits, registry
from nfjax.params import named_params
from nfjax.weights.names import resolve


def config_of(name, **changes):
    """A config.json as timm writes it, with some entries of `pretrained_cfg` or of `model_args`, or at the top."""
    data = registry.MODELS[name].data[0].to_json()
    config = {"architecture": name, "num_classes": 3, "model_args": {}, "pretrained_cfg": data | {"num_classes": 3}}
    for key, value in changes.items():
        part = {"a": config["model_args"], "c": config["pretrained_cfg"]}.get(key[0] if key[1] == "_" else "", config)
        part[key[2:] if part is not config else key] = value
    return config


def write(folder, config):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"c_std": 7}, r"std=7; expected several of them, each a number, at least 1e-06 and at most 1000"),
        ({"c_std": [0.5, 0, 0.5]}, r"std=\[0\.5, 0, 0\.5\]"),
        ({"c_std": [0.5, 0.5]}, r"mean=.* and std=\(0\.5, 0\.5\); expected one of each, three, or 3"),
        ({"c_mean": None}, r"mean=None"),
        ({"c_crop_pct": 1e-9}, r"crop_pct=1e-09; expected a number, at least 0\.1 and at most 10"),
        (
            {"c_interpolation": "cubic"},
            r"interpolation='cubic' is not known; expected text, one of 'random', 'nearest'",
        ),
        ({"c_input_size": [3, 224]}, r"input_size=\[3, 224\]; expected 3 of them, each a whole number, at least 1"),
        ({"c_input_size": {"a": 1}}, r"input_size=\{'a': 1\}"),
        ({"c_tag": "../../x"}, r"tag='\.\./\.\./x'; expected printable text without slashes"),
        ({"c_classifier": "stages"}, r"classifier='stages'; expected 'head\.fc', as the architecture has it"),
        ({"pretrained_cfg": None}, r"pretrained_cfg=None; expected an object"),
        ({"model_args": [1]}, r"model_args=\[1\]; expected an object"),
        ({"label_names": -1}, r"label_names=-1; expected several of them, each text"),
        ({"label_names": {"x": "cat"}}, r"label_names=\{'x': 'cat'\}"),
        ({"label_names": {"1": "cat", "01": "dog"}}, r"label_names="),
        ({"num_classes": 10**7}, r"num_classes=10000000; expected a whole number, at least 0 and at most 1000000"),
        ({"a_attn_gain": "center"}, r"model_args\.attn_gain='center'; expected a number"),
        ({"a_attn_layer": "eca "}, r"model_args\.attn_layer='eca ' is not known; expected text, one of 'se', 'eca'"),
        ({"a_dtype": "x"}, r"model_args dtype, which nfjax cannot follow"),
        ({"a_depths": [1, 1]}, r"depths=\(1, 1\) and channels=.*; expected as many of one as of the other"),
        ({"a_group_size": 60000}, r"group_size=60000 does not divide the channels"),
        ({"a_stem_chs": 1, "a_ch_div": 1}, r"stem_chs=1; expected at least 8"),
        # What would take the machine.
        ({"a_depths": [300000, 1, 1, 1]}, r"depths=\[300000, 1, 1, 1\]; .* at most 1000"),
        ({"a_depths": [300, 1, 1, 1]}, r"303 blocks; expected at most 48 \(4 times the architecture's 4, or 48 if"),
        ({"a_channels": [60000] * 4}, r"parameters; expected at most 100,000,000 \(8 times the architecture's 240,768"),
        ({"c_input_size": [3, 40000, 40000]}, r"1,600,000,000 pixels; expected at most 16,777,216 \(64 times"),
        ({"c_test_input_size": [3, 40000, 40000]}, r"1,600,000,000 pixels"),
        ({"a_img_size": 160000}, r"img_size=160000; expected a whole number, at least 1 and at most 65536"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_told_before_anything_is_built(changes, said, tmp_path, monkeypatch):
    monkeypatch.setattr(registry.Entry, "build", lambda *_, **__: pytest.fail("built"))
    write(tmp_path, config_of("test_nfnet", **changes))
    with pytest.raises(ValueError, match=said) as caught:
        nfjax.load(tmp_path, None)
    assert "nfjax cannot follow its config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a_depth": 300000}, r"depth=300000"),
        ({"a_depth": 300}, r"300 blocks; expected at most 48"),
        ({"a_patch_size": 1}, r"25,600 patches; expected at most 6,400 \(64 times the architecture's 100\)"),
        ({"a_patch_size": 0}, r"patch_size=0"),
        ({"a_num_heads": 3}, r"embed_dim=64; expected a multiple of 3 for num_heads=3"),
        ({"a_embed_dim": 60000}, r"parameters; expected at most 100,000,000"),
        ({"a_mlp_ratio": 1e-9}, r"mlp_ratio=1e-09 makes 0 channels"),
    ],
    ids=str,
)
def test_transformers(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        nfjax.load(write(tmp_path, config_of("test_vit2", **changes)), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is not JSON .*recursion"),
        ('{"architecture": "test_nfnet", "x": ' + '{"a":' * 100_000, "is not JSON .*recursion"),
        ('{"architecture": "test_nfnet", "x": NaN}', "NaN is no number of JSON"),
        ('{"architecture": "test_nfnet", "model_args": {"alpha": Infinity}}', "Infinity is no number of JSON"),
        ('{"architecture": "test_nfnet", "model_args": {"alpha": 1e999}}', "alpha=inf; expected a number"),
        (json.dumps({"architecture": "test_nfnet", "x": "a" * (16 << 20)}), "has more than 16 MiB"),
        (json.dumps({"architecture": "x" * 10_000}), "which nfjax does not have"),
    ],
    ids=["brackets", "objects", "nan", "infinity", "1e999", "long", "name"],
)
def test_files_that_are_no_config(text, said, tmp_path):
    with pytest.raises(ValueError, match=said) as caught:
        resolve(write(tmp_path, text))
    assert len(str(caught.value)) < 600


def test_one_error_names_every_field_and_commands_print_it(tmp_path, capsys):
    changes = {"c_std": 7, "c_mean": "x", "a_alpha": True, "a_nothing": 1, "c_input_size": [3, 9999, 9999]}
    write(tmp_path, config_of("test_nfnet", **changes, label_names=5))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    wrong = ["std=7", "mean='x'", "label_names=5", "model_args.alpha=True", "model_args nothing", "99,980,001 pixels"]
    for command in (["info", str(tmp_path)], ["classify", str(tmp_path / "a.png"), "--model", str(tmp_path)]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert [said for said in wrong if said not in line] == []


def test_what_timm_writes_beyond_our_fields_is_passed_over(tmp_path):
    extra = {
        "custom_load": False,
        "origin_url": "x",
        "paper_ids": ["arXiv:1"],
        "notes": [1],
        "url": None,
        "new": {"a": []},
    }
    config = config_of("test_nfnet", a_img_size=96, label_names={"0": "cat", "2": "dog"})
    config |= {"label_descriptions": {"cat": "a cat"}, "num_features": 192, "global_pool": "avg", "of_tomorrow": [{}]}
    config["pretrained_cfg"] |= extra
    source = resolve(write(tmp_path, config))
    assert source.data.input_size == (3, 96, 96)
    assert source.data.label_names == ("cat", "1", "dog")  # the class without a name is called by its index
    assert (source.data.num_classes, source.model_args) == (3, {})


def test_options_of_load_have_the_same_limits():
    for options, said in [
        ({"depth": 300}, r"300 blocks; expected at most 48"),
        ({"img_size": 3200}, r"40,000 patches; expected at most 6,400"),
        ({"num_heads": 3}, r"embed_dim=64; expected a multiple of 3"),
        ({"patch_size": 0, "norm_layer": "x"}, r"patch_size=0; .*norm_layer='x' is not known"),
    ]:
        with pytest.raises(ValueError, match=said):
            nfjax.load("test_vit2", None, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_kv_heads": (4,) * 12}, "is of attn_type='rope'"),
        ({"dynamic_img_pad": True}, "is of dynamic_img_size=True"),
        ({"global_pool": "prr"}, "is not of models with rotary positions"),
        ({"rope_jitter_coords": 1.5}, "are of rope_type='dinov3'"),
        ({"attn_type": "rope", "num_kv_heads": (2,)}, "expected one for each of the 12 blocks"),
    ],
)
def test_options_that_would_be_passed_over(options, said):
    with pytest.raises(ValueError, match=said):
        nfjax.load("vit_medium_patch16_rope_reg1_gap_256", None, **options)


@pytest.mark.parametrize("name", nfjax.list_models())
def test_every_architecture_is_within_its_own_limits(name):
    entry = registry.MODELS[name]
    for data in entry.data:
        config = {"architecture": name, "pretrained_cfg": data.to_json()}
        assert nfjax.weights.schema.read(config, entry, name)[0].input_size == data.input_size


@pytest.mark.parametrize("name", ["test_nfnet", "nfnet_f0", "nf_seresnet50", "test_vit2", "vit_base_patch16_224"])
def test_parameters_are_counted_within_a_third(name):
    entry = registry.MODELS[name]
    counted = limits.extent(entry.config, 3, entry.data[0].input_size[1:])["parameters"]
    built = sum(var.get_value().size for var in named_params(entry.build(num_classes=0)).values())
    assert 0.7 < counted / built < 1.4
