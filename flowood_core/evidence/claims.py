"""The paper's claims, one by one, with a verdict computed from the runs and tables of a profile.

`data/paper/claims.csv` holds the sentences, the paper's own or marked as ours; each names a test of this file. A test
returns the parts of the claim, each with an effect and its interval, signed so that positive is what the paper says.

One rule says what counts: the quantity the paper uses, on the ID and OOD sets that it prints for this claim, as far as
they were run. Another quantity (log p_X where the paper shows log p_Z) and our own sets are counted apart, under their
name. A profile that has none of the paper's sets is judged on its own.

`verdicts` says when a part holds, and what that makes of the claim.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from flowood_core import intervals, runs
from flowood_core.datasets import corpora, highdim
from flowood_core.evidence import tables
from flowood_core.evidence.measured import (
    BY_PX,
    OTHER_SETS,
    Evidence,
    facts,
    gains,
    label,
    of_method,
    pairs,
    whose,
)
from flowood_core.evidence.verdicts import Part, Parts, judge
from flowood_core.features import encoders, map_flows
from flowood_core.intervals import Interval, Sample
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.system import paths

__all__ = ["Evidence", "effects", "evaluate", "frame", "printed"]

BACKBONES = {"fastflow": "wide_resnet50_2", "cs_flow": "efficientnet_b5"}  # A23
ENCODER = "albert/albert-base-v2"


TESTS: dict[str, Callable[["Evidence"], Parts]] = {}


def tests_a_claim(function: Callable[["Evidence"], Parts]) -> Callable[["Evidence"], Parts]:
    """Register a test under its name; it takes the evidence and returns parts, none where nothing was run."""
    TESTS[function.__name__] = function
    return function


def printed() -> pd.DataFrame:
    """The claims: claim, section, sentence, wording (the paper's, ours), needs (all, some), test, unit and title."""
    return pd.read_csv(paths.paper_root() / "claims.csv", keep_default_na=False)


def effects(profile: str, at: "Evidence | None" = None) -> dict[str, Parts]:
    """What was measured of every claim under a profile, by the claim's name; `at` where its runs are read already."""
    at = Evidence(profile) if at is None else at
    return {row.claim: TESTS[row.test](at) for row in printed().itertuples()}


def evaluate(profile: str, measured: dict[str, Parts] | None = None) -> pd.DataFrame:
    """Every claim with its verdict under a profile.

    Args:
        profile: of the runs.
        measured: what `effects` returned, where it is at hand.
    Returns:
        Columns claim, section, sentence, wording, verdict, parts, best, worst, apart, seeds, setting, effect (all of
        these in a line), unit.
    """
    measured = effects(profile) if measured is None else measured
    rows = []
    for row in printed().itertuples():
        v = judge(measured[row.claim], needs=row.needs)
        said = {"claim": row.claim, "section": row.section, "sentence": row.sentence, "wording": row.wording}
        found = {"verdict": v.word, "parts": v.parts, "best": v.best, "worst": v.worst, "apart": v.apart}
        more = {"seeds": v.seeds, "setting": v.setting, "effect": v.effects, "unit": row.unit}
        rows.append(said | found | more)
    return pd.DataFrame(rows)


def frame(measured: dict[str, Parts]) -> pd.DataFrame:
    """Every part of every claim as a row: claim, part, apart, setting, value, low, high, n_seeds, sign."""
    rows = [
        (claim, p.name, p.apart, p.setting, p.effect.value, p.effect.low, p.effect.high, len(p.effect.seeds), p.sign)
        for claim, parts in measured.items()
        for p in parts
    ]  # fmt: skip
    columns = ["claim", "part", "apart", "setting", "value", "low", "high", "n_seeds", "sign"]
    return pd.DataFrame(rows, columns=columns)


# --- the tests ---------------------------------------------------------------------------------------------


def _correlation(run: runs.Run, quantity: str, sets: Iterable[str]) -> Sample:
    """Of C(x) with a log-density over the pooled test images of the ID set and others."""
    names = (run.spec.id, *sets)
    c, lp = ({n: run.arrays[n][q] for n in names} for q in ("complexity", quantity))
    return intervals.correlation(c, lp, [intervals.of(n, c[n]) for n in names])


def _drawn_in_fig_3(run: runs.Run) -> tuple[str, ...]:
    """SVHN and iSUN; where neither is there, as in the quick profile, all sets."""
    papers = [o for o in ("svhn", "isun") if o in run.metrics["ood"]]
    return tuple(papers or run.metrics["ood"])


QUANTITIES = {"log_pz": "", "log_px": BY_PX}


def _of_fig_3(id_: str, quantity: str) -> str:
    # Fig. 3 shows CIFAR as ID
    return QUANTITIES[quantity] or (OTHER_SETS if id_ == "isun" else "")


@tests_a_claim
def bias_of_mle(at: Evidence) -> Parts:
    found = []
    for quantity in QUANTITIES:
        for id_, of in of_method(at, "mle").items():
            r = [_correlation(run, quantity, _drawn_in_fig_3(run)) * -1 for run in of]
            found.append(Part(label(id_), intervals.over(r), _of_fig_3(id_, quantity)))
    return found


@tests_a_claim
def bias_reduced(at: Evidence) -> Parts:
    found = []
    for quantity in QUANTITIES:
        for id_, of in pairs(at, "ccm_gaussian", "mle").items():
            sets = _drawn_in_fig_3(of[0][0])
            gained = [_correlation(a, quantity, sets) - _correlation(b, quantity, sets) for a, b in of]
            found.append(Part(label(id_), intervals.over(gained), _of_fig_3(id_, quantity)))
    return found


@tests_a_claim
def simple_missed(at: Evidence) -> Parts:
    """Every pair whose ID set is the simpler one against every pair whose ID set is the more complex one."""
    by_pair: dict[tuple[str, str], list[runs.Run]] = {}
    for id_, of in of_method(at, "mle").items():
        for ood in of[0].metrics["ood"]:
            by_pair[id_, ood] = of
    simpler, harder = (
        {k: v for k, v in by_pair.items() if side * v[0].complexity_gap(k[1]) > 0.5} for side in (1, -1)
    )
    found = []
    for up, a in simpler.items():
        for down, b in harder.items():
            gains = [tables.sample(x, up[1]) - tables.sample(y, down[1]) for x, y in zip(a, b, strict=False)]
            apart = whose(*up, "table_1") or whose(*down, "table_1")
            name = f"{_pair(up)} against {_pair(down)}"
            found.append(Part(name, intervals.over(gains, bounds=(-100, 100)), apart))
    return sorted(found, key=lambda p: p.apart != "")


def _pair(pair: tuple[str, str]) -> str:
    return " / ".join(map(label, pair))


@tests_a_claim
def fingerprint(at: Evidence) -> Parts:
    table = at.table("table_7")
    if table is None:
        return []
    done = table.dropna(subset=["mean"])
    # as claimed: within two standard errors and half a unit of the printed digit
    slack = 2 * done["sd"] / np.sqrt(done["n"]) + 0.005 - done["difference"].abs()
    return facts((label(name), s) for name, s in zip(done["set"], slack, strict=True))


@tests_a_claim
def blur_simplifies(at: Evidence) -> Parts:
    both = [t for name in ("table_7", "table_7_others") if (t := at.table(name)) is not None]
    if not both:
        return []
    means = pd.concat(both).set_index("set")["mean"].dropna()
    blurred = [n for n in means.index if n.endswith("_blurred")]
    return facts(
        (label(o), means[o] - means[n]) for n in blurred if (o := n.removesuffix("_blurred")) in means
    )


@tests_a_claim
def beats_mle(at: Evidence) -> Parts:
    found = gains(at, "ccm_gaussian", "mle")
    return found + gains(at, "ccm_gaussian", "mle", "px", BY_PX, only_papers=True)


@tests_a_claim
def best_synthetic(at: Evidence) -> Parts:
    found = []
    for other in ("gaussian", "ccm"):
        for part in gains(at, "ccm_gaussian", other):
            name = f"{part.name}, against {METHOD_LABELS[other]}"
            found.append(dataclasses.replace(part, name=name))
    return found


@tests_a_claim
def matches_real(at: Evidence) -> Parts:
    return gains(at, "ccm_gaussian", "ro")


@tests_a_claim
def id_kept(at: Evidence) -> Parts:
    found = []
    for quantity, apart in QUANTITIES.items():
        for id_, of in pairs(at, "ccm_gaussian", "mle").items():
            drawn = intervals.of(id_, of[0][0].arrays[id_][quantity])
            gained = [
                intervals.mean(a.arrays[id_][quantity] - b.arrays[id_][quantity], drawn)
                * (1 / (np.log(2) * a.metrics["d"]))
                for a, b in of
            ]
            found.append(Part(label(id_), intervals.over(gained), apart))
    return found


@tests_a_claim
def complexity_helps(at: Evidence) -> Parts:
    found = []
    for (id_, method), of in _by_row(at).items():
        if "svhn" in of[0].metrics["ood"]:
            gains = [tables.sample(r, "svhn", "pz_comp") - tables.sample(r, "svhn", "pz") for r in of]
            found.append(
                Part(f"{label(id_)}, {METHOD_LABELS[method]}", intervals.over(gains, bounds=(-100, 100)))
            )
    return found


@tests_a_claim
def complexity_fails(at: Evidence) -> Parts:
    found = []
    for (id_, method), of in _by_row(at).items():
        if "isun" in of[0].metrics["ood"]:
            below = [(tables.sample(r, "isun", "pz_comp") * -1).shifted(50) for r in of]
            found.append(Part(f"{label(id_)}, {METHOD_LABELS[method]}", intervals.over(below)))
    return found


def _by_row(at: Evidence) -> dict[tuple[str, str], list[runs.Run]]:
    found: dict[tuple[str, str], list[runs.Run]] = {}
    for (id_, method, _), run in at.rows.items():
        found.setdefault((id_, method), []).append(run)
    return found


@tests_a_claim
def lipschitz_rises(at: Evidence) -> Parts:
    """Maxima of the three readings of f, as the paper takes them; the constant of the inverse apart (A31)."""
    table = at.table("lipschitz")
    if table is None or not {"CCM+Gaussian", "MLE"} <= set(table["method"]):
        return []
    found = []
    for statistic, name in {"max": "maximum", "median": "median", "q95": "95 % quantile"}.items():
        by_method = table.pivot_table(index=["quantity", "id", "seed"], columns="method", values=statistic)
        rise = np.log10(by_method["CCM+Gaussian"] / by_method["MLE"]).dropna()
        for (quantity, id_), of in rise.groupby(["quantity", "id"], sort=False):
            inverse = quantity == "spectral of the inverse"
            if inverse or statistic == "max":
                part = f"{label(id_)}, {READINGS.get(quantity, quantity)}"
                apart = f"inverse of f, {name}" if inverse else ""
                found.append(Part(part, intervals.over(map(Sample, of)), apart))
    return sorted(found, key=lambda p: p.apart != "")


READINGS = {
    "grad_sum_z": "gradient of the sum of z",
    "grad_logp": "gradient of log p",
    "spectral": "largest singular value",
    "spectral of the inverse": "largest singular value of the inverse",
}


@tests_a_claim
def hypothesis_1(at: Evidence) -> Parts:
    """The constant of the inverse, whose domain is that of the hypothesis; the constant of f apart (A31)."""
    table = at.table("hypothesis_1")
    if table is None:
        return []
    found = []
    for row in table.itertuples():
        rho = -row.spearman_with_C
        name = ", ".join(filter(None, (row.id and label(row.id), row.method, row.side)))
        # the table has the interval over seeds, not their values: only how many there are counts here
        apart = "" if row.side == "inverse of f" else "f itself"
        found.append(Part(name, Interval(rho, -row.high, -row.low, (rho,) * int(row.n_seeds)), apart))
    return sorted(found, key=lambda p: p.apart != "")


@tests_a_claim
def moderate_blur(at: Evidence) -> Parts:
    """The paper's own radius, 1, against the two ends of the curve: no maximum is selected."""
    curves: dict[tuple[str, int], dict[float, runs.Run]] = {}
    for run in at.finished("fig_6"):
        curves.setdefault((run.spec.id, run.spec.seed), {})[run.spec.blur_radius] = run
    found: dict[tuple[str, str], list[Sample]] = {}
    for (id_, _), by_radius in curves.items():
        # the paper's curve has SVHN, the quick profile digits
        shown = [o for o in ("svhn", "digits") if 1 in by_radius and o in by_radius[1].metrics["ood"]]
        for ood in shown:
            for end in {min(by_radius), max(by_radius)} - {1}:
                for score, apart in (("pz", ""), ("px", BY_PX)):
                    both = [tables.sample(by_radius[r], ood, score) for r in (1, end)]
                    found.setdefault((f"{label(id_)}, radius 1 against {end:g}", apart), []).append(
                        both[0] - both[1]
                    )
    return [Part(name, intervals.over(of, bounds=(-100, 100)), apart) for (name, apart), of in found.items()]


@tests_a_claim
def no_threshold(at: Evidence) -> Parts:
    """The same training with pixels in 0..255, where log p is smaller by D ln 256: tau is moved by as much (A1)."""
    bases = at.rows
    moved: dict[str, list[Sample]] = {}
    for run in at.finished("choices"):
        base = bases.get((run.spec.id, run.spec.method, run.spec.seed))
        if (
            base is not None
            and run.spec.tau
            and np.isclose(run.spec.tau, run.metrics["d"] * np.log(256), rtol=1e-3)
        ):
            for ood in run.metrics["ood"]:
                if not whose(run.spec.id, ood, "table_2", "table_3"):
                    gain = tables.sample(run, ood) - tables.sample(base, ood)
                    moved.setdefault(f"{label(run.spec.id)} / {label(ood)}", []).append(gain)
    return [
        Part(name, _within(intervals.over(of, bounds=(-100, 100)), tables.WIDE)) for name, of in moved.items()
    ]


def _within(e: Interval, tolerance: float) -> Interval:
    """How far the size of an effect stays below a tolerance."""
    nearest = 0.0 if e.low < 0 < e.high else min(abs(e.low), abs(e.high))
    ends = tolerance - max(abs(e.low), abs(e.high)), tolerance - nearest
    return Interval(tolerance - abs(e.value), *ends, tuple(tolerance - abs(v) for v in e.seeds), e.drawn)


@tests_a_claim
def regions_emptied(at: Evidence) -> Parts:
    table = at.table("fig_2_regions")
    if table is None:
        return []
    inside = table[(table["quantity"] == "mass") & (table["where"] != "beyond")]
    return facts(
        (f"{row['set']}, {row['where']}", row["without"] - row["with"]) for _, row in inside.iterrows()
    )


@tests_a_claim
def text_simplifies(at: Evidence) -> Parts:
    table = at.table("table_9_text")  # the one that made the outliers
    if table is None or "ours" not in table:
        return []
    ours = table.set_index("set")["ours"].dropna()
    if not {"imdb_originals", "imdb_synthesized"} <= set(ours.index):
        return []
    return facts([("IMDb", ours["imdb_originals"] - ours["imdb_synthesized"])])


@tests_a_claim
def text_improves(at: Evidence) -> Parts:
    done = {(r.spec.id, r.spec.encoder, r.spec.method, r.spec.seed): r for r in at.finished("table_6")}
    gained: dict[tuple[str, str], list[Sample]] = {}
    for (id_, encoder, method, seed), run in done.items():
        plain = done.get((id_, encoder, "mle", seed))
        if method == "text" and plain is not None:
            for ood in run.metrics["ood"]:
                part = f"{corpora.LABELS.get(ood, ood)}, {encoders.label_of(encoder)}"
                gain = tables.sample(run, ood) - tables.sample(plain, ood)
                gained.setdefault((part, "" if encoder == ENCODER else "other encoder"), []).append(gain)
    return [
        Part(name, intervals.over(of, bounds=(-100, 100)), setting=setting)
        for (name, setting), of in gained.items()
    ]


def _highdim(at: Evidence, table: str, sets: Iterable[str]) -> Parts:
    """The published score of each corrected row minus the plain one, for the sets that the paper prints."""
    wanted = set(sets)
    done = {
        (r.spec.id, r.spec.model, r.spec.method, r.spec.seed): r
        for r in at.finished(table)
        if r.spec.id in wanted
    }
    gained: dict[tuple[str, str], list[Sample]] = {}
    for (id_, model, method, seed), run in done.items():
        plain = done.get((id_, model, "mle", seed))
        if method != "mle" and plain is not None:
            (ood,) = run.metrics["ood"]
            gain = tables.sample(run, ood, "published") - tables.sample(plain, ood, "published")
            part = f"{highdim.LABELS[id_]}, {map_flows.LABELS[model]}+{METHOD_LABELS[method]}"
            same = run.spec.backbone.startswith(BACKBONES[model])
            gained.setdefault((part, "" if same else "other backbone"), []).append(gain)
    return [
        Part(name, intervals.over(of, bounds=(-100, 100)), setting=setting)
        for (name, setting), of in gained.items()
    ]


@tests_a_claim
def highdim_improves(at: Evidence) -> Parts:
    return _highdim(at, "table_5", tables.printed("table_5")["dataset"])


@tests_a_claim
def mvtec_improves(at: Evidence) -> Parts:
    return _highdim(at, "table_10", (f"mvtec_{c}" for c in highdim.MVTEC))
