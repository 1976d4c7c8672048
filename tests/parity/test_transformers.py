"""Hugging Face transformers with random weights: read by nfjax, and what nfjax writes read by it."""

import json

import jax
import numpy as np
import pytest
import torch

import nfjax
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import images, logits, nchw
from tests.helpers.layouts import random_numbers

timm = oracle.timm()  # before transformers, which needs what this cures

transformers = pytest.importorskip("transformers")
BOUNDS = {"float32": 1e-5, "float64": 1e-12}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
NAMES = ("cat", "dog", "eel")


@pytest.fixture(params=BOUNDS)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def randomised(model, dtype):
    """The model with every parameter random."""
    state = random_numbers({name: tuple(p.shape) for name, p in model.state_dict().items()}, 3, dtype)
    model = model.to(getattr(torch, dtype)).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=True)
    return model


def output(model, x):
    """Logits, or what a backbone says of an image."""
    with torch.inference_mode():
        found = model(nchw(x))
    return (found.logits if hasattr(found, "logits") else found.pooler_output).numpy()


def strictly(path, dtype, classifier):
    """What AutoModel makes of a folder, to which nothing is missing, and of which nothing is left."""
    auto = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
    model, told = auto.from_pretrained(path, output_loading_info=True, dtype=getattr(torch, dtype))
    assert not [what for what, keys in told.items() if keys]
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"use_swiglu_ffn": True, "qkv_bias": False, "num_register_tokens": 1}])
@pytest.mark.parametrize("classifier", [False, True])
def test_dinov2(classifier, options, dtype, tmp_path):
    labels = {"id2label": dict(enumerate(NAMES))} if classifier else {}
    config = transformers.Dinov2WithRegistersConfig(**SHAPE, **options, **labels)
    of_head = transformers.Dinov2WithRegistersForImageClassification
    theirs = randomised((of_head if classifier else transformers.Dinov2WithRegistersModel)(config), dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = nfjax.load(tmp_path / "theirs", dtype=dtype)
    x = images((28, 28), dtype=dtype)
    assert relative(logits(ours, x), output(theirs, x)) <= BOUNDS[dtype]
    assert (ours.num_classes, ours.data_config.label_names) == ((3, NAMES) if classifier else (0, None))

    # Another form of the same: the names that the library has in memory.
    asked = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 28, "qkv_bias": ours.config.qkv_bias}
    asked |= {"mlp_ratio": ours.config.mlp_ratio, "mlp_layer": ours.config.mlp_layer}
    asked |= {"reg_tokens": ours.config.reg_tokens, "dtype": dtype}
    again = nfjax.load("vit_small_patch14_reg4_dinov2", theirs.state_dict(), **asked)
    expected = nfjax.state_dict(ours)
    assert all(np.array_equal(array, expected[name]) for name, array in nfjax.state_dict(again).items())

    nfjax.save(ours, tmp_path / "ours", layout="transformers")
    back = strictly(tmp_path / "ours", dtype, classifier)
    assert type(back) is type(theirs)
    assert relative(output(back, x), output(theirs, x)) <= BOUNDS[dtype]
    assert not classifier or back.config.id2label == dict(enumerate(NAMES))
    once_more = nfjax.load(tmp_path / "ours", dtype=dtype)
    assert all(np.array_equal(array, expected[name]) for name, array in nfjax.state_dict(once_more).items())
    assert once_more.data_config.label_names == ours.data_config.label_names


SHAPE3 = SHAPE | {"image_size": 32, "patch_size": 16, "num_register_tokens": 3, "intermediate_size": 72}
GATED = {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False}


@pytest.mark.parametrize("options", [{"rope_theta": 50.0}, GATED], ids=["plain", "gated"])
def test_dinov3(options, dtype, tmp_path):
    theirs = randomised(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SHAPE3, **options)), dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = nfjax.load(tmp_path / "theirs", dtype=dtype)
    assert (ours.global_pool, ours.config.rope_rescale_coords) == ("token", 2.0)
    x = images((32, 48), dtype=dtype)

    def exactly(model):
        """transformers makes its table in float32."""
        table = torch.from_numpy(ours.rope_table((2, 3)))
        if dtype == "float64":
            model.rope_embeddings.forward = lambda _: (table[1], table[0])
        return output(model, x)

    assert relative(logits(ours, x), exactly(theirs)) <= BOUNDS[dtype]
    in_memory = nfjax.load("vit_small_patch16_dinov3", theirs.state_dict(), dtype=dtype, **ours_options(ours))
    expected = nfjax.state_dict(ours)
    assert all(np.array_equal(array, expected[name]) for name, array in nfjax.state_dict(in_memory).items())

    nfjax.save(ours, tmp_path / "ours", layout="transformers")
    back = strictly(tmp_path / "ours", dtype, classifier=False)
    assert type(back) is type(theirs)
    assert relative(exactly(back), exactly(theirs)) <= BOUNDS[dtype]
    wanted, found = theirs.config.to_dict(), back.config.to_dict()
    changed = {name for name in wanted if wanted[name] != found[name]}
    assert changed <= {"_name_or_path", "transformers_version", "dtype"}
    once_more = nfjax.load(tmp_path / "ours", dtype=dtype)
    assert once_more.config == ours.config
    ours.reset_classifier(0, "avg")  # which is no class of transformers
    nfjax.save(ours, tmp_path / "wrapped", layout="transformers")
    assert json.loads((tmp_path / "wrapped/config.json").read_text())["model_type"] == "timm_wrapper"


def ours_options(model):
    """What makes another architecture this one."""
    names = ("depth", "embed_dim", "num_heads", "reg_tokens", "mlp_ratio", "swiglu_mlp", "swiglu_align_to", "qkv_bias")
    return {name: getattr(model.config, name) for name in names} | {"img_size": 32}


@pytest.mark.parametrize(("name", "classes"), [("test_vit2", 0), ("test_nfnet", 3)])
def test_timm_wrapper(name, classes, tmp_path):
    """A folder of the wrapper's own, and one that nfjax writes; labels with it."""
    own = {"depth": 1, "img_size": 32} if "vit" in name else {}
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=classes, model_args=own or None)
    if classes:
        config.id2label = dict(enumerate(NAMES))
    kind = "ForImageClassification" if classes else "Model"
    theirs = randomised(getattr(transformers, f"TimmWrapper{kind}")(config), "float32")
    theirs.save_pretrained(tmp_path / "theirs")
    x = images((32, 32), dtype="float32")
    ours = nfjax.load(tmp_path / "theirs")
    assert relative(logits(ours, x), output(theirs, x)) <= 1e-5
    assert ours.data_config.label_names == (NAMES if classes else None)

    nfjax.save(ours, tmp_path / "ours", layout="transformers")
    back = strictly(tmp_path / "ours", "float32", classes)
    assert relative(output(back, x), output(theirs, x)) <= 1e-5
    with jax.enable_x64(True):
        wide, y = nfjax.load(tmp_path / "theirs", dtype="float64"), x.astype("float64")
        assert relative(logits(wide, y), output(theirs.double(), y)) <= 1e-12
    expected = nfjax.state_dict(ours)
    again = nfjax.state_dict(nfjax.load(tmp_path / "ours"))
    assert all(np.array_equal(array, again[name]) for name, array in expected.items())


def test_labels_of_older_wrappers(tmp_path):
    """As transformers' other models have them: by index, in id2label."""
    model = nfjax.load("test_nfnet", None, num_classes=3)
    config = nfjax.save(model, tmp_path, layout="transformers") / "config.json"
    entries = json.loads(config.read_text())
    del entries["label_names"]
    config.write_text(json.dumps(entries | {"id2label": {str(i): name for i, name in enumerate(NAMES)}}))
    assert nfjax.load(tmp_path).data_config.label_names == NAMES
