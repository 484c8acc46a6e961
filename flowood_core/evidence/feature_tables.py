"""Section 3.2 and Appendix C in tables: flows on feature maps, their gains, their levels, and their sets."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core import datasets, intervals
from flowood_core.complexity import image_complexity
from flowood_core.datasets import highdim
from flowood_core.evidence import claims, complexity_tables, tables
from flowood_core.features import backbones, map_flows
from flowood_core.features.distances import Knn, Mahalanobis
from flowood_core.flow import dequantise
from flowood_core.outliers import image
from flowood_core.runs import Run, RunError

__all__ = [
    "METHODS",
    "NO_SCORES",
    "anomaly_maps",
    "backbones_of",
    "blur_radii",
    "blur_radius",
    "collected",
    "described",
    "gain_counts",
    "levels",
    "mvtec_cells",
    "mvtec_gains",
    "split_by_run",
    "stored_minus_fresh",
    "table_5",
    "table_8",
    "table_10",
    "with_and_without_flow",
    "without_flow",
]  # fmt: skip

METHODS = {"mle": "plain", "gaussian": "+ Gaussian", "ccm": "+ CCM", "ccm_gaussian": "+ CCM + Gaussian"}
CELLS = ["value", "low", "high", "n_seeds"]
NO_SCORES = pd.DataFrame(columns=["ood", "model", "method", *CELLS])
"""Of `without_flow`, where neither pictures nor network are here."""


def backbones_of(finished: Iterable[Run]) -> dict[str, str]:
    """Per model the network that its flows stand on, as it is printed."""
    return {run.spec.model: run.metrics["backbone"]["label"] for run in finished}


def described(finished: Sequence[Run]) -> pd.DataFrame:
    """What was trained, a row per model: backbone, pixels, features, parameters, epochs, outliers, threshold.

    The threshold is tau in nats per dimension from the mean log p of ID images under the untrained flow (A25a).
    """
    rows = {}
    for run in finished:
        spec, m = run.spec, run.metrics
        tau = spec.tau / m["d"] if getattr(spec, "tau_from_start", False) else np.nan
        rows.setdefault(map_flows.LABELS[spec.model], [
            m["backbone"]["label"], spec.image_size, m["d"], m["n_parameters"], spec.epochs, m["outliers"], tau,
        ])  # fmt: skip
    columns = [
        "backbone",
        "pixels",
        "features",
        "parameters",
        "epochs",
        "outliers",
        "threshold from the start",
    ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def collected(finished: Sequence[Run]) -> pd.DataFrame:
    """`tables.collect` with the column model."""
    model_of = {run.spec.run_id: run.spec.model for run in finished}
    found = tables.collect(finished)
    return found.assign(model=found["run_id"].map(model_of))


def levels(finished: Iterable[Run]) -> pd.DataFrame:
    """Median log p in nats per feature dimension, mean over seeds: of ID images, of the outliers, of OOD.

    Returns:
        Rows by set, model, method; columns ID trained on, ID unseen, outliers, OOD, threshold (nan for plain rows).
    """
    rows = []
    for run in finished:
        level = {name: np.median(a["log_px"]) / run.metrics["d"] for name, a in run.arrays.items()}
        tau = run.metrics["tau_nats"] / run.metrics["d"] if run.spec.method != "mle" else np.nan
        where = (level["train"], level[run.spec.id], level["synthetic"], level[run.spec.ood[0]], tau)
        name = highdim.LABELS.get(run.spec.id, run.spec.id)
        rows.append((name, map_flows.LABELS[run.spec.model], METHODS[run.spec.method], *where))
    columns = ["set", "model", "method", "ID trained on", "ID unseen", "outliers", "OOD", "threshold"]
    return pd.DataFrame(rows, columns=columns).groupby(columns[:3], sort=False).mean()


def gain_counts(deltas: pd.DataFrame) -> pd.DataFrame:
    """How many rows with outliers lie above and below their plain row, by score and model.

    Args:
        deltas: of `tables.over_base`, with columns score and model.
    Returns:
        Columns score, model, rows, above, below (the whole interval), least, most (mean gain, percent points).
    """
    rows = []
    for (score, model), of in deltas.groupby(["score", "model"], sort=False):
        counts = len(of), int((of["low"] > 0).sum()), int((of["high"] < 0).sum())
        rows.append([score, model, *counts, of["value"].min(), of["value"].max()])
    return pd.DataFrame(rows, columns=["score", "model", "rows", "above", "below", "least", "most"])


def stored_minus_fresh(stored: Iterable[Run], fresh: Iterable[Run]) -> pd.DataFrame:
    """AUROC by the published score with stored outliers minus that with fresh ones, percent points, seed by seed."""
    of = {(r.spec.id, r.spec.model, r.spec.method, r.spec.seed): r for r in fresh}
    rows = []
    for run in stored:
        spec = run.spec
        other = of.get((spec.id, spec.model, spec.method, spec.seed))
        if other is not None:
            gain = run.auroc(spec.ood[0], "published") - other.auroc(spec.ood[0], "published")
            rows.append([METHODS[spec.method], spec.seed, gain])
    frame = pd.DataFrame(rows, columns=["method", "seed", "points"])
    return frame.pivot(index="method", columns="seed", values="points").reindex(frame["method"].unique())


def table_5(auroc: pd.DataFrame, finished: Sequence[Run]) -> pd.DataFrame:
    """The printed cells of Table 5 with ours by the published score, and the backbone that ours stand on.

    Args:
        auroc: of `tables.over_seeds`, AUROC only: columns id, ood, model, method, score, metric and `CELLS`.
    """
    ours = auroc[(auroc["score"] == "published") & (auroc["ood"] == auroc["id"] + "_bad")]
    ours = ours.replace({"method": {"mle": "plain"}}).rename(columns={"id": "dataset"})
    keys = ["model", "method", "dataset", "metric"]
    joined = tables.paper_vs_ours(
        tables.printed("table_5"), ours[[*keys, *CELLS]], keys, setting=_setting(finished)
    )
    return _with_backbone(joined, finished)


def _setting(finished: Sequence[Run]) -> str:
    """What makes ours no measurement of the printed rows; see `tables.paper_vs_ours`."""
    same = all(r.spec.backbone.startswith(claims.BACKBONES[r.spec.model]) for r in finished)
    return "" if same else "other backbone"


def _with_backbone(joined: pd.DataFrame, finished: Sequence[Run]) -> pd.DataFrame:
    backbones = backbones_of(finished)
    on = [backbones.get(model, "") for model in joined["model"]]
    return joined.assign(backbone=np.where(joined["ours"].notna(), on, ""))


# --- without a flow ------------------------------------------------------------------------------------------------


def without_flow(run: Run) -> pd.DataFrame:
    """AUROC of scores that need no flow, on the test sets and on the feature maps of a run: -C(x), Mahalanobis, kNN.

    The distances see the mean of each map over its positions, and for "all maps" these means joined. They are fitted
    on the ID images that the run was trained on.

    Returns:
        Columns ood, model (the score), method (what it sees), value, low, high (percent, over test draws), n_seeds.
    Raises:
        datasets.MissingData, backbones.BackboneError: the pictures, or the frozen network, are not here.
    """
    spec, data = run.spec, run.spec.data()
    network = backbones.load(spec.backbone)
    train, *tested = (_means_of_maps(network, s.x) for s in (data.train, *data.test.values()))
    seen = dict(zip(_names_of_maps(network.shapes(spec.image_size)), train, strict=True))
    found = {("−C(x)", "no network"): [run.scores(name)["comp_only"] for name in data.test]}
    for k, what in enumerate(seen):
        gauss = Mahalanobis.fit(seen[what])
        found["Mahalanobis", what] = [gauss.score(of[k]) for of in tested]
    neighbours = Knn.fit(train[-1])
    found["kNN", "all maps"] = [neighbours.score(of[-1]) for of in tested]
    rows = []
    for (score, what), (id_, *others) in found.items():
        for ood, values in zip(list(data.test)[1:], others, strict=True):
            drawn = intervals.of(spec.id, id_), intervals.of(ood, values)
            e = intervals.over([intervals.auroc(id_, values, *drawn) * 100], bounds=(0, 100))
            rows.append([ood, score, what, e.value, e.low, e.high, 1])
    return pd.DataFrame(rows, columns=list(NO_SCORES))


def with_and_without_flow(auroc: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """One table for reading: flows by their three scores, and beside them what needs no flow.

    Args:
        auroc: of `tables.over_seeds`, AUROC only: columns model, method, score and `CELLS`. alone: of `without_flow`.
    Returns:
        Rows model, method; columns −log p, published score, eq. (4), no flow; an empty cell where there is none.
    """
    names = {"px": "−log p", "published": "published score", "pz": "eq. (4)"}
    flows = auroc[auroc["score"].isin(list(names))].replace({"score": names})
    both = pd.concat([flows, alone.assign(score="no flow")], ignore_index=True)
    table = tables.wide(both, ["model", "method"], ["score"])
    return table[[c for c in (*names.values(), "no flow") if c in table]]


def _means_of_maps(network: backbones.Backbone, x: Tensor, at_once: int = 16) -> list[np.ndarray]:
    """Float (n, c) of each map: its mean over positions; and last all of them joined."""
    parts = [[m.mean((2, 3)) for m in network(dequantise(part))] for part in x.split(at_once)]
    means = [torch.cat(of).numpy() for of in zip(*parts, strict=True)]
    return means if len(means) == 1 else [*means, np.concatenate(means, 1)]


def _names_of_maps(shapes: Sequence[tuple[int, int, int]]) -> list[str]:
    names = [f"map of {c} x {h} x {w}" for c, h, w in shapes]
    return ["all maps"] if len(names) == 1 else [*names, "all maps"]


# --- sets --------------------------------------------------------------------------------------------------------


def table_8(names: Iterable[str], finished: Iterable[Run], n: int) -> pd.DataFrame:
    """Complexity of the high-dimensional sets at the sizes they are used and at the paper's, beside Table 8.

    Args:
        names: ID sets; each with its OOD part. n: images of each that are measured.
    """
    used = {run.spec.image_size for run in finished}
    rows = []
    for name in names:
        embedded = name in datasets.EMBEDDED
        sizes = {datasets.SIDE} if embedded else {highdim.SIDE, *used}
        parts = (name,) if embedded else (name, f"{name}_bad")
        rows += [_complexity(part, size, n) for part in parts for size in sorted(sizes)]
    columns = ["set", "role", "pixels", "mean", "sd", "images", "paper mean", "paper sd"]
    return complexity_tables.table_8(pd.DataFrame(rows, columns=columns))


def _complexity(name: str, size: int, n: int) -> tuple:
    original = name.removesuffix("_bad")
    try:
        c = image_complexity(highdim.load(name, "test", size).drawn(n, 0).x)
        measured = (c.mean().item(), c.std().item(), len(c))
    except datasets.MissingData:
        measured = (np.nan, np.nan, 0)
    printed = highdim.expected(name) if original not in datasets.EMBEDDED and size == highdim.SIDE else None
    paper = (np.nan, np.nan) if printed is None else (printed.mean, printed.sd)
    role = "ID" if name == original else "OOD"
    return highdim.LABELS.get(original, name), role, size, *measured, *paper


def blur_radii(finished: Sequence[Run], n: int = 40) -> pd.DataFrame:
    """Per ID set the radius of the blur that its runs use, and the share of complexity that it and radius 1 leave."""
    rows = []
    for name in dict.fromkeys(run.spec.id for run in finished):
        run = next(r for r in finished if r.spec.id == name)
        x = highdim.load(name, "train", run.spec.image_size).drawn(n, 0).x
        used, whole = blur_radius(run), image_complexity(x).mean()
        left = [(image_complexity(image.gaussian_blur(x, r)).mean() / whole).item() for r in (1.0, used)]
        rows.append([highdim.LABELS.get(name, name), run.spec.image_size, left[0], used, left[1]])
    columns = ["ID set", "pixels", "complexity left at radius 1", "radius used", "complexity left"]
    return pd.DataFrame(rows, columns=columns)


def blur_radius(run: Run) -> float:
    """The radius in pixels that the outliers of a run were blurred with."""
    return run.metrics.get("blur", {"radius": run.spec.blur_radius})["radius"]


# --- where the models look -----------------------------------------------------------------------------------------


def anomaly_maps(
    finished: Iterable[Run], id: str, pictures: Tensor, methods: Sequence[str] = ("mle", "ccm_gaussian")
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Published anomaly maps of the first run of each model and method.

    Args:
        pictures: uint8 (n, 3, s, s).
    Returns:
        Printed model: printed method: maps (n, s, s); and the runs whose weights are not here.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    absent, seen = [], set()
    for run in finished:
        key = run.spec.model, run.spec.method
        if run.spec.id != id or run.spec.method not in methods or key in seen:
            continue
        seen.add(key)
        try:
            with torch.no_grad():
                maps = run.flow().score_maps(dequantise(pictures)).numpy()
        except RunError:  # weights of large flows are not committed with their results
            absent.append(run.spec.run_id)
        else:
            found.setdefault(map_flows.LABELS[key[0]], {})[METHODS[key[1]]] = maps
    return found, absent


# --- Appendix C --------------------------------------------------------------------------------------------------


def table_10(finished: Sequence[Run], wanted: Sequence[str]) -> pd.DataFrame:
    """The printed cells of Table 10 with ours; a mean of ours stands only where all categories were run.

    Args:
        wanted: categories such as bottle.
    """
    keys = ["category", "model", "method", "metric"]
    ours = pd.DataFrame(columns=[*keys, *CELLS]).astype(dict.fromkeys(CELLS, float))
    if finished:
        long = collected(finished).query("score == 'published' and metric == 'auroc'")
        long = long.assign(category=long["id"].str.removeprefix("mvtec_")).replace(
            {"method": {"mle": "plain"}}
        )
        ours = tables.over_seeds(long, keys)
        ours = pd.concat([ours, *_means(ours)], ignore_index=True)
    printed = tables.printed("table_10")
    printed = printed[printed["category"].isin([*wanted, "mean"])]
    joined = tables.paper_vs_ours(printed, ours, keys, setting=_setting(finished))
    return _with_backbone(joined, finished)


def _means(ours: pd.DataFrame) -> list[pd.DataFrame]:
    rows = []
    for (model, method), of in ours.groupby(["model", "method"], sort=False):
        if set(of["category"]) == set(highdim.MVTEC):
            named = {"category": "mean", "model": model, "method": method, "metric": "auroc"}
            value = {
                "value": of["value"].mean(),
                "low": np.nan,
                "high": np.nan,
                "n_seeds": of["n_seeds"].min(),
            }
            rows.append(pd.DataFrame([named | value]))
    return rows


def mvtec_cells(joined: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Table 10 for reading: a row per category, under each printed column "paper | ours"."""
    methods = {"plain": "", "ccm_gaussian": "+CCM+Gaussian"}
    shown = ["not run" if np.isnan(o) else f"{o:.1f}" for o in joined["ours"]]
    cells = [f"{p:.1f} | {o}" for p, o in zip(joined["paper"], shown, strict=True)]
    cells = joined.assign(cell=cells, column=joined["model"].map(titles) + joined["method"].map(methods))
    table = cells.pivot(index="category", columns="column", values="cell")
    return table.loc[list(dict.fromkeys(cells["category"])), list(dict.fromkeys(cells["column"]))]


def split_by_run(joined: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The cells of Table 10 in whose category anything was run (all of them where nothing was), and the others' names.

    Args:
        joined: of `table_10`. Its row "mean" belongs to neither where a category is missing.
    """
    ran = joined.groupby("category", sort=False)["ours"].transform("count") > 0
    if not ran.any():
        return joined, []
    rest = dict.fromkeys(joined.loc[~ran, "category"])
    return joined[ran], [name for name in rest if name != "mean"]


def mvtec_gains(joined: pd.DataFrame) -> pd.DataFrame:
    """What outliers add in Table 10, the printed numbers and ours: mean gain in points, categories up and down.

    Returns:
        Per model: printed, up, down, ours, ours up, ours down; nan where a category was not run.
    """
    cells = joined[joined["category"] != "mean"]
    rows = {}
    for model in dict.fromkeys(cells["model"]):
        row: list[float] = []
        for column in ("paper", "ours"):
            by = cells[cells["model"] == model].pivot(index="category", columns="method", values=column)
            gain = by["ccm_gaussian"].astype(float) - by["plain"].astype(float)
            complete = gain.notna().all()
            row += [gain.mean(), (gain > 0).sum(), (gain < 0).sum()] if complete else [np.nan] * 3
        rows[map_flows.LABELS[model]] = row
    columns = ["printed gain", "up", "down", "our gain", "ours up", "ours down"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
