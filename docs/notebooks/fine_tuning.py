# %% [markdown]
# # Fine-tuning, step by step
#
# What `nfjax train` does, in forty lines: a network that knows some digits learns the others. It runs in a
# minute on two CPU cores. Needs `pip install 'nfjax[train]'`.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nfjax
from nfjax.params import merge, split
from train.config import Data, Optim
from train.data import load_dataset, test_batches
from train.optim.optimizer import make_optimizer
from train.optim.parameters import treatments

data = load_dataset(Data(name="digits", image_size=32))  # 8x8 scans of handwriting, resized


def arrays(split):
    batch = next(test_batches(split, Data(), len(split)))  # all images in one batch
    return batch["image"], batch["label"]


(images, labels), test = arrays(data.train), arrays(data.test)
print(images.shape, labels.shape)

# %% [markdown]
# A model is split into its definition and a flat dict of parameters, whose paths mirror timm's names. The step is a
# pure function of the parameters; a PRNG key makes it train, with dropout and stochastic depth.


# %%
def train(model, images, labels, epochs, lr, batch_size=50):
    """SGD with timm's adaptive gradient clipping; the trained parameters."""
    graphdef, params = split(model)
    steps = epochs * (len(labels) // batch_size)
    optim = Optim("sgd", clip_mode="agc", clip_grad=0.015)
    tx = make_optimizer(optim, treatments(optim, params))
    schedule = optax.cosine_decay_schedule(lr, steps)

    @jax.jit
    def step(params, state, x, y, i):
        def loss(params):
            logits = merge(graphdef, params)(x, key=jax.random.key(i))
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, learning_rate=schedule(i))
        return optax.apply_updates(params, updates), state, value

    rng, state = np.random.default_rng(0), tx.init(params)
    for i in range(steps):
        batch = rng.integers(0, len(labels), batch_size)
        x, y = (images[batch] / 127.5 - 1).astype("float32"), labels[batch]
        params, state, value = step(params, state, x, y, i)
    print(f"{steps} steps, last loss {value:.3f}")
    return merge(graphdef, params)


def accuracy(model, images, labels):
    logits = jax.jit(model)(jnp.asarray(images / 127.5 - 1, jnp.float32))
    return float((logits.argmax(-1) == labels).mean())


# %% [markdown]
# First a network for the digits 0 to 4, from fresh weights; `nfjax.save` writes what the hub would hold. (With access
# to the hub you would start from `nfjax.load("eca_nfnet_l0")`.)

# %%
known = labels < 5
base = nfjax.load("test_nfnet", weights=None, num_classes=5, in_chans=1, img_size=32)
base = train(base, images[known], labels[known], epochs=6, lr=0.1)
nfjax.save(base, "digits_0_to_4")

# %% [markdown]
# Then all ten. Another number of classes keeps the backbone and makes a fresh classifier, and says so. For comparison
# the same few epochs from fresh weights.

# %%
tuned = nfjax.load("local-dir:digits_0_to_4", num_classes=10)
tuned = train(tuned, images, labels, epochs=3, lr=0.05)
fresh = nfjax.load("test_nfnet", weights=None, num_classes=10, in_chans=1, img_size=32)
fresh = train(fresh, images, labels, epochs=3, lr=0.05)
results = {name: accuracy(m, *test) for name, m in {"tuned": tuned, "fresh": fresh}.items()}
print(results)
assert results["tuned"] > max(results["fresh"], 0.9)

# %% [markdown]
# And back to PyTorch: `timm.create_model("local-dir:digits", pretrained=True)` loads this folder, strictly.

# %%
folder = nfjax.save(tuned, "digits")
print(sorted(file.name for file in folder.iterdir()))
