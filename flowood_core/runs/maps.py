"""Runs on feature maps of a frozen backbone, section 3.2: FastFlow and CS-Flow."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from flowood_core import datasets, train
from flowood_core.datasets import ImageSet, highdim
from flowood_core.features import backbones, map_flows
from flowood_core.features.bank import FeatureBank, OnBank
from flowood_core.features.cs_flow import cs_flow
from flowood_core.features.map_flows import FeatureFlow
from flowood_core.flow import dequantise
from flowood_core.outliers import image
from flowood_core.runs.images import Images, complexity_facts, fitting_images, images, tested
from flowood_core.runs.spec import Outliers, Spec, Training

__all__ = ["Maps"]


class Maps(Spec):
    """FastFlow or CS-Flow on pictures of `image_size` pixels.

    Args:
        hidden_ratio: FastFlow's; hidden and clamp are CS-Flow's. At clamp 0 its couplings are additive.
        frozen_outliers: stored outliers per image; 0 makes fresh ones in every step, exact (A24).
        tau_from_start: tau counts from the mean log p of ID images under the untrained flow (A25a).
        blur_radius: in pixels; blur_ratio replaces it by the radius that leaves this share of the complexity (A15).
        alpha, combine: as on pixels.
    """

    method: Literal["mle", "gaussian", "ccm", "ccm_gaussian"]
    model: Literal["fastflow", "cs_flow"]
    backbone: str
    image_size: pydantic.PositiveInt
    hidden_ratio: pydantic.PositiveFloat = 1.0
    clamp: pydantic.NonNegativeFloat = 3.0
    frozen_outliers: pydantic.NonNegativeInt = 0
    tau_from_start: bool = False
    blur_radius: float = pydantic.Field(1.0, ge=0)
    blur_ratio: float | None = pydantic.Field(None, gt=0, lt=1)
    alpha: pydantic.PositiveFloat = 1.0
    combine: Literal["at_least_one", "always_both", "independent"] = "at_least_one"

    @pydantic.model_validator(mode="after")
    def _clamp_is_of_cs_flow(self) -> "Maps":
        if self.clamp != 3.0 and self.model != "cs_flow":
            raise ValueError(
                f"expected clamp with the model cs_flow only, got {self.clamp:g} with {self.model}"
            )
        return self

    def _load(self, name: str, split: str) -> ImageSet:
        return highdim.load(name, split, self.image_size)

    def data(self) -> Images:
        return images(self, self._load)

    def test_set(self, name: str) -> ImageSet:
        return tested(self, self._load, name)

    def flow(self, shape: tuple[int, ...]) -> FeatureFlow:
        backbone = backbones.load(self.backbone)
        shared = {"blocks": self.blocks, "seed": self.seed}
        if self.model == "fastflow":
            return map_flows.fast_flow(backbone, self.image_size, hidden_ratio=self.hidden_ratio, **shared)
        return cs_flow(backbone, self.image_size, hidden=self.hidden, clamp=self.clamp, **shared)

    def outliers(self, data: Images, device: Any) -> Outliers | None:
        if self.method == "mle":
            return None
        if self.method == "ccm":
            return functools.partial(image.ccm, alpha=self.alpha)
        radius = self.blur_radius if self.blur_ratio is None else _blur(self.blur_ratio, data.train)["radius"]
        if self.method == "gaussian":
            return functools.partial(image.gaussian, radius=radius)
        return functools.partial(image.ccm_gaussian, radius=radius, alpha=self.alpha, mode=self.combine)

    def ready(
        self, flow: FeatureFlow, x: Tensor, outliers: Outliers | None, settings: train.Settings
    ) -> Training:
        if self.data_init:
            flow.initialise(dequantise(x[:512]))
        if self.tau_from_start:
            level = float(map_flows.image_scores(flow, x[:64])["log_px"].mean())
            settings = dataclasses.replace(settings, tau=self.tau + level)
        stored = f"{self.frozen_outliers} frozen per image" if self.frozen_outliers else "fresh, exact"
        facts = {
            "backbone": flow.backbone.facts(),
            "maps": [list(shape) for shape in flow.maps],
            "tau_nats": settings.tau,
            "outliers": stored,
        }
        if not self.frozen_outliers:
            return Training(flow, flow, x, outliers, settings, facts)
        bank = FeatureBank(flow, x, outliers, self.frozen_outliers, seed=self.seed)
        drawn = None if outliers is None else bank.outliers
        return Training(OnBank(flow, bank), flow, bank.indices(), drawn, settings, facts)

    def measure(self, flow: FeatureFlow, x: Tensor) -> dict[str, np.ndarray]:
        return map_flows.image_scores(flow, x) | {"complexity": datasets.complexity_of(x).numpy()}

    def fitting(self, data: Images) -> dict[str, Tensor]:
        made = self.outliers(data, torch.device("cpu"))
        return fitting_images(self, data, made or image.ccm_gaussian)

    def facts(self, data: Images, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        blur = {} if self.blur_ratio is None else {"blur": _blur(self.blur_ratio, data.train)}
        return complexity_facts(data, arrays) | blur


def _blur(ratio: float, of: ImageSet) -> dict[str, float]:
    """The calibrated radius (A15), measured on at most 60 ID images; remembered, since every seed asks again."""
    x = of.drawn(60, 0).x
    key = (ratio, datasets.digest(x))
    if key not in _BLURS:
        # Pillow's blur jumps where a box grows by a pixel: the ratio of some sets steps by .07 there
        _BLURS[key] = dataclasses.asdict(image.calibrate_blur(x, ratio, tolerance=0.04))
    return _BLURS[key]


_BLURS: dict[tuple[float, str], dict[str, float]] = {}
