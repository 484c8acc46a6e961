"""What figures and tables show, in sentences by hand: each with the condition under which it is said.

They are written for profile sample. Where its numbers move, or in another profile, a condition fails, and the
sentence gives way to one that says what came out (`flowood_core.notebook.reading`).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from flowood_core.evidence import tables
from flowood_core.evidence.feature_tables import METHODS
from flowood_core.features import map_flows
from flowood_core.notebook.labels import text_of
from flowood_core.notebook.reading import Said
from flowood_core.outliers.image import METHOD_LABELS

__all__ = ["bias", "bias_and_cure", "complexity_of_pictures", "complexity_of_sets", "feature_gains", "feature_levels",
           "feature_size", "feature_variants", "mvtec_categories", "order_of_texts", "what_it_does"]  # fmt: skip


NOTABLE = 3  # AUROC points: about the half-width of an interval over 1,000 + 1,000 test images


def bias_and_cure(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> list[Said]:
    """The figure of the start page.

    Args:
        before, after: log p_X in nats by set, the ID set first, without and with outliers.
    """
    first, *others = before
    above = [{s for s in others if np.median(of[s]) > np.median(of[first])} for of in (before, after)]
    named = [", ".join(str(text_of(s)) for s in others if s in found) or "none" for found in above]
    far = [s for s in others if np.median(after[s]) < np.quantile(after[first], 0.05)]
    return [
        (
            True,
            f"Likelier than {text_of(first)} by the median: {named[0]} without outliers, {named[1]} with them.",
        ),
        (
            len(far) > 0,
            f"With outliers half of the images of {', '.join(str(text_of(s)) for s in far)} lie below 95 % of "
            f"{text_of(first)}."
            + " Of every other set at least half would still pass there."
            * (len(far) < len(others)),
            f"With outliers at least half of the images of every set would still pass where 95 % of {text_of(first)} "
            "do.",
        ),
    ]


def what_it_does(frame: pd.DataFrame, by_seed: pd.DataFrame) -> list[Said]:
    """AUROC without and with outliers, one seed, and how far other seeds lie from it.

    Args:
        frame: rows of `tables.collect` with printed names: score (pz, px, comp_only), method, ood, value, low, high.
        by_seed: the same for eq. (4) and the corrected flow alone, every seed that is there.
    """
    base, ours = METHOD_LABELS["mle"], METHOD_LABELS["ccm_gaussian"]
    cell = frame.set_index(["score", "method", "ood"]).sort_index()
    said: list[Said] = []
    for score in (s for s in ("pz", "px") if (s, base) in cell.index.droplevel("ood")):
        a, b = (cell.loc[(score, method)].loc[list(dict.fromkeys(frame["ood"]))] for method in (base, ours))
        moved = b["value"] - a["value"]
        kinds = {"raise": moved > NOTABLE, "lower": moved < -NOTABLE, "hardly move": moved.abs() <= NOTABLE}
        listed = [
            f"{verb} " + ", ".join(f"{o} ({moved[o]:+.1f})" for o in moved.index[which])
            for verb, which in kinds.items()
            if which.any()
        ]
        missed = [", ".join(of.index[of["high"] < 50]) or "no set" for of in (a, b)]
        said.append((
            True,
            f"By {str(text_of(score)).split(',')[-1].strip()} outliers {'; '.join(listed)}. Misled: by {missed[0]} "
            f"without them, by {missed[1]} with them.",
        ))  # fmt: skip
    ends = by_seed.groupby("ood", sort=False)["value"].agg(["min", "max", "count"])
    wide = ends[(ends["count"] > 1) & (ends["max"] - ends["min"] > 5)]
    return [
        *said,
        (
            len(wide) > 0,
            "One seed is not the method. Over the seeds that are here, with outliers and by eq. (4): "
            + ", ".join(f"{o} {e['min']:.1f}–{e['max']:.1f}" for o, e in wide.iterrows())
            + ". `03_1_benchmark_images` has them all.",
        ),
    ]


def complexity_of_sets(C: Mapping[str, np.ndarray], labels: Mapping[str, str], radius: float) -> list[Said]:
    """Fig. 5.

    Args:
        C: per set its complexities, bits per dimension; NAME_blurred is NAME after the blur of that radius.
    """
    mean = {name: float(np.mean(c)) for name, c in C.items()}
    order = " < ".join(labels[name] for name in sorted(mean, key=mean.__getitem__))
    blurred = [n for n in mean if n.endswith("_blurred") and n.removesuffix("_blurred") in mean]
    falls = [mean[n.removesuffix("_blurred")] - mean[n] for n in blurred] or [np.nan]
    cifar = [mean[n] for n in blurred if "cifar" in n]
    like_svhn = len(cifar) > 0 and all(abs(c - mean.get("svhn", np.inf)) < 0.1 for c in cifar)
    others = [c for name, c in mean.items() if name != "isun"]
    return [
        (len(mean) > 1, f"From simple to complex by their means: {order}."),
        (
            min(falls) > 1,
            f"A blur of radius {radius:g} takes {min(falls):.1f} to {max(falls):.1f} bits per dimension from a set.",
            f"A blur of radius {radius:g} takes less than one bit per dimension from some set."
            if blurred
            else "",
        ),
        (
            like_svhn,
            "It makes the CIFAR sets as simple as SVHN: the outliers that a flow is trained on have the complexity of "
            "the set that it misses.",
        ),
        (
            mean.get("isun", -np.inf) > max(others, default=np.inf) + 0.9,
            "iSUN alone lies far above all others.",
        ),
    ]


def order_of_texts(order: pd.DataFrame) -> list[Said]:
    """What shuffling costs.

    Args:
        order: of `complexity_tables.order_of_texts`, indexed by corpus.
    """
    if order.empty:
        return [(True, "No corpus of Table 9 is here.")]
    torn = (order["shuffled"] - order["as stored"]).sort_values(ascending=False)
    first, second = torn.iloc[0], torn.iloc[1:].abs().max()
    most = order.loc[torn.index[0]]
    return [
        (
            first > 0.1 > second,
            f"Order matters for one corpus. {torn.index[0]} costs {most['as stored']:.2f} as stored and "
            f"{most['shuffled']:.2f} shuffled, since its texts are paragraphs of articles; the others move by at most "
            f"{second:.2f}. Table 9 is about corpora, so the stored order is the right one here. The test texts that "
            "`03_3_text` scores are a random draw, and cost what the shuffled corpus costs.",
            f"Shuffling moves C(X) by up to {torn.abs().max():.2f} bits per byte ({torn.abs().idxmax()}).",
        )
    ]


def bias(sides: pd.DataFrame) -> list[Said]:
    """The two statements of the bias.

    Args:
        sides: of `complexity_tables.sides`, the paper's panel first, then eq. (4), then the full density.
    """
    paper, own = sides.iloc[0], sides.iloc[1:].query('sets == "the paper\'s"')
    every = sides.iloc[1:].query("sets == 'all'")
    ranked = (own["harder_low"] > own["simpler_high"]).tolist()
    broken = (every["harder_low"] <= every["simpler_high"]).tolist()
    n, below = own["n_simpler"].sum(), own["below_chance"].sum()
    return [
        (
            paper["harder_low"] > paper["simpler_high"],
            f"In the paper every more complex set ({paper['harder_low']:.1f} and above) is found better than any "
            f"simpler one (up to {paper['simpler_high']:.1f}).",
        ),
        (
            ranked == [True, False],
            "On the same sets ours keep that order by eq. (4), and do not by the full density.",
            f"On the same sets ours keep it by {sum(ranked)} of {len(ranked)} scores."
            if ranked
            else "No run of ours is on the paper's sets.",
        ),
        (
            len(broken) > 0 and all(broken),
            "With the other sets at hand neither score keeps it: simpler sets reach "
            f"{every['simpler_high'].max():.1f}, and more complex ones begin at {every['harder_low'].min():.1f}.",
        ),
        (
            n > 0,
            f"A simpler set is found worse than by a coin in {paper['below_chance']:.0f} of {paper['n_simpler']:.0f} "
            f"printed pairs, and surely so in {below} of our {n} (both scores).",
        ),
    ]


def feature_gains(counts: pd.DataFrame, deltas: pd.DataFrame) -> list[Said]:
    """What outliers add to FastFlow and CS-Flow.

    Args:
        counts: of `feature_tables.gain_counts`. deltas: the rows it counts.
    """
    of = counts.set_index(["score", "model"])
    said: list[Said] = []
    for model, name in map_flows.LABELS.items():
        if ("published", model) not in of.index:
            continue
        c, mine = of.loc[("published", model)], deltas.query("score == 'published' and model == @model")
        n, up, down = (int(c[k]) for k in ("rows", "above", "below"))
        clear = mine.loc[mine["low"] > 0, "ood"].unique()
        where = {"chest_xray_bad": "the chest X-rays", "magnetic_tile_bad": "the tiles"}
        said.append((
            0 < up < n and down == 0 and len(clear) == 1,
            f"{name} gains with {up} of {n} rows for sure, all of them on "
            f"{where.get(next(iter(clear), ''), 'one set')} ({c['most']:+.1f} at best). On the other set "
            "every interval holds zero. That is one data set at one size: not yet the paper's claim.",
            f"{name}: {up} of {n} rows with outliers lie above their plain row with the whole interval, {down} below "
            f"({c['least']:+.1f} to {c['most']:+.1f} points).",
        ))  # fmt: skip
    ccm = deltas.query(
        "score == 'published' and model == 'fastflow' and ood == 'chest_xray_bad' and method == 'ccm'"
    )
    printed = tables.printed("table_5").query(
        "model == 'fastflow' and dataset == 'chest_xray' and metric == 'auroc'"
    )
    theirs = printed.set_index("method")["paper"]
    moved = theirs["ccm"] - theirs["plain"]
    said.append((
        len(ccm) == 1 and bool((ccm["value"] > 0).all()) and moved < 0,
        f"CCM alone raises FastFlow on the chest X-rays here, by {ccm['value'].sum():+.1f} on average, "
        f"{'for sure' if (ccm['low'] > 0).all() else 'with an interval that holds zero'}; in the paper it moves it by "
        f"{moved:+.1f}.",
    ))  # fmt: skip
    cs = deltas.query("score == 'px' and model == 'cs_flow'")
    chest, tile = (cs[cs["ood"] == f"{s}_bad"] for s in ("chest_xray", "magnetic_tile"))
    said.append((
        len(chest) > 0 and (chest["value"] > 0).all() and tile["value"].abs().max() < 2,
        f"By −log p, on which the objective acts, CS-Flow moves by {_ends(chest['value'])} on the chest X-rays and "
        f"by {_ends(tile['value'])} on the tiles; {int((cs['low'] > 0).sum())} of {len(cs)} intervals lie above zero.",
    ))  # fmt: skip
    return said


def feature_levels(levels: pd.DataFrame) -> list[Said]:
    """Where ID images, outliers and OOD lie.

    Args:
        levels: of `feature_tables.levels`.
    """
    trained = levels.dropna(subset="threshold")
    names = levels.index.get_level_values("model")
    fast, cs = (trained[trained.index.get_level_values("model") == m] for m in map_flows.LABELS.values())
    over = (levels["ID trained on"] - levels["ID unseen"]).groupby(names).mean()
    gap = (cs["ID unseen"] - cs["outliers"]).abs()
    return [
        (
            len(fast) > 0 and (fast["outliers"] < fast["threshold"] - 0.5).all(),
            "FastFlow pushes its outliers well below the threshold, and OOD images follow part of the way.",
            "FastFlow does not push all its outliers below the threshold." if len(fast) else "",
        ),
        (
            len(cs) > 0 and gap.min() < 0.1,
            f"In some rows of CS-Flow the outliers stay {gap.min():.2f} nats per dimension from unseen ID images: "
            "there the objective has not told them apart.",
        ),
        (
            bool((over > 0).all()),
            f"Unseen ID images lie {over.min():.2f} to {over.max():.2f} below those trained on (mean by model).",
        ),
    ]


def feature_variants(gains: Mapping[str, pd.DataFrame], ours: pd.DataFrame) -> list[Said]:
    """The variants of section 3.2.

    Args:
        gains: by table of the grid, of `tables.over_base`. ours: rows of Table 5 in long form.
    """
    large = gains.get("table_5_256", pd.DataFrame(columns=["value", "low", "high", "n_seeds"])).astype(
        {"value": float}
    )
    additive = gains.get("table_5_additive", large.iloc[:0])
    lossy = ours.query("model == 'cs_flow' and score == 'published' and metric == 'auroc'")
    return [
        (
            len(large) > 0 and large["value"].between(0, 5).all() and (large["n_seeds"] == 1).all(),
            f"At the paper's size FastFlow gains {_ends(large['value'])}, from one seed: less than at 128 pixels, and "
            f"{int((large['low'] > 0).sum())} of {len(large)} intervals over test draws lie above zero.",
            f"At 256 pixels FastFlow moves by {_ends(large['value'])}." if len(large) else "",
        ),
        (
            len(additive) > 0 and len(lossy) > 0 and (additive["value"] > 0).all(),
            f"With additive couplings CS-Flow gains {_ends(additive['value'])} by its published score, where the "
            "published couplings lose on average. The determinant is what the two differ in.",
            f"With additive couplings CS-Flow moves by {_ends(additive['value'])} points."
            if len(additive)
            else "",
        ),
    ]


def feature_size(auroc: pd.DataFrame, alone: pd.DataFrame, gains: pd.DataFrame) -> list[Said]:
    """Flows at the paper's size beside its best flow and beside what needs no flow.

    Args:
        auroc: of `tables.over_seeds`: model, method, score, value, low, high. alone: of `feature_tables.without_flow`.
        gains: of `tables.over_base`: score, model, value, low, high.
    """
    trained = auroc[auroc["score"] == "px"].reset_index(drop=True)
    if not len(trained):
        return []
    best = trained.loc[trained["value"].idxmax()]
    name = f"{map_flows.LABELS[best['model']]}, {METHODS[best['method']]}"
    rows = tables.printed("table_5").query("dataset == 'chest_xray' and metric == 'auroc'")
    printed, rival = rows["paper"].max(), alone.loc[alone["value"].idxmax()] if len(alone) else None
    said: list[Said] = [
        (
            best["low"] <= printed <= best["high"],
            f"By −log p, which the objective trains, the best row ({name}) reaches {best['value']:.1f}: level with the "
            f"paper's best flow, {printed:.1f}, which lies in its interval.",
            f"By −log p, which the objective trains, the best row ({name}) reaches {best['value']:.1f}; the paper's "
            f"best flow {printed:.1f}.",
        )
    ]
    for model in trained["model"].unique():
        mine, moved = (frame[frame["model"] == model] for frame in (auroc, gains))
        said += _gains_at_size(map_flows.LABELS[model], mine, moved)
    if rival is not None:
        without = f"{rival['model']} ({rival['method']}) reaches {rival['value']:.1f}"
        latent = auroc.loc[auroc["score"] == "pz", "value"].max()
        said.append((
            rival["value"] >= max(best["value"], latent),
            f"A flow is not needed for that: {without} without one.",
            f"Without a flow {without} at best.",
        ))  # fmt: skip
    return said


def _gains_at_size(name: str, auroc: pd.DataFrame, gains: pd.DataFrame) -> list[Said]:
    """One model of `feature_size`: by the score that is trained, by the published one, by eq. (4)."""
    latent = auroc[auroc["score"] == "pz"].set_index("method")["value"]
    others = latent.drop("mle", errors="ignore")
    moved, shown = (gains[gains["score"] == score] for score in ("px", "published"))
    up, n = int((moved["value"] >= 0).sum()), len(moved)
    sure = int((moved["low"] > 0).sum())
    return [
        (
            n > 0 and up == n,
            f"{name}: by −log p every row with outliers is at or above its plain row, {sure} of {n} for sure.",
            f"{name}: by −log p {up} of {n} rows with outliers lie at or above their plain row." if n else "",
        ),
        (
            len(shown) > 0 and (shown["value"] < 0).all() and (shown["high"] > 0).all(),
            f"By the published score, which does not see the determinant, they lie {_ends(shown['value'])} from it, "
            "and no interval leaves zero.",
            f"By the published score they lie {_ends(shown['value'])} from it." if len(shown) else "",
        ),
        (
            "mle" in latent.index and len(others) > 0,
            f"Eq. (4) gives {latent.get('mle', np.nan):.1f} without outliers and {others.min():.1f} to "
            f"{others.max():.1f} with them.",
        ),
    ]


def mvtec_categories(cells: pd.DataFrame, alone: pd.DataFrame) -> list[Said]:
    """The categories of Table 10 that were run.

    Args:
        cells: of `feature_tables.table_10`, those that were run. alone: of `feature_tables.without_flow`.
    """
    said: list[Said] = []
    for (category, model), of in cells.dropna(subset="ours").groupby(["category", "model"], sort=False):
        ours, paper = (of.set_index("method")[column] for column in ("ours", "paper"))
        if not {"plain", "ccm_gaussian"} <= set(ours.index):
            continue
        gain, theirs = (float(v["ccm_gaussian"] - v["plain"]) for v in (ours, paper))
        name = f"{category}, {map_flows.LABELS[model]}"
        said.append((
            ours.max() >= paper["plain"],
            f"{name}: {ours.max():.1f} at best, at or above the paper's plain {paper['plain']:.1f}.",
            f"{name}: {ours.max():.1f} at best; the paper's plain row has {paper['plain']:.1f}.",
        ))  # fmt: skip
        said.append((
            gain > 0,
            f"Outliers add {gain:+.1f}, in the paper {theirs:+.1f}.",
            f"Outliers do not help here ({gain:+.1f}; in the paper {theirs:+.1f}).",
        ))  # fmt: skip
    if len(said) and len(alone):
        rival = alone.loc[alone["value"].idxmax()]
        said.append((
            True, f"Without a flow {rival['model']} ({rival['method']}) reaches {rival['value']:.1f} at best."
        ))  # fmt: skip
    return said


def complexity_of_pictures(table_8: pd.DataFrame) -> list[Said]:
    """Table 8.

    Args:
        table_8: of `feature_tables.table_8`.
    """
    judged = table_8[table_8["verdict"].isin(["reproduced", "not"])]
    off = judged["mean"] - judged["paper mean"]
    by_set = off.abs().groupby(judged["set"]).max()
    near, far = by_set.min(), by_set.max()
    mean = table_8.dropna(subset="mean").set_index(["set", "pixels", "role"])["mean"].unstack("role")
    both = mean.dropna() if {"ID", "OOD"} <= set(mean) else mean.iloc[:0]
    simpler = list(both.index[both["OOD"] < both["ID"]].get_level_values("set").unique()) if len(both) else []
    return [
        (
            len(judged) > 0 and (off < -0.2).all(),
            f"The sets at hand are {-off.max():.2f} to {-off.min():.2f} bits per dimension simpler than printed: "
            "other files, or files stored at another size.",
            f"{(judged['verdict'] == 'reproduced').sum()} of {len(judged)} printed means come out." if len(judged) else
            "No set of Table 8 is here.",
        ),
        (
            len(by_set) > 1 and near < 0.15 and far > 0.4,
            f"{by_set.idxmin() if len(by_set) else ''} comes within {near:.2f} bits per dimension of the printed "
            "means; "
            f"{by_set.idxmax() if len(by_set) else ''} misses them by up to {far:.2f}: what decides is how the files "
            "came to their size.",
        ),
        (
            len(simpler) == 1 < len(both.index.get_level_values("set").unique()),
            f"OOD is simpler than ID on {simpler[0] if simpler else ''} only. On the others a flow that calls simple "
            "pictures likely has no reason to fail.",
        ),
    ]  # fmt: skip


def _ends(values: pd.Series) -> str:
    """ "+1.2 to +2.4" """
    return f"{values.min():+.1f} to {values.max():+.1f}"
