"""The paper's claims, one by one, with a verdict computed from the runs and tables of a profile.

`data/paper/claims.csv` holds the sentences; each names a test of this file. A test returns effects: for each part
of the claim one number per seed (or one, where there are no seeds), signed so that positive is what the paper says.

    holds            every part has the claimed sign in every seed
    holds partly     some part has it on average
    does not hold    no part has it on average
    not run          nothing of it was measured
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch

from flowood_core import datasets, objective, runs
from flowood_core.datasets import corpora, highdim
from flowood_core.evidence import tables
from flowood_core.features import encoders, map_flows
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import grid
from flowood_core.system import paths

__all__ = ["Verdict", "effects", "evaluate", "judge", "printed"]

Effects = Mapping[str, np.ndarray]  # part of the claim: effects, positive as claimed


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the measurements say about a claim.

    Attributes:
        word: holds, holds partly, does not hold, not run.
        effects: mean effect of each part, lowest and highest seed, in the claim's unit; positive is as claimed.
    """

    word: str
    effects: str


TESTS: dict[str, Callable[[str], Effects]] = {}


def test(function: Callable[[str], Effects]) -> Callable[[str], Effects]:
    """Register a test under its name; it takes a profile and returns effects, none where nothing was run."""
    TESTS[function.__name__] = function
    return function


test.__test__ = False  # pytest would collect it


def printed() -> pd.DataFrame:
    """The claims as rows: claim, section, sentence, test, unit."""
    return pd.read_csv(paths.paper_root() / "claims.csv", keep_default_na=False)


def effects(profile: str) -> dict[str, Effects]:
    """What was measured of every claim under a profile, by the claim's name."""
    return {row.claim: TESTS[row.test](profile) for row in printed().itertuples()}


def evaluate(profile: str, measured: Mapping[str, Effects] | None = None) -> pd.DataFrame:
    """Every claim with its verdict under a profile: claim, section, sentence, verdict, effect, unit.

    Args:
        profile: of the runs.
        measured: what `effects` returned, where it is at hand.
    """
    measured = effects(profile) if measured is None else measured
    rows = []
    for row in printed().itertuples():
        verdict = judge(measured[row.claim])
        rows.append((row.claim, row.section, row.sentence, verdict.word, verdict.effects, row.unit))
    return pd.DataFrame(rows, columns=["claim", "section", "sentence", "verdict", "effect", "unit"])


def judge(effects: Effects) -> Verdict:
    """One word for a claim; see the top of the file."""
    effects = {part: np.atleast_1d(np.asarray(v, float)) for part, v in effects.items() if np.size(v)}
    if not effects:
        return Verdict("not run", "")
    as_claimed = [(v > 0).all() for v in effects.values()]
    on_average = [v.mean() > 0 for v in effects.values()]
    word = "holds" if all(as_claimed) else "holds partly" if any(on_average) else "does not hold"
    return Verdict(word, "; ".join(f"{part} {_shown(v)}".strip() for part, v in effects.items()))


def _shown(values: np.ndarray) -> str:
    digits = 1 if np.abs(values).max() >= 2 else 2
    if len(values) == 1:
        return f"{values[0]:+.{digits}f}"
    lowest, highest = values.min(), values.max()
    return f"{values.mean():+.{digits}f} ({len(values)} seeds: {lowest:+.{digits}f} to {highest:+.{digits}f})"


# --- what was measured -------------------------------------------------------------------------------------


def _finished(profile: str, table: str) -> list[runs.Run]:
    if table not in grid.tables(profile):
        return []
    specs = [s for s in grid.rows(profile, table) if (s.folder / "metrics.json").is_file()]
    return [runs.run_or_load(s, train_missing=False) for s in specs]


def _table(profile: str, name: str) -> pd.DataFrame | None:
    path = paths.profile_dir(profile) / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def _auroc(run: runs.Run, ood: str, score: str = "pz") -> float:
    return 100 * run.metrics["ood"][ood][score]["auroc"][0]


def _rows(profile: str) -> list[runs.Run]:
    """The rows of Tables 2 and 3, every ID set."""
    return [*_finished(profile, "table_2"), *_finished(profile, "table_3")]


def _pairs(profile: str, a: str, b: str) -> dict[str, list[tuple[runs.Run, runs.Run]]]:
    """Runs of two methods with the same ID set and seed, by ID set."""
    found: dict[str, list[tuple[runs.Run, runs.Run]]] = {}
    done = {(r.spec.id, r.spec.method, r.spec.seed): r for r in _rows(profile)}
    for (id_, method, seed), run in done.items():
        if method == a and (id_, b, seed) in done:
            found.setdefault(id_, []).append((run, done[id_, b, seed]))
    return found


def _label(name: str) -> str:
    original = name.removesuffix("_blurred")
    return "blurred " * (name != original) + datasets.LABELS.get(original, original)


def _difference(
    pairs: Iterable[tuple[runs.Run, runs.Run]], sets: Callable[[runs.Run], Iterable[str]], score: str = "pz"
) -> np.ndarray:
    """Mean AUROC over the sets, first run minus second, one number per seed."""
    return np.array([np.mean([_auroc(a, o, score) - _auroc(b, o, score) for o in sets(a)]) for a, b in pairs])


def _all_sets(run: runs.Run) -> tuple[str, ...]:
    return run.spec.ood


# --- the tests ---------------------------------------------------------------------------------------------


def _correlation(run: runs.Run, sets: Iterable[str] | None = None) -> float:
    names = (run.spec.id, *(run.spec.ood if sets is None else sets))
    c = np.concatenate([run.arrays[n]["complexity"] for n in names])
    return float(np.corrcoef(c, np.concatenate([run.arrays[n]["log_px"] for n in names]))[0, 1])


@test
def bias_of_mle(profile: str) -> Effects:
    by_id: dict[str, list[float]] = {}
    for run in _rows(profile):
        if run.spec.method == "mle":
            by_id.setdefault(_label(run.spec.id), []).append(-_correlation(run))
    return {id_: np.array(v) for id_, v in by_id.items()}


@test
def simple_missed(profile: str) -> Effects:
    # the pairs of Table 1 of all ID sets in one pool, seed by seed: an ID set alone may have no simpler set
    printed_sets = set(tables.printed("table_1")["ood"])
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for run in _finished(profile, "table_1"):
        for ood in [o for o in run.spec.ood if o in printed_sets] or run.spec.ood:
            by_seed.setdefault(run.spec.seed, []).append((run.complexity_gap(ood), _auroc(run, ood)))
    average, weakest = [], []
    for pairs in by_seed.values():
        simpler, harder = ([v for gap, v in pairs if side * gap > 0.5] for side in (-1, 1))
        if simpler and harder:
            average.append(np.mean(harder) - np.mean(simpler))
            weakest.append(min(harder) - max(simpler))
    return {"on average": np.array(average), "weakest against strongest pair": np.array(weakest)}


@test
def fingerprint(profile: str) -> Effects:
    table = _table(profile, "table_7")
    if table is None:
        return {}
    done = table.dropna(subset=["mean"])
    # as claimed: within two standard errors and half a unit of the printed digit
    slack = 2 * done["sd"] / np.sqrt(done["n"]) + 0.005 - done["difference"].abs()
    return {_label(name): np.array([s]) for name, s in zip(done["set"], slack, strict=True)}


@test
def blur_simplifies(profile: str) -> Effects:
    table = _table(profile, "table_7")
    if table is None:
        return {}
    means = (
        pd.concat([table, _others]).set_index("set")["mean"]
        if (_others := _table(profile, "table_7_others")) is not None
        else table.set_index("set")["mean"]
    )
    blurred = [n for n in means.index if n.endswith("_blurred") and np.isfinite(means[n])]
    return {
        _label(n.removesuffix("_blurred")): np.array([means[n.removesuffix("_blurred")] - means[n]])
        for n in blurred
    }


@test
def svhn_corrected(profile: str) -> Effects:
    pairs = _pairs(profile, "ccm_gaussian", "mle")
    return {
        _label(id_): _difference(of, lambda run: ["svhn"])
        for id_, of in pairs.items()
        if "svhn" in of[0][0].spec.ood
    }


@test
def bias_reduced(profile: str) -> Effects:
    effects = {}
    for id_, of in _pairs(profile, "ccm_gaussian", "mle").items():
        simpler = [o for o in of[0][0].spec.ood if of[0][0].complexity_gap(o) < -0.5]
        for part, sets in (("with the simpler sets", simpler), ("with all sets", None)):
            values = [_correlation(a, sets) - _correlation(b, sets) for a, b in of]
            effects[f"{_label(id_)} {part}"] = np.array(values)
    return effects


@test
def beats_mle(profile: str) -> Effects:
    effects = {}
    for id_, of in _pairs(profile, "ccm_gaussian", "mle").items():
        for ood in of[0][0].spec.ood:
            effects[f"{_label(id_)} / {_label(ood)}"] = _difference(of, lambda run, ood=ood: [ood])
    return effects


@test
def best_synthetic(profile: str) -> Effects:
    effects = {}
    for other, label in (("gaussian", "Gaussian"), ("ccm", "CCM")):
        for id_, of in _pairs(profile, "ccm_gaussian", other).items():
            effects[f"{_label(id_)}, against {label}"] = _difference(of, _all_sets)
    return effects


@test
def matches_real(profile: str) -> Effects:
    pairs = _pairs(profile, "ccm_gaussian", "ro")
    return {_label(id_): _difference(of, _all_sets) for id_, of in pairs.items()}


@test
def id_kept(profile: str) -> Effects:
    pairs = _pairs(profile, "ccm_gaussian", "mle")
    return {
        _label(id_): np.array([b.metrics["id"]["bpd"] - a.metrics["id"]["bpd"] for a, b in of])
        for id_, of in pairs.items()
    }


def _complexity_term(profile: str, ood: str, sign: float) -> Effects:
    by_id: dict[str, list[float]] = {}
    for run in _rows(profile):
        if run.spec.method == "mle" and ood in run.spec.ood:
            effect = _auroc(run, ood, "pz_comp") - _auroc(run, ood, "pz")
            by_id.setdefault(_label(run.spec.id), []).append(sign * effect)
    return {id_: np.array(v) for id_, v in by_id.items()}


@test
def complexity_helps(profile: str) -> Effects:
    return _complexity_term(profile, "svhn", 1.0)


@test
def complexity_fails(profile: str) -> Effects:
    return _complexity_term(profile, "isun", -1.0)


@test
def lipschitz_rises(profile: str) -> Effects:
    table = _table(profile, "lipschitz")
    if table is None:
        return {}
    largest = table.pivot_table(index=["id", "quantity", "seed"], columns="method", values="max")
    if not {"CCM+Gaussian", "MLE"} <= set(largest.columns):
        return {}
    ratio = np.log10(largest["CCM+Gaussian"] / largest["MLE"]).dropna()
    return {
        f"{_label(id_)}, {name}": ratio.loc[id_, reading].to_numpy()
        for id_ in ratio.index.levels[0]
        for reading, name in _READINGS.items()
        if (id_, reading) in ratio.index.droplevel("seed")
    }


_READINGS = {
    "grad_sum_z": "gradient of the sum of z",
    "grad_logp": "gradient of log p",
    "spectral": "largest singular value",
}


@test
def hypothesis_1(profile: str) -> Effects:
    table = _table(profile, "hypothesis_1")
    if table is None:
        return {}
    effects = {}
    for row in table.itertuples():
        clear = abs(row.spearman_with_C) > 2 / row.n**0.5  # about two standard errors of no correlation
        effects[f"{row.method}, {row.side}"] = np.array([-row.spearman_with_C if clear else 0.0])
    return effects


@test
def moderate_blur(profile: str) -> Effects:
    curves: dict[tuple[str, int], dict[float, runs.Run]] = {}
    for run in _finished(profile, "fig_6"):
        curves.setdefault((run.spec.id, run.spec.seed), {})[run.spec.blur_radius] = run
    effects: dict[str, list[float]] = {}
    for (id_, _), by_radius in curves.items():
        radii = sorted(by_radius)
        # the paper's curve has SVHN, the quick profile digits
        shown = [o for o in ("svhn", "digits") if o in by_radius[radii[0]].spec.ood]
        for ood, score in itertools.product(shown if len(radii) >= 3 else [], ("pz", "px")):
            values = [_auroc(by_radius[r], ood, score) for r in radii]
            effects.setdefault(f"{_label(id_)}, {score}", []).append(
                max(values[1:-1]) - max(values[0], values[-1])
            )
    return {part: np.array(v) for part, v in effects.items()}


@test
def no_threshold(profile: str) -> Effects:
    # without a threshold the slope of eq. (3) would not depend on the unit of x; it is taken at the likelihood of ID
    by_id: dict[str, list[float]] = {}
    for run in _rows(profile):
        if run.spec.method == "mle":
            log_p = torch.tensor(run.metrics["id"]["log_px_mean"], dtype=torch.float64)
            levels = [log_p, log_p - run.metrics["d"] * np.log(256)]  # x in [0, 1], x in 0..255
            slopes = []
            for level in levels:
                level.requires_grad_()
                slopes += torch.autograd.grad(objective.penalty(level[None]).sum(), level)
            # as claimed: the slope stays within 0.01
            by_id.setdefault(_label(run.spec.id), []).append(0.01 - abs(float(slopes[1] - slopes[0])))
    return {id_: np.array(v) for id_, v in by_id.items()}


@test
def text_simplifies(profile: str) -> Effects:
    table = _table(profile, "table_9_text")  # the one that made the outliers
    if table is None or "ours" not in table:
        return {}
    ours = table.set_index("set")["ours"]
    if not {"imdb_originals", "imdb_synthesized"} <= set(ours.dropna().index):
        return {}
    return {"IMDb": np.array([ours["imdb_originals"] - ours["imdb_synthesized"]])}


@test
def text_improves(profile: str) -> Effects:
    effects: dict[str, list[float]] = {}
    done = {
        (r.spec.id, getattr(r.spec, "encoder", None), r.spec.method, r.spec.seed): r
        for r in _finished(profile, "table_6")
    }
    for (id_, encoder, method, seed), run in done.items():
        plain = done.get((id_, encoder, "mle", seed))
        if method == "text" and plain is not None:
            for ood in run.spec.ood:
                part = f"{corpora.LABELS.get(ood, ood)}, {encoders.label_of(encoder)}"
                effects.setdefault(part, []).append(_auroc(run, ood) - _auroc(plain, ood))
    return {part: np.array(v) for part, v in effects.items()}


def _highdim(profile: str, table: str, sets: Iterable[str]) -> Effects:
    """The published score of each corrected row minus the plain one, for the sets that the paper prints."""
    done = {
        (r.spec.id, r.spec.model, r.spec.method, r.spec.seed): r
        for r in _finished(profile, table)
        if r.spec.id in set(sets)
    }
    effects: dict[str, list[float]] = {}
    for (id_, model, method, seed), run in done.items():
        plain = done.get((id_, model, "mle", seed))
        if method != "mle" and plain is not None:
            (ood,) = run.spec.ood
            gain = _auroc(run, ood, "published") - _auroc(plain, ood, "published")
            part = f"{highdim.LABELS[id_]}, {map_flows.LABELS[model]}+{METHOD_LABELS[method]}"
            effects.setdefault(part, []).append(gain)
    return {part: np.array(v) for part, v in effects.items()}


@test
def highdim_improves(profile: str) -> Effects:
    return _highdim(profile, "table_5", tables.printed("table_5")["dataset"])


@test
def mvtec_improves(profile: str) -> Effects:
    return _highdim(profile, "table_10", (f"mvtec_{c}" for c in highdim.MVTEC))


@test
def regions_emptied(profile: str) -> Effects:
    table = _table(profile, "fig_2_regions")
    if table is None:
        return {}
    inside = table[(table["quantity"] == "mass") & (table["where"] != "beyond")]
    return {
        f"{row['set']}, {row['where']}": np.array([row["without"] - row["with"]])
        for _, row in inside.iterrows()
    }
