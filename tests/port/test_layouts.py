"""Layouts of other libraries: exact inverses, recognised by their names, and strict."""

import json
import os
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
import port
from port import layouts
from port.__main__ import main
from port.npz import read_npz
from tests.helpers.layouts import CASES, DINOV2, DINOV3, IDS, MODELS, NFNET, timm_state, written
from tests.helpers.shallow import shallow


class Call:
    """What a pickle makes by calling something."""

    def __init__(self, function, arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


FIRST = {layout.title: i for i, (layout, _, _) in reversed(list(enumerate(CASES)))}


def content(state):
    return {name: (a.dtype.str, a.shape, np.ascontiguousarray(a).tobytes()) for name, a in state.items()}


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_round_trip_to_the_byte(case):
    theirs, state = written(case)
    layout = CASES[case][0]
    assert layouts.recognise(theirs) is layout
    back = layout.to_timm(theirs)
    assert content(back) == content(state)
    again = layout.from_timm(back, heads=2)
    assert content(again) == content(theirs)
    assert layouts.recognise(state) is None


STRICT = [i for i in range(len(CASES)) if not CASES[i][0].title.startswith(("TIPS", "transformers' Timm"))]


@pytest.mark.parametrize("case", STRICT, ids=[IDS[i] for i in STRICT])
def test_every_mistake_is_named_at_once(case):
    """Arrays that nobody knows, and one of a wrong rank."""
    theirs, _ = written(case)
    ending = ("cls_token", "query.bias", "conv0/gain", "embedding/kernel")
    wrong = next(name for name in theirs if name.endswith(ending))
    theirs |= {"stranger.weight": np.ones(2), "blocks.0.mask": np.ones(3), wrong: np.ones((2, 2, 2, 2, 2))}
    with pytest.raises(port.WeightsError, match="3 arrays cannot be read as") as told:
        CASES[case][0].to_timm(theirs)
    assert all(name in str(told.value) for name in ("stranger.weight", "blocks.0.mask", wrong))
    assert "\n" not in str(told.value)


def test_parts_that_belong_together():
    theirs, _ = written(FIRST["transformers' Dinov2WithRegisters"])
    gone = [name for name in theirs if ".key." in name]
    del theirs[gone[0]], theirs[gone[-1]]
    with pytest.raises(port.WeightsError, match="2 arrays cannot be read as") as told:
        layouts.recognise(theirs).to_timm(theirs)
    assert gone[0] in str(told.value)
    assert gone[-1] in str(told.value)


def test_dinov3_of_meta_is_timms_or_refused(caplog):
    """A mask, or no bias of the keys; periods of timm's base; biases also where the name is that of a model without."""
    theirs, state = written(FIRST["Meta's DINOv3"])
    layout = layouts.recognise(theirs)
    theirs |= {"local_cls_norm.weight": np.ones(32), "projectors.0.weight": np.ones((2, 2))}
    model = nfjax.load("vit_small_patch16_dinov3", theirs, **DINOV3)
    assert "read as: Meta's DINOv3), computed as there: qkv_bias=True" in caplog.text
    assert content(nfjax.state_dict(model)) == content(state)

    bare = {name: a for name, a in theirs.items() if not name.endswith(("bias_mask", "periods", "mask_token"))}
    assert content(layout.to_timm(bare)) == content(state)
    bias = "blocks.1.attn.qkv.bias"
    for wrong, told in (
        (bare | {bias: np.ones(96, np.float32)}, f"{bias}: a bias of the keys, which timm's model does not have"),
        (theirs | {f"{bias}_mask": np.ones(96)}, "bias_mask: expected a mask of the keys alone"),
        (theirs | {"rope_embed.periods": np.ones(4)}, "periods are not those of base 100"),
    ):
        with pytest.raises(port.WeightsError, match=told):
            layout.to_timm(wrong)
    with pytest.raises(port.WeightsError, match="pass heads="):
        layout.from_timm(state)


def test_a_block_twice():
    """In a chunk, and by itself."""
    theirs, _ = written(0)
    theirs["blocks.1.0.norm1.weight"] = theirs["blocks.0.norm1.weight"]
    with pytest.raises(port.WeightsError, match=r"blocks\.0\.norm1\.weight is there twice"):
        layouts.recognise(theirs).to_timm(theirs)


def test_load_says_what_it_read(tmp_path, caplog):
    theirs, state = written(0)
    port.write_safetensors(theirs, tmp_path / "meta.safetensors")
    for weights in (tmp_path / "meta.safetensors", theirs):
        caplog.clear()
        model = nfjax.load("vit_small_patch14_reg4_dinov2", weights, **DINOV2)
        assert "read as: Meta's DINOv2" in caplog.text
        assert content(nfjax.state_dict(model)) == content(state)
    with pytest.raises(port.WeightsError, match=r"read as: Meta's DINOv2.*not those of vit_small"):
        nfjax.load("vit_small_patch14_reg4_dinov2", theirs, **DINOV2 | {"depth": 3})


def test_the_head_of_metas_hub():
    """`dinov2_vits14_reg_lc` with one layer: its head sees class token and average patch."""
    (layout,) = (layout for layout in layouts.LAYOUTS if layout.marks[0].startswith("backbone"))
    options = DINOV2 | {"num_classes": 3, "global_pool": "cattokenavg"}
    state = timm_state("vit_small_patch14_reg4_dinov2", options)
    theirs = layout.from_timm(state)
    assert theirs["linear_head.weight"].shape == (3, 64)
    model = nfjax.load("vit_small_patch14_reg4_dinov2", theirs, **DINOV2)
    assert (model.num_classes, model.global_pool) == (3, "cattokenavg")
    assert content(nfjax.state_dict(model)) == content(state)


def test_layout_forces_one(tmp_path):
    theirs, _ = written(0)
    with pytest.raises(ValueError, match="the position embedding has 5 patches"):
        nfjax.load("vit_small_patch14_reg4_dinov2", theirs, layout="timm", **DINOV2)
    with pytest.raises(port.WeightsError, match="cannot be read as DeepMind's NFNet"):
        nfjax.load("vit_small_patch14_reg4_dinov2", theirs, layout="deepmind", **DINOV2)
    with pytest.raises(ValueError, match="unknown layout 'mets'; did you mean meta"):
        nfjax.load("vit_small_patch14_reg4_dinov2", theirs, layout="mets")
    with pytest.raises(ValueError, match=r"unknown layout 'torch'; .*timm, meta, transformers, deepmind, big_vision"):
        nfjax.load("vit_small_patch14_reg4_dinov2", theirs, layout="torch")
    with pytest.raises(ValueError, match=r"unknown layout 'meta'; .*timm, transformers"):
        nfjax.save(nfjax.load("test_vit2", None, depth=1), tmp_path, layout="meta")


def test_convert_reads_them(tmp_path, capsys):
    theirs, state = written(FIRST["DeepMind's NFNet"])
    np.savez(tmp_path / "F0_haiku.npz", **theirs)
    assert main(["convert", f"{tmp_path}/F0_haiku.npz", f"{tmp_path}/timm.safetensors", "--to", "timm"]) == 0
    assert "read as: DeepMind's NFNet" in capsys.readouterr().out
    assert content(port.read_weights(tmp_path / "timm.safetensors")) == content(state)
    assert content(port.read_weights(tmp_path / "F0_haiku.npz")) == content(state)
    assert main(["convert", f"{tmp_path}/F0_haiku.npz", f"{tmp_path}/x.safetensors", "--layout", "deepmnd"]) == 2
    assert "did you mean deepmind" in capsys.readouterr().err


def test_inspect_which_and_no_name(tmp_path, capsys):
    """Of an architecture that nfjax has, so of full width, cut to few blocks."""
    names = {name: {"depth": 1} for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_384")}
    with shallow(names):
        state = timm_state("vit_tiny_patch16_224", {})
        vit_jax = CASES[FIRST["vit_jax's ViT"]][0]
        np.savez(tmp_path / "vit.npz", **vit_jax.from_timm(state, heads=3))
        assert main(["inspect", f"{tmp_path}/vit.npz"]) == 0
        told = capsys.readouterr().out
        assert "layout    vit_jax's ViT (read as timm's names)" in told
        assert "fits      vit_tiny_patch16_224" in told
        assert main(["which", f"{tmp_path}/vit.npz"]) == 0
        assert content(nfjax.state_dict(nfjax.load(None, tmp_path / "vit.npz"))) == content(state)


def test_what_timm_has_not_is_said_or_refused(tmp_path, caplog):
    model = nfjax.load("vit_small_patch14_reg4_dinov2", None, **DINOV2, num_classes=3, global_pool="cattokenavg")
    nfjax.save(model, tmp_path)
    assert "timm has no global_pool='cattokenavg'" in caplog.text
    assert nfjax.load(tmp_path).global_pool == "cattokenavg"
    caplog.clear()
    model = nfjax.load("test_vit2", None, depth=1, norm_eps=1e-5, pos_embed_interp="bilinear")
    nfjax.save(model, tmp_path)
    assert "timm has no norm_eps=1e-05, pos_embed_interp='bilinear', and so cannot load" in caplog.text
    assert nfjax.load(tmp_path).config.norm_eps == 1e-5
    model = nfjax.load("vit_small_patch14_reg4_dinov2", None, **DINOV2, norm_eps=1e-5)
    with pytest.raises(ValueError, match="neither timm nor transformers has norm_eps=1e-05"):
        nfjax.save(model, tmp_path, layout="transformers")
    model = nfjax.load("dm_nfnet_f0", None, **NFNET, num_classes=3, act_layer="gelu_tanh")
    with pytest.raises(ValueError, match="neither timm nor transformers has act_layer='gelu_tanh'"):
        nfjax.save(model, tmp_path, layout="transformers")


CONFIG = {"model_type": "dinov2_with_registers", "hidden_size": 32, "num_attention_heads": 2, "image_size": 28}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', expected dinov2_with_registers, dinov3_vit or timm_wrapper"),
        ({"hidden_act": "relu"}, r"hidden_act='relu' \(expected 'gelu'\), which timm's model does not compute"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
        ({"hidden_size": "wide"}, "embed_dim='wide'"),
        ({"patch_size": [14, 7]}, "patch_size"),
        ({"num_hidden_layers": 10**9}, "depth=1000000000"),
        ({"use_swiglu_ffn": "yes"}, "use_swiglu_ffn='yes'"),
        ({"mlp_ratio": None, "use_swiglu_ffn": True}, "mlp_ratio=None"),
        ({"id2label": 3, "architectures": ["Dinov2WithRegistersForImageClassification"]}, "label_names=3"),
    ],
)
def test_a_config_that_cannot_be_followed(fields, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | fields))
    with pytest.raises(ValueError, match=told):
        nfjax.load(tmp_path, None)


CONFIG3 = {"model_type": "dinov3_vit", "hidden_size": 32, "num_attention_heads": 2, "num_register_tokens": 4}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"key_bias": True}, r"key_bias=True \(expected False\), which timm's model does not compute"),
        ({"query_bias": False}, r"value_bias=True \(expected False\)"),
        ({"use_gated_mlp": True}, r"hidden_act='gelu' \(expected 'silu'\)"),
        ({"layer_norm_eps": 1e-6, "mlp_bias": False}, "layer_norm_eps=1e-06 .*mlp_bias=False"),
        ({"query_bias": "yes", "value_bias": "yes"}, "query_bias='yes'"),
        ({"intermediate_size": [8]}, "mlp_ratio"),
        ({"rope_theta": "wide"}, "rope_temperature='wide'"),
    ],
)
def test_a_config_of_dinov3_that_cannot_be_followed(fields, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG3 | fields))
    with pytest.raises(ValueError, match=told):
        nfjax.load(tmp_path, None)


STATE = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.float64(3), "d": np.zeros((0, 2), "f2")}


def test_npz(tmp_path):
    path = tmp_path / "x.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, **STATE, by_columns=np.ones((3, 2)).T, big=np.arange(3, dtype=">f4"))
        found = read_npz(path)
        assert content({name: found[name] for name in STATE}) == content({n: np.asarray(a) for n, a in STATE.items()})
        assert found["by_columns"].shape == (2, 3)
        assert found["big"].tolist() == [0, 1, 2]
        assert found["big"].dtype == np.float32
    np.savez(path, half=jnp.arange(3, dtype=jnp.bfloat16))  # two bytes without a type
    assert read_npz(path)["half"].dtype == jnp.bfloat16
    assert read_npz(path)["half"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickled_parameters_are_read_without_unpickling(protocol, tmp_path, monkeypatch):
    """As DeepMind published its NFNets: mappings of mappings, with the ending .npz."""
    content_ = {"NFNet/~/a": {"w": np.arange(6, dtype="f4").reshape(2, 3), "t": np.ones((3, 2)).T}, "b": STATE["d"]}
    path = tmp_path / "x.npz"
    path.write_bytes(pickle.dumps(content_, protocol=protocol))
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    found = read_npz(path)
    expected = {"NFNet/~/a/w": content_["NFNet/~/a"]["w"], "NFNet/~/a/t": content_["NFNet/~/a"]["t"], "b": STATE["d"]}
    assert content(found) == content(expected)


def nested(depth):
    """A mapping that holds each other one twice: short in a file, endless to walk."""
    inner = {"x": np.ones(1)}
    for _ in range(depth):
        inner = {str(i): inner for i in range(40)}
    return inner


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"", "no zip archive"),
        (b"PK\3\4" + b"\0" * 100, "not a readable .npz file"),
        (pickle.dumps({"a": Call(os.system, ("touch /tmp/nfjax-npz",))}), r"names \w+\.system, which runs code"),
        (pickle.dumps([np.ones(1)]), "is a list, which is more than arrays"),
        (pickle.dumps({"a": Call(np.negative, (1,))}), "which is more than arrays; it was not called"),
        (pickle.dumps({"a": np.array([{}], dtype=object)}), "an array without numbers"),
        (pickle.dumps({"a": np.ones(3)})[:-20], "not a readable .npz file"),
        (pickle.dumps(nested(6)), "more than 1000000 entries"),
        (b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b".", "not a readable"),
    ],
)
def test_hostile_npz(bad, told, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(bad)
    with pytest.raises(port.WeightsFileError, match=told) as error:
        read_npz(path)
    assert "\n" not in str(error.value)


def archive(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_hostile_archives(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, bomb=np.zeros(2**25, np.float32))  # 128 MB in 130 kB
    with pytest.raises(port.WeightsFileError, match="would take 134217856 bytes"):
        read_npz(path)
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(port.WeightsFileError, match="holds object, which is no number"):
        read_npz(path)
    np.savez(path, a=np.array(["x"]))
    with pytest.raises(port.WeightsFileError, match="which is no number"):
        read_npz(path)
    archive(path, **{"readme.txt": b"x"})
    with pytest.raises(port.WeightsFileError, match=r"readme\.txt is no \.npy"):
        read_npz(path)
    archive(path, zipfile.ZIP_BZIP2, **{"a.npy": b"x"})
    with pytest.raises(port.WeightsFileError, match="packed as numpy does not"):
        read_npz(path)
    np.savez(path, a=np.ones(9))
    whole = bytearray(path.read_bytes())
    at = whole.index(b"(9,)")
    whole[at : at + 4] = b"(8,)"
    path.write_bytes(whole)
    with pytest.raises(port.WeightsFileError, match="not a readable"):
        read_npz(path)


def test_every_layout_is_tried():
    assert {layout.title for layout in layouts.LAYOUTS} == set(MODELS)
    assert layouts.NAMES == ("timm", "meta", "transformers", "deepmind", "big_vision")
