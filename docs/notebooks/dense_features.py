# %% [markdown]
# # Dense features
#
# What a transformer knows about each patch of a photo: as colours, as similarities, and as a segmentation. Weights here
# are fresh and the model has three blocks, so that nothing is downloaded and all of it takes a minute; even so, patches
# that look alike come out alike. Leave out `weights=None, depth=3` for the published ones, which are under Meta's own
# licence (docs/dense_features.md). Needs `pip install 'nfjax[train,cli]'`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

import nfjax
from nfjax.dense import principal_colours, similarity

photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # a temple and a flower
model = nfjax.load("vit_small_patch16_dinov3", weights=None, depth=3)  # takes any multiple of 16 pixels
last = jax.jit(lambda x: model.get_intermediate_layers(x, reshape=True, norm=True)[0])


def patch_features(images, size):
    """Maps of `size / 16` of the last block, normalised: (images, rows, columns, 384)."""
    return np.asarray(last(nfjax.create_transform(model, img_size=size, crop_mode="squash").batch(images)))


# %% [markdown]
# ## At several sizes
#
# Three main components of all patches as red, green and blue: the larger the image, the finer the map.

# %%
sizes = [(160, 240), (320, 480), (640, 960)]
maps = {size: patch_features(photos, size) for size in sizes}
figure, axes = plt.subplots(2, 4, figsize=(10, 3.4), layout="constrained")
for photo, line in zip(photos, axes, strict=True):
    line[0].imshow(photo.resize((480, 320)))
for (size, pair), column in zip(maps.items(), axes.T[1:], strict=True):
    for axis, colours in zip(column, principal_colours(pair), strict=True):
        axis.imshow(colours, interpolation="nearest")
    column[0].set_title(f"{size[0]}x{size[1]}: {pair.shape[1]}x{pair.shape[2]} patches")
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## One patch and all others
#
# The cosine between the features of the patch at the cross and those of each patch. The mean of all features,
# which they share, goes first.

# %%
temple, flower = maps[320, 480] - maps[320, 480].mean((0, 1, 2))
asked = [(temple, 0, (3, 24)), (temple, 0, (10, 8)), (flower, 1, (9, 14)), (flower, 1, (9, 26))]
figure, axes = plt.subplots(1, 4, figsize=(10, 1.9), layout="constrained")
for axis, (features, photo, (row, column)) in zip(axes, asked, strict=True):
    axis.imshow(photos[photo].resize((480, 320)).convert("L"), cmap="gray", extent=(0, 30, 20, 0))
    shown = axis.imshow(
        similarity(features, row, column), cmap="inferno", vmin=-1, vmax=1, alpha=0.75, extent=(0, 30, 20, 0)
    )
    axis.plot(column + 0.5, row + 0.5, "x", color="cyan", markersize=9, markeredgewidth=2)
    axis.axis("off")
figure.colorbar(shown, ax=axes, shrink=0.9)
plt.show()

# %% [markdown]
# ## A linear segmentation head
#
# One linear layer from the features of a patch to its classes, enlarged to pixels; the model stays as it is. Sky and
# petals are marked by their colours, which does for two photos. The left halves teach, the right halves test.

# %%
HEIGHT, WIDTH = 320, 480


def marked(photo, rule):
    """1 where the rule holds for red, green and blue, without single pixels."""
    red, green, blue = np.moveaxis(np.asarray(photo.resize((WIDTH, HEIGHT)), int), -1, 0)
    mask = Image.fromarray(rule(red, green, blue).astype(np.uint8))
    return np.asarray(mask.filter(ImageFilter.MedianFilter(9)), int)


sky = marked(photos[0], lambda red, green, blue: (blue > 150) & (blue >= red) & (green > 140))
petals = marked(photos[1], lambda red, green, blue: (red > 120) & (red > blue + 20))
labels = jnp.asarray(np.stack([sky, 2 * petals]))  # 0 for all else
classes = ["else", "sky", "petals"]

features = jnp.asarray(maps[640, 960])
features = (features - features.mean((0, 1, 2))) / features.std((0, 1, 2))
head = {"kernel": jnp.zeros((features.shape[-1], 3)), "bias": jnp.zeros(3)}
optimizer = optax.adam(1e-3)


def logits(head, features):
    patches = features @ head["kernel"] + head["bias"]
    return jax.image.resize(patches, (2, HEIGHT, WIDTH, 3), "bilinear")


def loss(head, features, wanted):
    pixels = optax.softmax_cross_entropy(logits(head, features), wanted)
    return pixels[:, :, : WIDTH // 2].mean() + 1e-4 * jnp.sum(head["kernel"] ** 2)


@jax.jit
def train(head, features, wanted):
    def step(carry, _):
        head, state = carry
        value, gradient = jax.value_and_grad(loss)(head, features, wanted)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(head, updates), state), value

    (head, _), losses = jax.lax.scan(step, (head, optimizer.init(head)), length=200)
    return head, losses


head, losses = train(head, features, jax.nn.one_hot(labels, 3))
found = np.asarray(logits(head, features).argmax(-1))
right = np.s_[:, :, WIDTH // 2 :]
for index, name in enumerate(classes):
    ours, theirs = found[right] == index, np.asarray(labels[right]) == index
    print(f"{name:7} intersection over union {(ours & theirs).sum() / (ours | theirs).sum():.2f}")
accuracy = (found[right] == np.asarray(labels[right])).mean()
print(f"right halves: {accuracy:.1%} of the pixels")
assert accuracy > 0.9

# %%
figure, axes = plt.subplots(2, 3, figsize=(8, 3.6), layout="constrained")
for line, photo, truth, guess in zip(axes, photos, np.asarray(labels), found, strict=True):
    line[0].imshow(photo.resize((WIDTH, HEIGHT)))
    for axis, picture, title in ((line[1], truth, "by colour"), (line[2], guess, "linear head")):
        axis.imshow(picture, cmap="viridis", vmin=0, vmax=2, interpolation="nearest")
        axis.axvline(WIDTH // 2, color="white", linestyle="--")
        axis.set_title(title)
    for axis in line:
        axis.axis("off")
plt.show()
