"""OOD scores and the decision, section 2.4: eq. 4 (S_nll), eq. 5 (S_comp), eq. 6 (threshold gamma).

Orientation: a higher score means more OOD. Units: a log-density is in nats per sample, C(x) in bits per
dimension; every name that is per dimension says so. Inputs are NumPy arrays or torch tensors, outputs are
float64 NumPy arrays.

The paper's score is the latent one, log p_Z(z) alone. The likelihood of the image, log p_X(x) = log p_Z(z) +
log |det dz/dx|, is what the objective (eq. 2-3) trains, and is offered beside it under its own name.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from flowood_core.system.files import write_atomically

if TYPE_CHECKING:
    import torch

    Scores = ArrayLike | torch.Tensor

_FORMAT = "flowood threshold"
_ORIENTATION = "higher = more OOD"


# --- eq. 4 -----------------------------------------------------------------------------------------------


def score_nll(log_pz: Scores) -> np.ndarray:
    """S_nll(x) = -log p_Z(z), eq. 4, in nats per sample. Higher means more OOD."""
    return -_array(log_pz)


def score_nll_px(log_px: Scores) -> np.ndarray:
    """-log p_X(x), in nats per sample; ours beside eq. 4, with the determinant. Higher means more OOD."""
    return -_array(log_px)


def nats_per_dim(score: Scores, d: int) -> np.ndarray:
    """A score in nats per sample, divided by the dimension d = c*h*w."""
    _check_dimension(d)
    return _array(score) / d


def bits_per_dim(log_px: Scores, d: int, *, levels: int = 256) -> np.ndarray:
    """Bits per dimension of x: -log p_X(x) / (d ln 2) + log2(levels). Higher means more OOD.

    The code length of the integer image under the flow, comparable with C(x). The second term undoes the
    scaling of the grey levels 0..levels-1 to [0, 1].

    Args:
        log_px: log-density of x scaled to [0, 1] (u8 / levels, dequantised), in nats per sample.
        d: dimension, c*h*w.
        levels: grey levels before scaling; 1 if x was not scaled.
    """
    _check_dimension(d)
    return -_array(log_px) / (d * math.log(2)) + math.log2(levels)


# --- eq. 5 -----------------------------------------------------------------------------------------------


def score_comp(nll_per_dim: Scores, complexity_bpd: Scores, *, weight: float = 1.0) -> np.ndarray:
    """S_comp(x) = S_nll(x) - weight * C(x), eq. 5, with both sides per dimension. Higher means more OOD.

    The paper leaves the unit of S_nll open. Per dimension, because in nats per sample, whose standard
    deviation is in the hundreds, a C between 2 and 10 would change nothing, and the paper's rows do change.

    Args:
        nll_per_dim: for p_X `bits_per_dim(log_px, d)`, so that both sides are code lengths in bits (Serra et
            al. 2020); for p_Z `nats_per_dim(score_nll(log_pz), d)`, literal nats, since a latent density has
            no code length.
        complexity_bpd: C(x) from `complexity.image_complexity`, in bits per dimension.
        weight: 1 is eq. 5.
    """
    nll, complexity = _array(nll_per_dim), _array(complexity_bpd)
    if nll.shape != complexity.shape:
        raise ValueError(
            f"expected one C(x) per score, got {nll.shape} scores and {complexity.shape} complexities"
        )
    return nll - weight * complexity


def all_scores(log_pz: Scores, log_px: Scores, complexity: Scores | None, d: int) -> dict[str, np.ndarray]:
    """Every score of the tables from one pass of the flow. Higher means more OOD.

    Args:
        log_pz: log p_Z(z), shaped (b,), in nats per sample.
        log_px: log p_X(x), shaped (b,), in nats per sample, for x scaled to [0, 1].
        complexity: C(x), shaped (b,), in bits per dimension; None for text and features, which have none.
        d: dimension, c*h*w.
    Returns:
        "pz"         eq. 4, -log p_Z, nats per sample; the paper's
        "px"         -log p_X, nats per sample; ours
        "pz_comp"    eq. 5 on "pz", nats per dimension - C
        "px_comp"    eq. 5 on "px", bits per dimension - C
        "comp_only"  -C, no flow at all: what the complexity term does by itself
        The last three only with a complexity.
    """
    given = {"log_pz": log_pz, "log_px": log_px} | ({} if complexity is None else {"complexity": complexity})
    shapes = {name: _array(values).shape for name, values in given.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"expected one value per sample in each, got shapes {shapes}")
    scores = {"pz": score_nll(log_pz), "px": score_nll_px(log_px)}
    if complexity is None:
        return scores
    return scores | {
        "pz_comp": score_comp(nats_per_dim(scores["pz"], d), complexity),
        "px_comp": score_comp(bits_per_dim(log_px, d), complexity),
        "comp_only": -_array(complexity),
    }


# --- eq. 6 -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """The decision h(x) of eq. 6: OOD where S(x) >= gamma, ID where S(x) < gamma.

    Kept apart from the model: the same flow serves with a threshold per application, and a threshold belongs
    to one score of one flow.

    Attributes:
        gamma: the threshold, in the unit of the score it was fitted on.
        method: how it was chosen: "quantile", "f1" or "given".
        keep: quantile only; share of ID that had to be kept.
        f1: f1 only; the F1 it reached on the samples it was fitted on, so an optimistic one.
        n_id: ID scores it was fitted on.
        n_ood: OOD scores it was fitted on.
    """

    gamma: float
    method: str = "given"
    keep: float | None = None
    f1: float | None = None
    n_id: int = 0
    n_ood: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.gamma):
            raise ValueError(f"expected a finite gamma, got {self.gamma}")

    @classmethod
    def fit_quantile(cls, id_scores: Scores, keep: float = 0.95) -> Self:
        """The lowest gamma that keeps at least the share `keep` of these ID scores, from ID alone.

        gamma is the next float64 above the ceil(keep * n)-th smallest score, since eq. 6 calls S = gamma OOD;
        scores tied with that one are kept as well. Same convention as `metrics.fpr95_id95`. Compare by
        `decide`: in float32 such a gamma may round back to the score itself.

        Args:
            id_scores: shaped (n,), of held-out ID samples; on training samples it comes out too low.
            keep: share of ID to keep, above 0 and up to 1.
        """
        if not 0 < keep <= 1:
            raise ValueError(f"expected keep above 0 and up to 1, such as 0.95, got {keep}")
        scores = np.sort(_fit_sample("id_scores", id_scores))
        n = len(scores)
        nearly = math.ceil(keep * n)  # the product may round across an integer
        n_kept = next(k for k in (nearly - 1, nearly, nearly + 1) if k / n >= keep)
        return cls(float(np.nextafter(scores[n_kept - 1], np.inf)), "quantile", keep=float(keep), n_id=n)

    @classmethod
    def fit_f1(cls, id_scores: Scores, ood_scores: Scores) -> Self:
        """The gamma with the highest F1, OOD being the positive class; among equals the highest gamma.

        Needs OOD samples, and F1 depends on their share: fit on the mixture expected in use, never on the OOD
        test set of a table.
        """
        id_, ood = _fit_sample("id_scores", id_scores), _fit_sample("ood_scores", ood_scores)
        candidates = np.unique(np.concatenate([id_, ood]))[::-1]  # F1 changes at a score only
        flagged, caught = (len(s) - np.searchsorted(np.sort(s), candidates, side="left") for s in (id_, ood))
        f1 = 2 * caught / (caught + flagged + len(ood))
        best = int(np.argmax(f1))
        return cls(float(candidates[best]), "f1", f1=float(f1[best]), n_id=len(id_), n_ood=len(ood))

    def decide(self, scores: Scores) -> np.ndarray:
        """h(x), eq. 6: True (the paper's 1, OOD) where S >= gamma; boolean, shaped as the scores.

        An infinite score is decided like any other; nan is refused, because eq. 6 would call it ID.
        """
        scores = _array(scores)
        n_nan = int(np.count_nonzero(np.isnan(scores)))
        if n_nan:
            raise ValueError(
                f"expected scores that can be compared with gamma, got {n_nan} nan of {scores.size}"
            )
        return scores >= self.gamma

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all: a reader never meets half a file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "orientation": _ORIENTATION} | asdict(self)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is something else, or was made for the opposite orientation.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # neither JSON nor text
            raise ValueError(f"expected a threshold saved by Threshold.save, got {path}: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"expected a threshold saved by Threshold.save, got another JSON file, {path}")
        orientation = content.get("orientation")
        if orientation != _ORIENTATION:
            raise ValueError(
                f"expected a threshold for scores with {_ORIENTATION!r}, got {orientation!r} in {path}"
            )
        fields = {name: value for name, value in content.items() if name not in ("format", "orientation")}
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                f"expected a threshold of this version of flowood, got {path}: {error}"
            ) from error


# --- checks ----------------------------------------------------------------------------------------------


def _array(values: Scores) -> np.ndarray:
    """float64, from an array or from a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _fit_sample(name: str, scores: Scores) -> np.ndarray:
    scores = _array(scores)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"expected {name} shaped (n,) with n of 1 or more, got {scores.shape}")
    n_bad = int(np.count_nonzero(~np.isfinite(scores)))
    if n_bad:
        raise ValueError(f"expected finite {name}, got {n_bad} of {scores.size} that are not")
    return scores


def _check_dimension(d: int) -> None:
    if d < 1:
        raise ValueError(f"expected the dimension d = c*h*w to be 1 or more, got {d}")
