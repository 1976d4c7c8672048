"""The models of the docs with fewer blocks: the same names, widths and calls, a third of the programs to compile."""

import contextlib
import dataclasses
from collections.abc import Iterator
from unittest import mock

from nfjax.models import registry

DEPTHS = {
    "eca_nfnet_l0": {"depths": (1, 1, 1, 1)},
    "nfnet_l0": {"depths": (1, 1, 1, 1)},
    "vit_medium_patch16_reg4_gap_256": {"depth": 2},
}


@contextlib.contextmanager
def shallow() -> Iterator[None]:
    """In this process, those names mean the shallow models."""
    entries = {name: registry.MODELS[name] for name in DEPTHS}
    for name, depths in DEPTHS.items():
        entries[name] = dataclasses.replace(entries[name], config=dataclasses.replace(entries[name].config, **depths))
    with mock.patch.dict(registry.MODELS, entries):
        yield
