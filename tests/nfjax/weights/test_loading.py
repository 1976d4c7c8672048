"""`nfjax.load`, names and configs: what a user types, and what is said when it is wrong."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nfjax
import port
from nfjax.weights.names import resolve
from nfjax.weights.planning import LoadOptions, make_plan

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3)), jnp.float32)


def shape(model, x=X):
    """Of the output, by tracing alone."""
    return jax.eval_shape(model, x).shape


@pytest.fixture(scope="module")
def model():
    return nfjax.load("test_nfnet", weights=None)


@pytest.fixture(scope="module")
def state(model):
    return nfjax.state_dict(model)


def test_fresh_models_depend_on_the_seed_alone(model):
    same, other = (nfjax.state_dict(nfjax.load("test_nfnet", weights=None, seed=s)) for s in (0, 1))
    mine = nfjax.state_dict(model)
    assert all(mine[k].tobytes() == same[k].tobytes() for k in mine)
    assert (mine["stem.conv1.weight"] != other["stem.conv1.weight"]).all()
    assert (mine["stages.0.0.conv1.weight"].ravel()[:64] != mine["stages.1.0.conv1.weight"].ravel()[:64]).any()


def test_another_class_count_keeps_the_backbone_and_says_so(state, caplog):
    with caplog.at_level(logging.WARNING, "nfjax"):
        ten = nfjax.load("test_nfnet", weights=state, num_classes=10)
    assert "have 1000 classes and the model 10, so its classifier is fresh" in caplog.text
    assert shape(ten) == (2, 10)
    mine = nfjax.state_dict(ten)
    assert all(mine[k].tobytes() == state[k].tobytes() for k in state if not k.startswith("head.fc"))
    assert mine["head.fc.weight"].std() == pytest.approx(0.01, rel=0.1)
    # Weights with ten classes are a ten-class model, and that is said.
    again = nfjax.load("test_nfnet", weights=mine)
    assert (again.num_classes, again.data_config.num_classes) == (10, 10)
    assert "have 10 classes, not 1000; so has the model" in caplog.text
    caplog.clear()
    none = nfjax.load("test_nfnet", weights=mine, num_classes=0)
    assert shape(none) == (2, none.num_features)
    assert not caplog.text


def test_weights_without_a_classifier(state):
    headless = {k: v for k, v in state.items() if not k.startswith("head.fc")}
    with pytest.raises(ValueError, match=r"2 missing"):
        nfjax.load("test_nfnet", weights=headless)
    assert shape(nfjax.load("test_nfnet", weights=headless, num_classes=7)) == (2, 7)
    assert shape(nfjax.load("test_nfnet", weights=headless, num_classes=0)) == (2, 192)


def test_dtypes(state, x64):
    half = nfjax.load("test_nfnet", weights=state, dtype=jnp.bfloat16)
    full = nfjax.load("test_nfnet", weights=state)
    assert jax.eval_shape(half.forward_features, X).dtype == jnp.bfloat16
    ours, reference = jax.jit(half)(X), jax.jit(full)(X)
    assert ours.dtype == jnp.float32
    assert half.stem.conv1.kernel[...].dtype == jnp.float32
    assert 0 < np.abs(ours - reference).max() < 0.03 * np.abs(reference).max()
    double = nfjax.load("test_nfnet", weights=state, dtype="float64")
    assert jax.eval_shape(double, X).dtype == jnp.float64


def test_input_channels_are_what_was_asked_for(state):
    """Weights for another number of channels are adapted when asked, and refused otherwise."""
    grey = nfjax.state_dict(nfjax.load("test_nfnet", weights=state, in_chans=1))
    assert nfjax.load("test_nfnet", weights=grey, in_chans=1).data_config.input_size == (1, 160, 160)
    for options in ({}, {"in_chans": 3}, {"in_chans": 5}):
        with pytest.raises(ValueError, match=r"stem\.conv1\.weight: found \(16, 1, 3, 3\), expected"):
            nfjax.load("test_nfnet", weights=grey, **options)


def test_contexts_of_the_caller_hold(state, x64):
    """float64 and the default device are settings of the caller's thread; loading uses others."""
    assert nfjax.load("test_nfnet", weights=state, dtype="float64").stem.conv1.kernel[...].dtype == jnp.float64
    with jax.default_device(jax.devices("cpu")[-1]):
        model = nfjax.load("test_nfnet", weights=state)
    assert model.stem.conv1.kernel[...].devices() == {jax.devices("cpu")[-1]}


def test_integers_are_no_weights(state):
    with pytest.raises(ValueError, match=r"not floating point: final_conv\.bias \(int8\)"):
        nfjax.load("test_nfnet", weights=state | {"final_conv.bias": np.zeros(192, np.int8)})


def test_label_names_stay_with_the_classifier(state, tmp_path):
    config = {"architecture": "test_nfnet", "label_names": {"1": "b", "0": "a"}, "num_classes": 2, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    two = nfjax.load(f"local-dir:{tmp_path}", weights=None)
    assert (two.num_classes, two.data_config.label_names) == (2, ("a", "b"))
    hash(two.data_config)
    assert json.loads((nfjax.save(two, tmp_path / "saved") / "config.json").read_text())["label_names"] == ["a", "b"]
    assert nfjax.load(f"local-dir:{tmp_path}", weights=None, num_classes=3).data_config.label_names is None


def test_image_size_goes_into_the_data_config(state):
    assert nfjax.load("test_nfnet", weights=state, img_size=96).data_config.input_size == (3, 96, 96)
    assert nfjax.load("test_nfnet", weights=state, img_size=(96, 64)).data_config.input_size == (3, 96, 64)


def test_list_models():
    assert nfjax.list_models("eca_nfnet*") == [f"eca_nfnet_l{i}" for i in range(4)]
    assert nfjax.list_models("nf_resnet*") == ["nf_resnet26", "nf_resnet50", "nf_resnet101"]  # natural order
    assert nfjax.list_models("eca*", pretrained=True)[0] == "eca_nfnet_l0.ra2_in1k"
    assert nfjax.list_models("*.dm_in1k", pretrained=True) == [f"dm_nfnet_f{i}.dm_in1k" for i in range(7)]
    assert nfjax.list_models("nothing*") == []


def test_data_config():
    config = nfjax.data_config("eca_nfnet_l0")
    assert config == nfjax.data_config("eca_nfnet_l0.ra2_in1k")
    assert (config.tag, config.test_input_size, config.test_crop_pct) == ("ra2_in1k", (3, 288, 288), 1.0)
    assert config.hf_hub_id == "timm/eca_nfnet_l0.ra2_in1k"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eca_nfnet_10", "did you mean eca_nfnet_l1 or"),
        ("resnet_of_dreams_xxl", "nfjax.list_models"),
        ("eca_nfnet_l0.ra9", r"known: eca_nfnet_l0\.ra2_in1k"),
        ("nfnet_f0.in1k", "none: use the plain name"),
        ("timm/eca_nfnet_l0", "'hf-hub:timm/eca_nfnet_l0'"),
        ("s3:bucket", "expected hf-hub: or local-dir:"),
    ],
)
def test_unknown_names(name, said):
    with pytest.raises(nfjax.UnknownModelError, match=said):
        nfjax.load(name)


def test_names_without_weights():
    with pytest.raises(ValueError, match=r"no weights were published for nfnet_f0;.*dm_nfnet_f0\.dm_in1k"):
        nfjax.load("nfnet_f0")


def test_folders_need_no_scheme(state, tmp_path, monkeypatch, caplog):
    nfjax.save(nfjax.load("test_nfnet", weights=state, num_classes=7), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", tmp_path / "mine", Path("mine"), "local-dir:mine", "local_dir:mine"):
        assert nfjax.load(name).num_classes == 7
        assert nfjax.create_transform(name).size == (160, 160)
    (tmp_path / "mine").rename("test_nfnet")
    with caplog.at_level(logging.WARNING, "nfjax"):
        assert nfjax.load("test_nfnet", weights=None).num_classes == 1000
    assert "write './test_nfnet' for the folder of that name" in caplog.text
    assert nfjax.load("./test_nfnet").num_classes == nfjax.load(Path("test_nfnet")).num_classes == 7
    (tmp_path / "test_nfnet").rename("test_nfnet.mine")  # no tag of the known model
    assert nfjax.load("test_nfnet.mine").num_classes == 7
    with pytest.raises(nfjax.UnknownModelError, match="no weights tagged 'other'"):
        nfjax.load("test_nfnet.other")


def test_a_run_means_its_final_model(state, tmp_path):
    run = tmp_path / "run"
    nfjax.save(nfjax.load("test_nfnet", weights=state, num_classes=7), run / "final")
    (run / "checkpoints").mkdir()
    (run / "config.json").write_text('{"model": {"name": "test_nfnet"}}')
    assert nfjax.load(run).num_classes == nfjax.load(f"local-dir:{run}").num_classes == 7
    assert resolve(run).location == run / "final"
    shutil.rmtree(run / "final")
    with pytest.raises(FileNotFoundError, match="is a run without a final model"):
        nfjax.load(str(run))
    (run / "checkpoints" / "20").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is a checkpoint of a run, .*`nfjax average .*run --steps 20`"):
        nfjax.load(run / "checkpoints" / "20")


def shapes_of(state):
    return {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in state.items()}


def test_a_plan_needs_no_weights(state):
    """What is built, and what becomes of the classifier, the first convolution and the position embedding."""
    source, shapes = resolve("test_nfnet"), shapes_of(state)
    plan = make_plan(source, LoadOptions(), shapes)
    assert (plan.data, plan.fresh_classifier, plan.adapts_in_chans, plan.notes) == (source.data, False, False, ())
    plan = make_plan(source, LoadOptions(num_classes=10, in_chans=1, img_size=96), shapes)
    assert (plan.data.input_size, plan.data.num_classes) == ((1, 96, 96), 10)
    assert (plan.fresh_classifier, plan.adapts_in_chans, plan.weights_size) == (True, True, None)
    assert "its classifier is fresh" in plan.notes[0]
    assert plan.build().in_chans == 1
    with pytest.raises(ValueError, match="did you mean depths"):
        make_plan(source, LoadOptions(options={"depht": 1}))
    vit = resolve("test_vit2")
    shapes = shapes_of(nfjax.state_dict(nfjax.load("test_vit2", weights=None)))
    assert make_plan(vit, LoadOptions(img_size=160), shapes).weights_size is None
    resampled = make_plan(vit, LoadOptions(img_size=96), shapes)
    assert (resampled.weights_size, resampled.notes) == ((160, 160), ())


def test_local_dir_errors(tmp_path, state):
    for nowhere in ("./nowhere", "../nowhere/", "~/nowhere", str(tmp_path / "nowhere"), Path("nowhere")):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
            nfjax.load(nowhere)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        nfjax.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{]")
    with pytest.raises(ValueError, match="is not JSON"):
        nfjax.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="names no architecture"):
        nfjax.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {}}')
    with pytest.raises(nfjax.UnknownModelError, match="'resnet18', which nfjax does not have"):
        nfjax.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "test_nfnet", "model_args": {"drop_block_rate": 0.1}}')
    with pytest.raises(ValueError, match="model_args drop_block_rate, which nfjax cannot follow"):
        nfjax.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "test_nfnet", "pretrained_cfg": {}}')
    with pytest.raises(FileNotFoundError, match="no weights in"):
        nfjax.load(f"local-dir:{tmp_path}")
    assert nfjax.load(f"local-dir:{tmp_path}", weights=state).num_classes == 1000


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 4},
        {"global_pool": "median"},
        {"num_classes": -1},
        {"in_chans": 0},
        {"in_chans_mode": "x", "in_chans": 1},
        {"drop_rate": 2.0},
        {"drop_path_rate": -1.0},
        {"img_size": (160, 160, 3)},
    ],
    ids=str,
)
def test_options_that_make_no_sense(options, state):
    (option,) = [k for k in options if k != "in_chans" or len(options) == 1]
    with pytest.raises(ValueError, match=f"{option}="):
        nfjax.load("test_nfnet", weights=state, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": "10"}, "num_classes='10'; expected a whole number or None."),
        ({"num_classes": 2.5}, "num_classes=2.5; expected a whole number or None."),
        ({"num_classes": True}, "num_classes=True; expected a whole number or None."),
        ({"in_chans": "3"}, "in_chans='3'; expected a whole number"),
        ({"img_size": 160.0}, "img_size=160.0; expected a whole number"),
        ({"img_size": (160, "160")}, "img_size=\\(160, '160'\\); expected"),
        ({"img_size": (160, 160, 3)}, "img_size=\\(160, 160, 3\\); expected one number, or height and width"),
        ({"drop_rate": "0.5"}, "drop_rate='0.5'; expected a number."),
        ({"drop_rate": 2.0}, "drop_rate=2.0; expected at least 0 and less than 1."),
        ({"features_only": "yes"}, "features_only='yes'; expected True or False."),
        ({"features_only": True, "out_indices": "1"}, "out_indices='1'; expected a whole number or several"),
        ({"dtype": "int8"}, "dtype='int8'; expected floating point"),
        ({"dtype": None}, "dtype=None; expected floating point"),
        ({"seed": "0"}, "seed='0'; expected a whole number."),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"weights": "none"}, "weights='none' is text; fresh weights are weights=None."),
        ({"weights": True}, "weights=True; expected 'pretrained', None, the path"),
        pytest.param(
            {"weights": nnx.Linear(2, 2, rngs=nnx.Rngs(0))},
            r"weights=Linear\(.*\\n.*; expected 'pretrained'",
            id="a layer",
        ),
        ({"weights": SimpleNamespace(state_dict=dict)}, r"a mapping from names to arrays\. Pass its state_dict\(\)"),
        ({"weights": [1]}, "weights=\\[1\\]; expected 'pretrained', None, the path"),
        ({"pretrained": True}, "pretrained is timm's; here it is weights: "),
        ({"checkpoint_path": "x"}, "checkpoint_path is timm's; here it is weights=PATH"),
        ({"global_pool": 3}, "global_pool=3; expected text"),
        ({"alpha": "0.2"}, "alpha='0.2'; expected a number."),
        ({"depths": 3}, "depths=3; expected several of them, each a whole number."),
        ({"extra_conv": 1}, "extra_conv=1; expected True or False."),
    ],
    ids=str,
)
def test_a_wrong_type_is_one_sentence_before_anything_is_fetched(options, said, monkeypatch):
    monkeypatch.setattr("port.hub.fetch_weights", lambda *_: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=said):
        nfjax.load("test_nfnet", **options)


def test_the_name_of_a_model_is_text():
    with pytest.raises(ValueError, match="name=5; expected the name of a model, or the path of a folder"):
        nfjax.load(5)


def test_numbers_of_numpy_are_numbers():
    numbers = {"num_classes": np.int64(3), "drop_rate": np.float32(0.5), "img_size": np.array([64, 96])}
    model = nfjax.load("test_nfnet", None, **numbers)
    assert model.num_classes == 3
    assert model.data_config.input_size == (3, 64, 96)


def test_several_patterns():
    assert nfjax.list_models(["eca_nfnet_l0", "nfnet_l0"]) == ["eca_nfnet_l0", "nfnet_l0"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16], ids=lambda d: np.dtype(d).name)
def test_numbers_that_are_not_finite(state, dtype, caplog):
    """They are counted by array, in the dtype that the parameters get; they can be refused."""
    odd = {name: array.astype(dtype) for name, array in state.items()}
    odd["head.fc.weight"][0, :2] = np.nan
    odd["stem.conv1.bias"][3] = -np.inf
    count = 3
    if dtype == np.float64:
        odd["head.fc.bias"][5] = 1e300  # too large for float32
        count = 4
    with caplog.at_level(logging.WARNING, "nfjax"):
        model = nfjax.load("test_nfnet", odd)
    assert f"the given mapping: {count} numbers in {count - 1} arrays are not finite: " in caplog.text
    assert "head.fc.weight (2)" in caplog.text
    assert "stem.conv1.bias (1)" in caplog.text
    assert np.isnan(nfjax.state_dict(model)["head.fc.weight"][0, 0])
    with pytest.raises(port.WeightsError, match=rf"{count} numbers in {count - 1} arrays are not finite"):
        nfjax.load("test_nfnet", odd, strict_finite=True)


def test_weights_that_are_finite(state, caplog):
    """Large numbers are; and what the model does not take from the weights is not looked at."""
    fine = dict(state)
    fine["stem.conv1.weight"] = np.full_like(state["stem.conv1.weight"], 3e38)
    fine["head.fc.weight"] = np.full_like(state["head.fc.weight"], np.nan)
    with caplog.at_level(logging.WARNING, "nfjax"):
        nfjax.load("test_nfnet", fine, num_classes=0, strict_finite=True)
    assert "finite" not in caplog.text
    with pytest.raises(ValueError, match="strict_finite"):
        nfjax.load("test_nfnet", fine, strict_finite="yes")
