"""What a detector says of pictures, in a table that a person reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core.complexity import image_complexity

__all__ = ["explained"]


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
