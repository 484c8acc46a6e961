"""What runs on images share, be their flow on pixels or on a backbone's maps."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core import datasets
from flowood_core.datasets import ImageSet
from flowood_core.runs.spec import Outliers, Spec

__all__ = ["Images", "complexity_facts", "fitting_images", "images", "tested"]

Load = Callable[[str, str], ImageSet]


@dataclasses.dataclass(frozen=True)
class Images:
    """Training and test images, and the pool of real outliers where a run has one; see `spec.Data`."""

    train: ImageSet
    test: dict[str, ImageSet]
    absent: list[str]
    pool: Tensor | None = None
    pool_facts: tuple[dict[str, object], ...] = ()

    def seen(self) -> dict[str, int]:
        trained = {image.tobytes() for x in (self.train.x, self.pool) if x is not None for image in x.numpy()}
        return {name: sum(i.tobytes() in trained for i in s.x.numpy()) for name, s in self.test.items()}

    def facts(self) -> list[dict[str, object]]:
        return [self.train.facts(), *[s.facts() for s in self.test.values()], *self.pool_facts]


def images(spec: Spec, load: Load) -> Images:
    """The sets of a spec. Training does not depend on test sets: one that is not here is named, not refused."""
    test, absent = {spec.id: tested(spec, load, spec.id)}, []
    for name in spec.tested:
        try:
            test[name] = tested(spec, load, name)
        except datasets.MissingData:
            absent.append(name)
    return Images(load(spec.id, "train").first(spec.n_train), test, absent)


def tested(spec: Spec, load: Load, name: str) -> ImageSet:
    """The test images of one set: the same for every run that draws as many."""
    return load(name, "test").drawn(spec.n_test, 0)


def fitting_images(spec: Spec, data: Images, outliers: Outliers) -> dict[str, Tensor]:
    """See `Spec.fitting`."""
    n = spec.n_test or 1000
    x, partner = (data.train.drawn(n, seed).x for seed in (1, 2))
    if len(data.train) <= n:  # the whole set both times: no image is its own partner
        partner = x.roll(1, 0)
    rng = torch.Generator().manual_seed(spec.seed)
    return {"train": x, "synthetic": outliers(x, partner, rng=rng)}


def complexity_facts(data: Images, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Mean and sd of C(x), bits per dimension, of every test set, and how many images were trained on."""
    complexity = {
        name: {
            "mean": float(arrays[name]["complexity"].mean()),
            "sd": float(arrays[name]["complexity"].std(ddof=1)),
            "n": len(arrays[name]["complexity"]),
        }
        for name in data.test
    }
    return {"complexity": complexity, "test_images_seen_in_training": data.seen()}
