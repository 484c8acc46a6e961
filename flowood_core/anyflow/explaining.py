"""What a detector says of pictures, in a table that a person reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core import metrics
from flowood_core.complexity import image_complexity

__all__ = ["explained", "told_by"]


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
    found = {name: metrics.evaluate(scores["ID"], scores[name], rng=0)["auroc"] for name in sets.index}
    columns = ("auroc", "auroc_low", "auroc_high")
    return sets.assign(**{c: [100 * found[n][k] for n in sets.index] for k, c in enumerate(columns)})
