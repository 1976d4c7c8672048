"""Files between the two libraries: what one writes, the other reads, with the same logits."""

import json

import numpy as np
import pytest
import torch
from flax import nnx

import nfjax
import port
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import logits, torch_logits

timm = oracle.timm()
X = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def state():
    return oracle.random_state(oracle.shapes("test_nfnet"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_nfnet", {}),
        ("test_nfnet", {"num_classes": 10}),
        ("test_nfnet", {"in_chans": 1, "num_classes": 10}),
        ("test_nfnet", {"global_pool": "catavgmax"}),
        ("test_nfnet", {"output_stride": 16}),
        ("nf_ecaresnet26", {}),
        ("nf_regnet_b0", {"in_chans": 4}),
        ("dm_nfnet_f0", {"depths": (1, 1, 1, 1)}),
        ("test_nfnet", {"skipinit": True}),
        ("test_vit2", {"num_classes": 10, "img_size": (64, 96)}),
        ("test_vit2", {"global_pool": "max", "in_chans": 1}),
        ("test_vit2", {"global_pool": ""}),
        ("test_vit3", {}),
        ("test_vit4", {"depth": 3}),
        ("vit_dpwee_patch16_reg1_gap_256", {"depth": 2}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "num_classes": 0, "img_size": 84}),
        ("vit_medium_patch16_rope_reg1_gap_256", {"depth": 2, "img_size": (64, 96)}),
        ("vit_medium_patch16_rope_reg1_gap_256", {"depth": 1, "class_token": True, "global_pool": "token"}),
    ],
    ids=str,
)
def test_timm_loads_what_we_save(name, options, tmp_path):
    random = oracle.random_state(oracle.shapes(name, **options))
    model = nfjax.load(name, weights=random, **options)
    nfjax.save(model, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for key, tensor in theirs.state_dict().items():
        assert tensor.numpy().tobytes() == random[key].tobytes()
    size = (64, 64) if "nf" in name else model.data_config.input_size[1:]
    x = np.random.default_rng(1).standard_normal((2, *size, model.in_chans)).astype("f4")
    assert relative(logits(model, x), torch_logits(theirs, x)) <= 1e-5

    again = nfjax.load(f"local-dir:{tmp_path}")
    assert (again.num_classes, again.in_chans) == (model.num_classes, model.in_chans)
    assert_same(nfjax.state_dict(again), random)
    # The exported file alone is strict enough for torch, too.
    from safetensors.torch import load_file

    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)


@pytest.mark.parametrize(("name", "layer"), [("test_nfnet", "head.fc"), ("test_vit2", "head")])
def test_a_classifier_that_was_replaced(name, layer, tmp_path):
    """By another layer of its kind it is saved; by anything else it is refused, by name."""
    model = nfjax.load(name, None, in_chans=1)
    parent, leaf = (model.head, "fc") if layer == "head.fc" else (model, "head")
    setattr(parent, leaf, nnx.Linear(model.num_features, 7, rngs=nnx.Rngs(0)))
    nfjax.save(model, tmp_path)
    again, theirs = nfjax.load(tmp_path), timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    size = model.data_config.input_size[1:]
    x = np.random.default_rng(1).standard_normal((2, *size, 1)).astype("f4")
    assert (again.num_classes, theirs.num_classes, logits(again, x).shape) == (7, 7, (2, 7))
    assert relative(logits(model, x), torch_logits(theirs, x)) <= 1e-5

    def refused(new, *names):
        setattr(parent, leaf, new)
        with pytest.raises(ValueError, match=r"any more|no place|no conversion rule|weights are of") as error:
            nfjax.save(model, tmp_path / "refused")
        assert all(name in str(error.value) for name in names), error.value
        assert not (tmp_path / "refused").exists()

    class Squashed(nnx.Linear):
        """The same parameters, another function."""

        def __call__(self, x):
            return nnx.tanh(super().__call__(x))

    refused(Squashed(model.num_features, 7, rngs=nnx.Rngs(0)), f"{layer} is a {__name__}.Squashed")
    ints = nnx.Linear(model.num_features, 7, rngs=nnx.Rngs(0))
    ints.bias.set_value(ints.bias[...].astype(int))
    refused(ints, f"{layer}.bias (int32)")
    linear = nnx.Linear(model.num_features, 8, rngs=nnx.Rngs(0))
    refused(nnx.Sequential(linear, nnx.relu), f"{layer}.layers.0.weight (8, {model.num_features})", f"{layer}.weight (")
    refused(nnx.Linear(model.num_features, 7, use_bias=False, rngs=nnx.Rngs(0)), f"it lacks {layer}.bias (7,)")
    refused(nnx.BatchNorm(8, rngs=nnx.Rngs(0)), f"{layer}.mean (BatchStat)")
    refused(nnx.LoRALinear(model.num_features, 7, lora_rank=2, rngs=nnx.Rngs(0)), "lora_a")
    if layer == "head.fc":
        model.head = linear
        with pytest.raises(ValueError, match=r"head is a Linear; replace head\.fc alone"):
            nfjax.save(model, tmp_path / "refused")
    else:
        model.head = linear
        model.fc_norm = nnx.LayerNorm(model.num_features, epsilon=1e-2, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"fc_norm is a flax.*LayerNorm"):
            nfjax.save(model, tmp_path / "refused")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_nfnet", {}),
        ("test_vit2", {"img_size": 64}),
        ("test_vit3", {"img_size": 64, "depth": 2}),
        ("vit_medium_patch16_rope_reg1_gap_256", {"img_size": 64, "depth": 1, "num_reg_tokens": 2}),
    ],
    ids=str,
)
def test_we_load_what_timm_saves(name, options, tmp_path):
    theirs = oracle.build(name, oracle.random_state(oracle.shapes(name, **options)), **options)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = nfjax.load(f"local-dir:{tmp_path}")
    assert relative(logits(ours, X), torch_logits(theirs, X)) <= 1e-5
    ours_config = json.loads((nfjax.save(ours, tmp_path / "ours") / "config.json").read_text())
    theirs_config = json.loads((tmp_path / "config.json").read_text())
    for key in ("architecture", "num_classes", "num_features", "global_pool"):
        assert ours_config[key] == theirs_config[key]
    for key, value in ours_config["pretrained_cfg"].items():
        if key != "input_size":  # timm keeps the published one for a model of dynamic size
            assert value == theirs_config["pretrained_cfg"].get(key), key


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pth.tar", ".pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_pickled_state_dicts(state, suffix, prefix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    torch.save({prefix + k: torch.from_numpy(v) for k, v in state.items()}, file)
    assert_same(port.read_weights(file), state)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "state_dict", "model"])
def test_training_checkpoints(state, key, tmp_path):
    """The wrapped weights are found, averaged ones first, beside an optimiser and timm's arguments."""
    import argparse

    tensors = {f"module.{k}": torch.from_numpy(v) for k, v in state.items()}
    other = {k: torch.zeros_like(v) for k, v in tensors.items()}
    order = ["state_dict_ema", "model_ema", "state_dict", "model"]
    checkpoint = {k: tensors if k == key else other for k in order[order.index(key) :]}
    checkpoint |= {"epoch": 3, "arch": "test_nfnet", "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    assert_same(port.read_weights(tmp_path / "checkpoint.pth.tar"), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_half_precision_files(state, dtype, suffix, tmp_path):
    from safetensors.torch import save_file

    half = {k: torch.from_numpy(v).to(dtype) for k, v in state.items()}
    file = tmp_path / f"half{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(half, file)
    model = nfjax.load("test_nfnet", weights=file)
    for key, array in nfjax.state_dict(model).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, half[key].float().numpy())
    read = port.read_weights(file)
    back = port.to_timm(port.to_flax(read))
    assert all(back[k].dtype == read[k].dtype and back[k].tobytes() == read[k].tobytes() for k in read)


def test_convert_and_export_commands(state, tmp_path, capsys):
    from port.__main__ import main

    torch.save({"state_dict": {k: torch.from_numpy(v) for k, v in state.items()}}, tmp_path / "a.pth")
    flax = str(tmp_path / "flax.safetensors")
    assert main(["convert", str(tmp_path / "a.pth"), flax, "--model", "test_nfnet"]) == 0
    from safetensors.numpy import load_file

    assert load_file(flax)["stages/0/0/conv2/kernel"].shape == (3, 3, 8, 8)
    assert main(["export", flax, str(tmp_path / "plain.safetensors")]) == 0
    assert_same(load_file(tmp_path / "plain.safetensors"), state)
    assert main(["export", flax, str(tmp_path / "folder"), "--model", "test_nfnet"]) == 0
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    assert_same({k: v.numpy() for k, v in theirs.state_dict().items()}, state)
    assert "383,080 parameters" in capsys.readouterr().out
    assert main(["convert", flax, str(tmp_path / "b.safetensors"), "--model", "nfnet_l0"]) == 2
    assert not (tmp_path / "b.safetensors").exists()
    assert "missing" in capsys.readouterr().err


def test_commands_take_any_width_and_name_their_files(tmp_path, capsys):
    from port.__main__ import main

    nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=10, in_chans=1), tmp_path / "ten")
    assert main(["export", str(tmp_path / "ten"), str(tmp_path / "again"), "--model", "test_nfnet"]) == 0
    assert nfjax.load(f"local-dir:{tmp_path / 'again'}").in_chans == 1
    # A folder as --model: its config, and so its preprocessing and labels, go with the weights.
    config = json.loads((tmp_path / "ten" / "config.json").read_text())
    config["label_names"] = [f"digit {i}" for i in range(10)]
    (tmp_path / "ten" / "config.json").write_text(json.dumps(config))
    assert main(["convert", str(tmp_path / "ten"), str(tmp_path / "labelled"), "--model", str(tmp_path / "ten")]) == 0
    assert nfjax.load(tmp_path / "labelled").data_config.label_names == tuple(config["label_names"])
    assert main(["export", str(tmp_path / "ten"), str(tmp_path / "folder")]) == 2
    assert "expected a file name ending in .safetensors" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "none.pth"), str(tmp_path / "a.safetensors")]) == 2
    assert "no such file" in capsys.readouterr().err


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].tobytes() == value.tobytes(), key
