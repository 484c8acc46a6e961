"""Runs on pixels, section 3.1: the flow takes the image itself."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from flowood_core import datasets, train
from flowood_core.datasets import ImageSet
from flowood_core.flow import Flow, densities, dequantise, image_flow
from flowood_core.outliers import image
from flowood_core.outliers.graded import ccm_graded
from flowood_core.outliers.simplify import ccm_simplify
from flowood_core.runs.images import Images, complexity_facts, fitting_images, images, tested
from flowood_core.runs.spec import Outliers, Spec, Training

__all__ = ["Pixels"]


class Pixels(Spec):
    """A flow on pixels.

    Args:
        squeeze: how often 2x2 pixels become channels before the blocks (A7).
        permute_soft: rotations between blocks instead of permutations (A8).
        blur_radius: of Gaussian outliers, in pixels. alpha: of CutMix and MixUp (A17). combine: A14.
        ro_pool, ro_share: sets that real outliers come from, and their number as a share of ID (A18).
        mutation: share of pixels replaced at random in ID images (the background flow of Ren et al.).
    """

    levels: ClassVar[int] = 256
    method: Literal["mle", "ro", "gaussian", "ccm", "ccm_gaussian", "ccm_simplify", "ccm_graded"]
    squeeze: pydantic.NonNegativeInt = 0
    permute_soft: bool = False
    blur_radius: float = pydantic.Field(1.0, ge=0)
    alpha: pydantic.PositiveFloat = 1.0
    combine: Literal["at_least_one", "always_both", "independent"] = "at_least_one"
    ro_pool: tuple[str, ...] = ()
    ro_share: float = 0.1
    mutation: float = pydantic.Field(0.0, ge=0, le=1)

    def data(self) -> Images:
        found = images(self, datasets.load)
        if self.mutation:
            rng = torch.Generator().manual_seed(self.seed)
            mutated = image.mutate(found.train.x, self.mutation, rng=rng)
            found = dataclasses.replace(found, train=dataclasses.replace(found.train, x=mutated))
        if self.method != "ro":
            return found
        try:
            sets = [datasets.load(name, "train") for name in self.ro_pool]
        except datasets.MissingData as error:
            raise datasets.MissingPool(
                f"real outliers of run {self.run_id} (row RO) come from {', '.join(self.ro_pool)}, which `ro_pool` in "
                f"profiles/{self.profile}.yaml may name otherwise: {error}"
            ) from error
        pool = datasets.mixed_pool(sets, round(self.ro_share * len(found.train)), seed=self.seed)
        return dataclasses.replace(found, pool=pool, pool_facts=tuple(s.facts() for s in sets))

    def test_set(self, name: str) -> ImageSet:
        return tested(self, datasets.load, name)

    def flow(self, shape: tuple[int, ...]) -> Flow:
        return image_flow(
            shape,
            squeeze=self.squeeze,
            blocks=self.blocks,
            hidden=self.hidden,
            permute_soft=self.permute_soft,
            seed=self.seed,
        )

    def outliers(self, data: Images, device: Any) -> Outliers | None:
        made = {
            "mle": lambda: None,
            "ro": lambda: image.real_outliers(data.pool.to(device)),
            "gaussian": lambda: functools.partial(image.gaussian, radius=self.blur_radius),
            "ccm": lambda: functools.partial(image.ccm, alpha=self.alpha),
            "ccm_gaussian": lambda: functools.partial(
                image.ccm_gaussian, radius=self.blur_radius, alpha=self.alpha, mode=self.combine
            ),
            "ccm_simplify": lambda: functools.partial(ccm_simplify, alpha=self.alpha, mode=self.combine),
            "ccm_graded": lambda: functools.partial(ccm_graded, alpha=self.alpha),
        }
        return made[self.method]()

    def ready(self, flow: Flow, x: Tensor, outliers: Outliers | None, settings: train.Settings) -> Training:
        if self.data_init:
            flow.initialise(dequantise(x[:512]))
        return Training(flow, flow, x, outliers, settings)

    def measure(self, flow: Flow, x: Tensor) -> dict[str, np.ndarray]:
        log_pz, log_px = densities(flow, x)
        return {"log_pz": log_pz, "log_px": log_px, "complexity": datasets.complexity_of(x).numpy()}

    def fitting(self, data: Images) -> dict[str, Tensor]:
        # mle and ro make no outliers of ID images; real ones are not for fitting scores
        made = None if self.method == "ro" else self.outliers(data, torch.device("cpu"))
        return fitting_images(self, data, made or image.ccm_gaussian)

    def facts(self, data: Images, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        return complexity_facts(data, arrays)

    def together_key(self) -> tuple[Any, ...] | None:
        if self.mutation:  # trains on images of its own
            return None
        sizes = (self.n_train, self.epochs, self.batch_size, self.micro_batch)
        return (self.profile, self.id, *sizes, self.squeeze, self.blocks, self.hidden)
