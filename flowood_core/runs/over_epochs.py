"""What a longer training buys: a run measured at the epochs whose weights were kept on the way.

A run need not be finished for it: as soon as one file of weights is there, so is a point of the curve.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_model
from torch import nn

from flowood_core import datasets, lipschitz, metrics, scores
from flowood_core.engine import compiled
from flowood_core.flow import dequantise
from flowood_core.runs.folder import write
from flowood_core.runs.images import images
from flowood_core.runs.pixels import Pixels

__all__ = ["kept", "measured"]

FILE = "over_epochs.csv"
N_LIPSCHITZ = 200  # images of the ID test set; the constants of 1,000 have the same median to a few per cent
SCORES = ("pz", "px", "pz_comp", "px_comp")


def kept(spec: Pixels) -> dict[float, Path]:
    """Epochs whose weights lie in the run's folder, the last one under the run's own length once it is done."""
    found = {
        float(path.stem.removeprefix("epoch_")): path for path in spec.folder.glob("epoch_*.safetensors")
    }
    last = spec.folder / "model.safetensors"
    return dict(sorted((found | ({spec.epochs: last} if last.is_file() else {})).items()))


def measured(spec: Pixels) -> pd.DataFrame:
    """AUROC, bits per dimension and Lipschitz constants at every kept epoch.

    What was measured is read from ``over_epochs.csv`` in the folder; only what is new is measured and added. An epoch
    that an older version left without one of the quantities is measured again.

    Returns:
        Columns epoch, quantity, ood, value, low, high. Quantities: "auroc pz", "auroc px", "auroc pz_comp",
        "auroc px_comp" (percent, with the 95 % bootstrap interval over test images), "bpd" (bits per dimension of ID
        test images, mean), "bpd median" (the same, median: few images taken for outliers move the mean by whole
        bits), "grad_logp" (median of |d log p_X/dx| over ID test images, nats per unit of x). `ood` is empty
        where the quantity is one of ID alone. No rows where no weights were kept.
    Raises:
        datasets.MissingData: the ID set is not here and something is to be measured.
        RunError: the folder cannot be written.
    """
    path = spec.folder / FILE
    known = pd.read_csv(path, keep_default_na=False) if path.is_file() else _rows([])
    known = known[known["epoch"].isin(known.loc[known["quantity"] == "bpd median", "epoch"])]
    new = {epoch: weights for epoch, weights in kept(spec).items() if epoch not in set(known["epoch"])}
    if not new:
        return known
    data = images(spec, datasets.load)
    rows = [row for epoch, weights in new.items() for row in _at(spec, data.test, epoch, weights)]
    found = pd.concat([known, _rows(rows)], ignore_index=True) if len(known) else _rows(rows)
    found = found.sort_values(["epoch", "quantity", "ood"], ignore_index=True)
    buffer = io.StringIO()
    found.to_csv(buffer, index=False)
    write(path, buffer.getvalue().encode())
    return found


def _at(spec: Pixels, test: Mapping[str, Any], epoch: float, weights: Path) -> list[list[Any]]:
    flow = spec.flow(tuple(test[spec.id].x.shape[1:]))
    load_model(flow, str(weights))
    flow.eval()
    arrays = {name: spec.measure(flow, s.x) for name, s in test.items()}
    of = {n: scores.all_scores(a["log_pz"], a["log_px"], a["complexity"], flow.d) for n, a in arrays.items()}
    rows = [
        [
            epoch,
            f"auroc {kind}",
            ood,
            *(
                100 * v
                for v in metrics.evaluate(of[spec.id][kind], of[ood][kind], rng=0, wanted=["auroc"])["auroc"]
            ),
        ]
        for ood in test
        if ood != spec.id
        for kind in SCORES
    ]
    bpd = scores.bits_per_dim(arrays[spec.id]["log_px"], flow.d, levels=spec.levels)
    steep = _steepness(flow, test[spec.id].x[:N_LIPSCHITZ])
    of_id = {"bpd": _mean(bpd), "bpd median": _median(bpd), "grad_logp": _median(steep)}
    return [*rows, *([epoch, name, "", *values] for name, values in of_id.items())]


def _steepness(flow: nn.Module, x: torch.Tensor) -> np.ndarray:
    with compiled.fused():
        parts = [lipschitz.grad_logp(flow.log_prob, dequantise(part)) for part in x.split(50)]
    return torch.cat(parts).double().numpy()


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    reach = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - reach), float(values.mean() + reach)


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """With the distribution-free 95 % interval of a median: order statistics of a fair coin."""
    ordered, n = np.sort(values), len(values)
    reach = round(0.98 * n**0.5)
    low, high = max(n // 2 - reach, 0), min(n // 2 + reach, n - 1)
    return float(np.median(values)), float(ordered[low]), float(ordered[high])


def _rows(rows: list[list[Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["epoch", "quantity", "ood", "value", "low", "high"])
