"""What a detector says of pictures, in a table that a person reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core import metrics
from flowood_core.anyflow import levels
from flowood_core.complexity import image_complexity
from flowood_core.flow import Flow, dequantise

__all__ = ["by_place", "explained", "told_by"]


@torch.no_grad()
def by_place(detector: Any, x: Tensor) -> np.ndarray | None:
    """The score of each picture taken apart by place: where in the picture it comes from.

    Args:
        detector: fitted; levels beside the pixels have no say here.
        x: uint8 (n, c, h, w), of the shape it was fitted on.
    Returns:
        float64 (n, h, w), nats, higher = more OOD: the sum over a map is the score of the flow on pixels. A place of
        the squeezed latent is a square of pixels, which share its part equally. None where the score does not come
        apart by place: a flow that is not `image_flow`, a fusion with complexity, or no flow on pixels.
    """
    flow = detector.flow_
    if (
        not isinstance(flow, Flow)
        or x.ndim != 4
        or levels.PIXELS not in levels.names_of(detector.level)
        or detector.fusion_ is not None
    ):
        return None
    parts = [flow.log_densities_by_place(dequantise(part)) for part in x.split(64)]
    maps = -torch.cat([log_pz if detector.kind == "pz" else log_px for log_pz, log_px in parts]).double()
    side = 2**flow.squeeze
    return maps.repeat_interleave(side, 1).repeat_interleave(side, 2).div(side**2).numpy()


def explained(detector: Any, pictures: Mapping[str, Tensor], id_scores: np.ndarray) -> pd.DataFrame:
    """See `Detector.explain`."""
    if not pictures:
        raise ValueError(
            "expected at least one picture, got none; give {name: uint8 tensor (c, h, w)}, see inputs.picture"
        )
    x = torch.stack(list(pictures.values()))
    scores = np.asarray(detector.ood_score(x))
    return pd.DataFrame(
        {
            "complexity": image_complexity(x).numpy(),
            "ood_score": scores,
            "beyond_id": [(id_scores < s).mean() for s in scores],
            "gamma": detector.threshold_.gamma,
            "verdict": np.where(detector.threshold_.decide(scores), "OOD", "ID"),
        },
        index=pd.Index(pictures, name="picture"),
    )


def told_by(sets: pd.DataFrame, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The sets of a diagnosis with the AUROC of a detector's own scores in place of that of its flow on pixels.

    Args:
        sets: `bias_report(...).frame`, one row a set.
        scores: of each set by name, and of held-out ID samples under "ID"; (n,) each, higher = more OOD.
    Returns:
        The same with auroc, auroc_low, auroc_high in percent, 95 % over the samples.
    """
    found = {
        name: metrics.evaluate(scores["ID"], scores[name], rng=0, wanted=["auroc"])["auroc"]
        for name in sets.index
    }
    columns = ("auroc", "auroc_low", "auroc_high")
    return sets.assign(**{c: [100 * found[n][k] for n in sets.index] for k, c in enumerate(columns)})
