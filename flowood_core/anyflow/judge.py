"""A picture judged: its complexity, its score among those of ID, and the verdict."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core.anyflow.detector import Detector
from flowood_core.complexity import image_complexity

__all__ = ["judged"]


def judged(detector: Detector, pictures: Mapping[str, Tensor], id_scores: np.ndarray) -> pd.DataFrame:
    """What a detector says of named pictures, one row each.

    Args:
        detector: fitted on images.
        pictures: name: uint8 (c, h, w), of the shape the detector was fitted on.
        id_scores: `detector.ood_score` of ID images that neither training nor the threshold has seen.
    Returns:
        complexity [bits/dim]; ood_score [nats for kind "px", higher = more OOD]; beyond_id, the share of ID that
        scores lower; gamma; verdict, ID or OOD by eq. (6).
    """
    if not pictures:
        raise ValueError(
            "expected at least one picture, got none; give {name: uint8 tensor (c, h, w)}, or see play.ask"
        )
    x = torch.stack(list(pictures.values()))
    scores = detector.ood_score(x)
    gamma = detector.threshold_.gamma
    return pd.DataFrame(
        {
            "complexity": image_complexity(x).numpy(),
            "ood_score": scores,
            "beyond_id": [(np.asarray(id_scores) < s).mean() for s in scores],
            "gamma": gamma,
            "verdict": np.where(detector.threshold_.decide(scores), "OOD", "ID"),
        },
        index=pd.Index(pictures, name="picture"),
    )
