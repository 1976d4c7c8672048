# %% [markdown]
# # What a network sees
#
# Feature maps of a convolutional network, attention maps and embeddings of a transformer. Weights here are fresh, so
# that nothing is downloaded; leave out `weights=None` for the published ones. Needs `pip install 'nfjax[train,cli]'`.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import nfjax

photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # a temple and a flower

# %% [markdown]
# ## Feature maps
#
# `features_only=True` returns a list of NHWC maps; `feature_info` knows their names and strides.

# %%
backbone = nfjax.load("test_nfnet", weights=None, features_only=True)
x = nfjax.create_transform(backbone)(photos[0])[None]
maps = jax.jit(backbone)(x)
figure, axes = plt.subplots(1, len(maps), figsize=(12, 3))
for axis, level, feature_map in zip(axes, backbone.feature_info, maps, strict=True):
    print(level.module, level.reduction, feature_map.shape)
    axis.imshow(np.abs(feature_map[0]).mean(-1))
    axis.set_title(level.module)
plt.show()

# %% [markdown]
# ## Attention
#
# `attention_maps` gives who attends to whom, by block and head; class token and registers come before the patches.

# %%
vit = nfjax.load("test_vit2", weights=None, img_size=(160, 240))
transform = nfjax.create_transform(vit)
images = transform.batch(photos)
(last,) = jax.jit(lambda x: vit.attention_maps(x, 1))(images)
print(last.shape)  # (images, heads, tokens, tokens)
prefix = vit.num_prefix_tokens
attended = np.asarray(last)[:, :, prefix:, prefix:].mean((1, 2)).reshape(2, *vit.grid_size)
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for axis, grid in zip(axes, attended, strict=True):
    axis.imshow(grid)
plt.show()

# %% [markdown]
# ## Embeddings
#
# With `num_classes=0` a call returns the pooled features. Similar pictures have similar ones, even with another crop.

# %%
embed = jax.jit(nfjax.load("test_vit2", weights=nfjax.state_dict(vit), num_classes=0, img_size=(160, 240)))
crops = [photo.crop((40, 20, 600, 400)) for photo in photos]
embeddings = np.asarray(embed(transform.batch([*photos, *crops])))
embeddings = embeddings - embeddings.mean(0)
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
similarity = embeddings @ embeddings.T
print(similarity.round(2))
assert similarity[0, 2] > similarity[0, 3]
assert similarity[1, 3] > similarity[1, 2]
