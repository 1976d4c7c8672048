"""Transformers for images of any size: what does not need timm to be known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax import naflex
from nfjax.params import named_params

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
RNG = np.random.default_rng(0)
IMAGES = [RNG.standard_normal((*size, 3)).astype("float32") for size in ((48, 96), (64, 32), (16, 16))]
PATCHES = naflex.patch_batch(IMAGES, 16, max_seq_len=20)


@pytest.fixture(scope="module")
def model():
    return nfjax.load("naflexvit_base_patch16_map", None, **SMALL)


def test_a_batch_of_several_sizes_is_each_image_alone(model):
    batch = model(PATCHES)
    for image, logits in zip(IMAGES, batch, strict=True):
        np.testing.assert_allclose(model(image[None])[0], logits, rtol=1e-4, atol=1e-5)
    features = model.forward_features(PATCHES)
    assert features["patches"].shape == (3, 1 + 20, 32)
    np.testing.assert_allclose(model.forward_head(features), batch, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nfjax.compile(model, PATCHES)(PATCHES | {"seq_len": 20}), batch, rtol=1e-4, atol=1e-5)
    assert model.forward_intermediates(PATCHES, intermediates_only=True)[0].shape == (3, 20, 32)
    weights = model.attention_maps(PATCHES)[0][2]  # of the image of one patch: nobody valid sees the padding
    assert weights.shape == (2, 21, 21)
    assert not np.any(weights[:, :2, 2:])


def test_only_valid_patches_matter(model):
    """Training too: the padding may hold anything, and gets no gradient."""
    spoilt = PATCHES | {"patches": np.where(PATCHES["patch_valid"][..., None], PATCHES["patches"], 7.0)}
    np.testing.assert_array_equal(model(spoilt), model(PATCHES))
    grad = jax.grad(lambda p: model(PATCHES | {"patches": p}).sum())(jnp.asarray(PATCHES["patches"]))
    assert not np.any(np.asarray(grad)[~PATCHES["patch_valid"]])
    assert np.all(np.any(np.asarray(grad)[PATCHES["patch_valid"]], axis=-1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"patches": PATCHES["patches"]}, "without patch_coord, patch_valid"),
        (PATCHES | {"mask": PATCHES["patch_valid"]}, "dictionary of .*mask; expected patches, patch_coord"),
        (PATCHES | {"patches": PATCHES["patches"][..., 1:]}, r"expected \(batch, count, 768\)"),
        (PATCHES | {"patch_valid": PATCHES["patch_valid"][:, 1:]}, r"patch_valid of shape \(3, 19\)"),
        (PATCHES | {"patch_valid": PATCHES["patch_valid"] * 1.0}, "patch_valid of dtype float32; expected bool"),
        (IMAGES[0][None, 1:], "takes multiples of 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_inputs_are_told(model, given, said):
    with pytest.raises(ValueError, match=said):
        model(given)


def test_other_models_take_no_dictionary():
    with pytest.raises(ValueError, match="this model takes an array"):
        nfjax.load("test_vit2", None, depth=1)(PATCHES)
    with pytest.raises(ValueError, match="images of one size"):
        naflex.create_transform("test_vit2")


def test_options():
    padded = nfjax.load("naflexvit_base_patch16_gap", None, **SMALL, dynamic_img_pad=True)
    image = np.pad(IMAGES[0][1:, 3:], [(0, 1), (0, 3), (0, 0)])
    np.testing.assert_array_equal(padded(IMAGES[0][None, 1:, 3:]), padded(image[None]))
    for option in ("no_embed_class", "norm_eps", "rope_type", "embed_proj_type"):
        with pytest.raises(ValueError, match=f"no option {option}"):
            nfjax.load("naflexvit_base_patch16_gap", None, **{option: 1})


def test_saved_and_loaded(tmp_path, model):
    """Its channels are those of a pixel, and the grid of the position embedding is that of the weights."""
    options = {"in_chans": 1, "pos_embed": "factorized", "pos_embed_grid_size": (3, 5), "global_pool": "avg"}
    saved = nfjax.load("naflexvit_base_patch16_map", None, **SMALL, **options)
    back = nfjax.load(nfjax.save(saved, tmp_path))
    assert (back.in_chans, back.config.pos_embed_grid_size, back.data_config.input_size) == (1, (3, 5), (1, 384, 384))
    weights = nfjax.state_dict(model)
    grey = nfjax.load("naflexvit_base_patch16_map", weights, **SMALL, in_chans=1)
    image = IMAGES[0][None, :, :, :1]
    np.testing.assert_allclose(grey(image), model(np.repeat(image, 3, -1)), rtol=1e-4, atol=1e-4)
    weights["embeds.pos_embed"] = weights["embeds.pos_embed"][:, :7]
    found = nfjax.load("naflexvit_base_patch16_map", weights, **SMALL)
    assert named_params(found)["embeds/pos_embed"].get_value().shape == (1, 7, 16, 32)


def test_images_become_patches(tmp_path):
    transform = naflex.create_transform("naflexvit_base_patch16_gap", max_seq_len=9)
    wide = Image.fromarray(RNG.integers(0, 256, (20, 90, 3), np.uint8))
    wide.save(tmp_path / "wide.png")
    batch = transform.batch([wide, tmp_path / "wide.png", wide.rotate(90, expand=True)])
    assert [batch[name].shape for name in ("patches", "patch_coord", "patch_valid")] == [(3, 9, 768), (3, 9, 2), (3, 9)]
    np.testing.assert_array_equal(batch["patches"][0], batch["patches"][1])
    assert batch["patch_coord"][:, :, 1].max(1).tolist() == [4, 4, 0]
    with pytest.raises(ValueError, match="18 patches; max_seq_len=4 has no room"):
        naflex.patch_batch(IMAGES, 16, max_seq_len=4)
    with pytest.raises(ValueError, match="found one"):
        transform.batch(wide)
