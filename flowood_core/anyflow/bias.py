"""The diagnosis: does this flow prefer simple inputs, on your data? Fig. 3 and Table 1 for anyone's flow.

A flow that has the bias of section 2.1 gives simpler inputs a higher likelihood, and so takes simple OOD inputs for ID.
`bias_report` measures it inside and between your sets, beside the baseline that uses no flow at all.
"""

from __future__ import annotations

import dataclasses
import html
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flowood_core import metrics, scores
from flowood_core.anyflow import adapt, inputs, ranges
from flowood_core.flow import Flow
from flowood_core.metrics import Estimate
from flowood_core.system.files import write_atomically

__all__ = ["BiasReport", "bias_report"]

ID = "ID"
_SLIGHT = 0.1  # a correlation below it explains less than 1 % of the variance
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .85rem; }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
"""
_CELLS = 2**21  # entries of one temporary array


@dataclasses.dataclass(frozen=True)
class BiasReport:
    """What `bias_report` found. Show it in a notebook, print it, or read its parts.

    Attributes:
        frame: one row per OOD set, see `bias_report`.
        split: one row per side, "simpler than ID" and "more complex than ID": single OOD samples of all sets, sorted
            by their complexity against the ID median. AUROC in percent.
        slope: least squares of log p_X on C over all samples, nats per bit/dim.
        partial_r: correlation of the two inside the sets, set means removed.
        samples: every sample: set, complexity, log_px.
        duplicates: per OOD set, how many of its samples are also ID samples, to the byte.
        label: of the flow.
    """

    frame: pd.DataFrame
    split: pd.DataFrame
    slope: Estimate
    partial_r: Estimate
    samples: pd.DataFrame
    duplicates: dict[str, int]
    label: str = ""

    @property
    def is_biased(self) -> bool:
        """Inside the sets simpler samples are likelier: by more than chance, and by more than next to nothing."""
        return self.partial_r.high < 0 and self.partial_r.value < -_SLIGHT

    @property
    def verdict(self) -> str:
        """One or two sentences: is there a bias, which sets does it cost, would eq. (5) help."""
        r, s = self.partial_r, self.slope
        if self.is_biased:
            first = (
                f"This flow prefers simple inputs: inside the sets log p falls as C(x) rises (partial r = "
                f"{r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}], slope {s.value:+.0f} nats per bit/dim)"
            )
        elif r.low > 0 and r.value > _SLIGHT:
            first = (
                f"This flow prefers complex inputs (partial r = {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]): not the "
                "bias of section 2.1 but its opposite"
            )
        else:
            first = (
                f"No marked preference for simple or complex inputs inside the sets (partial r = {r.value:+.2f} "
                f"[{r.low:+.2f}, {r.high:+.2f}])"
            )
        taken = self.frame[self.frame.auroc_high < 50]
        missed = self.frame[(self.frame.auroc_high >= 50) & (self.frame.auroc_low < 50)]
        parts = []
        if len(taken):
            parts.append("it ranks " + _list(taken) + " as more in-distribution than ID itself")
        if len(missed):
            parts.append("it cannot tell " + _list(missed) + " from ID")
        beaten = self.frame[(self.frame.complexity_only > self.frame.auroc_high)]
        if len(beaten):
            parts.append(
                "complexity alone, without a flow, does better on " + _list(beaten, "complexity_only")
            )
        effects = {e: list(self.frame.index[self.frame.eq5 == e]) for e in ("helps", "harms")}
        said = [f"would {e[:-1]} on {', '.join(names)}" for e, names in effects.items() if names]
        parts.append(
            "eq. (5) " + (" and ".join(said) if said else "would change nothing that can be told from chance")
        )
        return f"{first}; {'; '.join(parts)}." if parts else f"{first}."

    @property
    def cautions(self) -> list[str]:
        """What makes numbers of this report worth less: samples that are in ID as well, sets of a few samples."""
        doubles = ", ".join(f"{k} of {name}" for name, k in self.duplicates.items() if k)
        few = ", ".join(f"{name} ({n})" for name, n in self.frame.n.items() if n < inputs.LEAST)
        said = {
            f"samples that are also ID samples, to the byte: {doubles}; their AUROC is too low": doubles,
            f"sets of fewer than {inputs.LEAST} samples, whose intervals are too narrow: {few}": few,
        }
        return [sentence for sentence, names in said.items() if names]

    def figure(self) -> Any:
        """Complexity against log-likelihood (Fig. 3), and the AUROC of each set beside that of complexity alone."""
        from flowood_core.notebook import figures

        fig, (left, right) = figures.figure("wide", columns=2, height=4.0)
        colours = figures.colours_of(dict.fromkeys(self.samples["set"]))
        sets = {
            n: (part.complexity.to_numpy(), part.log_px.to_numpy())
            for n, part in self.samples.groupby("set", sort=False)
        }
        figures.draw_complexity_vs_likelihood(
            left, sets, quantity=r"$\log p_{\mathcal{X}}(\mathbf{x})$ [nats]", colours=colours
        )
        right.scatter(
            self.frame.gap,
            self.frame.complexity_only,
            marker="x",
            color="0.5",
            label="complexity alone",
            zorder=3,
        )
        cells = self.frame.reset_index(names="ood").assign(id=ID)
        cells = cells.rename(columns={"auroc": "value", "auroc_low": "low", "auroc_high": "high"})
        figures.draw_bias(right, cells, colours=colours, labels={ID: "yours"})
        right.set_ylabel("AUROC of $-\\log p_{\\mathcal{X}}$ [%]")
        for ax in (left, right):
            figures.legend_below(ax)
        if self.label:
            fig.suptitle(self.label, fontsize="medium")
        return fig

    def save_html(self, path: str | os.PathLike, *others: BiasReport) -> Path:
        """Write a page that reads offline, figures inside: this report, and others below it (before and after)."""
        import base64
        import io

        from flowood_core.notebook import figures

        figures.use_style()
        parts = []
        for found in (self, *others):
            buffer = io.BytesIO()
            fig = found.figure()
            fig.savefig(buffer, format="png", metadata={"Software": None})
            figures.plt.close(fig)  # a notebook shows what is left open
            picture = base64.b64encode(buffer.getvalue()).decode()
            alt = "complexity against log-likelihood, and AUROC of each OOD set"
            parts.append(f"<h2>{html.escape(found.label or 'flow')}</h2>{found._repr_html_()}")
            parts.append(f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{picture}">')
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>bias report</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head><body><h1>Bias report</h1>{''.join(parts)}</body></html>\n"
        )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
        return path

    def __str__(self) -> str:
        lines = [self.verdict, "", self.frame.round(2).to_string(), "", self.split.round(2).to_string()]
        return "\n".join([*lines, *(f"\ncaution: {c}" for c in self.cautions)])

    def _repr_html_(self) -> str:
        tables = "".join(f.round(2).to_html(border=0, classes="flowood") for f in (self.frame, self.split))
        notes = "".join(f"<p>Caution: {html.escape(c)}</p>" for c in self.cautions)
        return f"<p>{html.escape(self.verdict)}</p>{notes}{tables}"


def bias_report(
    flow: Any,
    id_data: Any,
    ood_data: Mapping[str, Any],
    *,
    complexity: Callable[[Tensor], ArrayLike] | None = None,
    limit: int | None = 1000,
    n_boot: int = 500,
    seed: int = 0,
    label: str = "",
) -> BiasReport:
    """Does a flow prefer simple inputs, on these data, and what does that cost?

    Args:
        flow: anything `adapt.as_flow` takes; checked on a few ID samples.
        id_data: ID samples the flow was *not* trained on; see `inputs.to_tensor`.
        ood_data: name to samples.
        complexity: samples -> one value each; None is C(x), Definition 1, for 8-bit images. Features and rows have
            no such thing: give your own, such as the length of the text they came from.
        limit: at most so many samples of each set.
        n_boot, seed: of the bootstrap; samples are redrawn inside their sets.
        label: of the flow, for titles.
    Returns:
        A `BiasReport`. Columns of its frame, AUROC in percent with 95 % interval, OOD the positive class:
        n; complexity, the mean; gap, that minus the mean of ID; side; auroc, auroc_low, auroc_high of -log p_X;
        complexity_only, of -C; eq5, whether eq. (5) (bits per dimension minus C) "helps", "harms", or makes "no
        difference" that can be told from chance; eq5_auroc.
    Raises:
        FlowError: the flow is no density. TypeError: OOD sets without names, or no complexity for
            data that are no 8-bit images.
        ValueError: too few samples, no OOD set, nan rows.

    >>> import torch
    >>> from flowood_core.flow import vector_flow
    >>> rng = torch.Generator().manual_seed(0)
    >>> found = bias_report(
    ...     vector_flow(2, blocks=2, hidden=8), torch.randn(50, 2, generator=rng),
    ...     {"narrow": torch.randn(50, 2, generator=rng) / 10}, complexity=lambda x: x.abs().sum(1), n_boot=50,
    ... )
    >>> found.frame.loc["narrow", "side"]
    'simpler'
    """
    limit, n_boot, seed = ranges.checked(limit=limit, n_boot=n_boot, seed=seed).values()
    if not isinstance(ood_data, Mapping):
        raise TypeError(
            f"expected OOD sets by name, {{'name': data}}, got {type(ood_data).__name__}; give your set a name"
        )
    if not ood_data:
        raise ValueError(
            "expected at least one OOD set {'name': data}, got none; blurred ID images are a start"
        )
    x_id = inputs.check_samples(inputs.sample_of(id_data, limit or 10**9, name="ID data"))
    flow = adapt.as_flow(flow, None if isinstance(flow, Flow) else x_id)  # ours need no check
    sets = {ID: x_id}
    columns = _columns(id_data)
    for name, data in ood_data.items():
        if name == ID:
            raise ValueError(f"expected another name than {ID!r} for an OOD set; rename it")
        if None not in (columns, theirs := _columns(data)) and columns != theirs:
            raise ValueError(
                f"expected {name} with the columns of the ID data in their order, {columns}, got {theirs}; give "
                f"its frame[{columns}]"
            )
        x = inputs.sample_of(data, limit or 10**9, name=name)
        if x.shape[1:] != x_id.shape[1:] or (x.dtype == torch.uint8) != (x_id.dtype == torch.uint8):
            raise ValueError(
                f"expected {name} like the ID data, {tuple(x_id.shape[1:])} of {x_id.dtype}, got "
                f"{tuple(x.shape[1:])} of {x.dtype}; bring both to one size and type (inputs.Folder does)"
            )
        sets[name] = x
    measure = complexity or _image_complexity
    c = {name: _values(measure(x), len(x), name) for name, x in sets.items()}
    lp = {name: adapt.log_px_of(flow, x) for name, x in sets.items()}
    d, levels = x_id[0].numel(), 256 if x_id.dtype.itemsize == 1 else 1
    # eq. (5) needs both sides in one unit: bits per dimension for C(x), else both are brought to the sd of ID
    comp = {
        name: _comp(lp[name], c[name], d, levels, None if complexity is None else (lp[ID], c[ID]))
        for name in sets
    }
    return _report(c, lp, comp, sets, label, n_boot, seed)


def _report(
    c: dict[str, np.ndarray],
    lp: dict[str, np.ndarray],
    comp: dict[str, np.ndarray],
    sets: dict[str, Tensor],
    label: str,
    n_boot: int,
    seed: int,
) -> BiasReport:
    rng = np.random.default_rng(seed)
    rows = {}
    for name in list(sets)[1:]:
        value = _estimate_auroc(-lp[ID], -lp[name], n_boot, rng)
        gain = _gain(-lp[ID], -lp[name], comp[ID], comp[name], n_boot, rng)
        gap = c[name].mean() - c[ID].mean()
        rows[name] = {
            "n": len(c[name]),
            "complexity": c[name].mean(),
            "gap": gap,
            "side": "simpler" if gap < 0 else "more complex",
            "auroc": 100 * value.value,
            "auroc_low": 100 * value.low,
            "auroc_high": 100 * value.high,
            "complexity_only": 100 * metrics.auroc(-c[ID], -c[name]),
            "eq5_auroc": 100 * metrics.auroc(comp[ID], comp[name]),
            "eq5": "helps" if gain.low > 0 else "harms" if gain.high < 0 else "no difference",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    split = _split(c, lp, n_boot, rng)
    slope, partial = _regression(list(c.values()), list(lp.values()), n_boot, rng)
    samples = pd.concat(
        [pd.DataFrame({"set": name, "complexity": c[name], "log_px": lp[name]}) for name in sets],
        ignore_index=True,
    )
    duplicates = {name: inputs.count_duplicates(sets[ID], x) for name, x in sets.items() if name != ID}
    return BiasReport(frame, split, slope, partial, samples, duplicates, label)


def _split(
    c: dict[str, np.ndarray], lp: dict[str, np.ndarray], n_boot: int, rng: np.random.Generator
) -> pd.DataFrame:
    middle = np.median(c[ID])
    c_ood = np.concatenate([v for name, v in c.items() if name != ID])
    lp_ood = np.concatenate([v for name, v in lp.items() if name != ID])
    rows = {}
    for side, which in (("simpler than ID", c_ood < middle), ("more complex than ID", c_ood >= middle)):
        e = (
            _estimate_auroc(-lp[ID], -lp_ood[which], n_boot, rng)
            if which.any()
            else Estimate(*[math.nan] * 3)
        )
        only = metrics.auroc(-c[ID], -c_ood[which]) if which.any() else math.nan
        rows[side] = {
            "n": int(which.sum()),
            "auroc": 100 * e.value,
            "auroc_low": 100 * e.low,
            "auroc_high": 100 * e.high,
            "complexity_only": 100 * only,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _estimate_auroc(
    id_scores: np.ndarray, ood_scores: np.ndarray, n_boot: int, rng: np.random.Generator
) -> Estimate:
    return metrics.evaluate(id_scores, ood_scores, n_boot=n_boot, rng=rng, wanted=["auroc"])["auroc"]  # type: ignore[return-value]


def _gain(
    id_: np.ndarray,
    ood: np.ndarray,
    id_comp: np.ndarray,
    ood_comp: np.ndarray,
    n_boot: int,
    rng: np.random.Generator,
) -> Estimate:
    """AUROC with eq. (5) minus without, on the same redraws: a paired interval."""
    value = metrics.auroc(id_comp, ood_comp) - metrics.auroc(id_, ood)
    found = []
    rows = max(1, _CELLS // (len(id_) + len(ood)))
    for start in range(0, n_boot, rows):
        b = min(rows, n_boot - start)
        i, o = rng.integers(len(id_), size=(b, len(id_))), rng.integers(len(ood), size=(b, len(ood)))
        found.append(metrics.auroc(id_comp[i], ood_comp[o]) - metrics.auroc(id_[i], ood[o]))
    return Estimate(value, *_tails(np.concatenate(found) if found else np.array([])))


def _regression(
    c: list[np.ndarray], lp: list[np.ndarray], n_boot: int, rng: np.random.Generator
) -> tuple[Estimate, Estimate]:
    found = metrics.complexity_bias(c, lp)
    redraws = []
    for _ in range(n_boot):
        index = [rng.integers(len(a), size=len(a)) for a in c]
        b = metrics.complexity_bias(
            [a[i] for a, i in zip(c, index, strict=True)], [a[i] for a, i in zip(lp, index, strict=True)]
        )
        redraws.append((b.slope, b.partial_r))
    slopes, partials = np.array(redraws).reshape(-1, 2).T
    return Estimate(found.slope, *_tails(slopes)), Estimate(found.partial_r, *_tails(partials))


def _tails(redraws: np.ndarray) -> tuple[float, float]:
    if not len(redraws):
        return math.nan, math.nan
    low, high = np.nanquantile(redraws, (0.025, 0.975))
    return float(low), float(high)


def _comp(
    lp: np.ndarray, c: np.ndarray, d: int, levels: int, own_unit: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    if own_unit is None:
        return scores.score_comp(scores.bits_per_dim(lp, d, levels=levels), c)
    lp_id, c_id = own_unit
    return -lp / max(lp_id.std(), 1e-12) - c / max(c_id.std(), 1e-12)


def _image_complexity(x: Tensor) -> ArrayLike:
    from flowood_core.complexity import image_complexity

    if x.itemsize != 1 or x.ndim != 4:
        raise TypeError(
            f"expected 8-bit images (n, c, h, w) for C(x), got {x.dtype} shaped {tuple(x.shape)}; for features or "
            "tables pass complexity=..., a function that gives one value per sample"
        )
    return image_complexity(x)


def _values(made: ArrayLike, n: int, name: str) -> np.ndarray:
    made = made.detach().cpu().numpy() if isinstance(made, Tensor) else made
    values = np.asarray(made, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"expected one complexity per sample of {name}, ({n},), got {values.shape}")
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"expected finite complexities of {name}, got {bad} of {n} that are not")
    return values


def _columns(data: Any) -> list[Any] | None:
    return list(data.columns) if hasattr(data, "columns") and hasattr(data, "iloc") else None


def _list(frame: pd.DataFrame, column: str = "auroc") -> str:
    return ", ".join(f"{name} ({value:.0f} %)" for name, value in frame[column].items())
