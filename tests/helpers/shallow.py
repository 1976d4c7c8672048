"""Known models with fewer blocks: the same names, widths and calls, a third of the program to compile, or less."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

from nfjax.models import registry

DOCUMENTED = {
    "eca_nfnet_l0": {"depths": (1, 1, 1, 1)},
    "nfnet_l0": {"depths": (1, 1, 1, 1)},
    "vit_medium_patch16_reg4_gap_256": {"depth": 2},
}
# Those that pages train.
TRAINED = {
    "test_nfnet": {"channels": (16, 16, 32, 32), "stem_chs": 32, "extra_conv": False},
    "test_vit2": {"depth": 2},
}
# Those of docs/weights.md, of which files and repositories of others are read; and docs/dense_features.md.
ELSEWHERE = {
    "vit_small_patch14_reg4_dinov2": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_small_patch16_dinov3": {"depth": 1},
    "vit_base_patch16_224": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "dm_nfnet_f0": {
        "depths": (1, 1, 1, 1), "channels": (32, 64, 64, 64), "stem_chs": 16, "num_features": 64, "group_size": 8,
    },
}  # fmt: skip


@contextlib.contextmanager
def shallow(changes: dict[str, dict[str, Any]] = DOCUMENTED | TRAINED | ELSEWHERE) -> Iterator[None]:
    """In this process, those names mean models with such fields of their configs."""
    entries = {}
    for name, fields in changes.items():
        entry = registry.MODELS[name]
        entries[name] = dataclasses.replace(entry, config=dataclasses.replace(entry.config, **fields))
    with mock.patch.dict(registry.MODELS, entries):
        yield
