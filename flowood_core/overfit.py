"""When a flow on features over-fits: the paper does not say for how many epochs it trains on texts (A29)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from flowood_core import runs, train
from flowood_core.features import TextData
from flowood_core.flow import densities

__all__ = ["likelihood_curve"]


def likelihood_curve(spec: runs.Spec, data: TextData, epochs: Sequence[int]) -> pd.DataFrame:
    """Over-fitting seen: mean log p_X [nats] of ID texts, trained on and unseen, after so many epochs without outliers.

    Args:
        spec: of a run on texts; its learning rate stays as it begins.
        data: from `runs.text_data`.
        epochs: increasing; one training that stops at each.
    Returns:
        Columns epochs, train, test.
    """
    x, state, rows = data.train.x, None, []
    flow = runs.build_flow(spec, tuple(x.shape[1:]))
    if spec.data_init:
        flow.initialise(x[:512])

    def keep(latest: dict[str, Any]) -> None:
        nonlocal state
        state = latest

    for n in epochs:
        so_far = runs.training_settings(
            spec.model_copy(update={"epochs": float(n), "schedule": "constant"}), len(x)
        )
        train.fit(flow, x, settings=so_far, state=state, on_checkpoint=keep, label=f"{n} epochs")
        rows.append([n, *(densities(flow, s.x)[1].mean() for s in (data.train, data.test[spec.id]))])
    return pd.DataFrame(rows, columns=["epochs", "train", "test"])
