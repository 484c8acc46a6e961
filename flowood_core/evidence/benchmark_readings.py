"""What Tables 2 and 3 and Figs 3, 4 and 6 show, in sentences by hand: each with the condition under which it is said.

They are written for profile sample; see `readings` for the rule.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from flowood_core.evidence import benchmark_tables, tables
from flowood_core.notebook.labels import text_of
from flowood_core.notebook.reading import Said
from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import Run

__all__ = ["alone", "blur", "blur_cost", "footnote", "id_cost", "likelihood_bias", "outlier_gains"]

CIFAR = ("cifar10", "cifar100")
BASE, OURS = METHOD_LABELS[benchmark_tables.BASE], METHOD_LABELS[benchmark_tables.OURS]


def outlier_gains(found: pd.DataFrame) -> list[Said]:
    """The deciding table.

    Args:
        found: of `benchmark_tables.gains`.
    """
    of = found.set_index(["id", "ood", "score"]).sort_index()
    here = {*of.index}
    cifar = [id_ for id_ in CIFAR if {(id_, o, "px") for o in ("svhn", "isun")} <= here]
    low = {(o, s): [of["low"][i, o, s] for i in cifar] for o in ("svhn", "isun") for s in ("pz", "px")}
    isun = of[of.index.get_level_values("id") == "isun"]["low"].unstack("score")
    faces = of.loc[("cifar10", "faces_rmfd")] if ("cifar10", "faces_rmfd", "pz") in here else None
    celeba = [of["high"][k] for k in here if k[1:] == ("celeba", "pz")]
    near = [of["gain"][k] for k in here if {k[0], k[1]} == {*CIFAR}]
    return [
        (
            True,
            " ".join(
                f"By {name} {(part['low'] > 0).sum()} of {len(part)} gains are surely above zero, "
                f"{(part['high'] < 0).sum()} surely below."
                for name, part in (
                    (text_of(s).split(",")[-1].strip(), p) for s, p in found.groupby("score", sort=False)
                )
            ),
        ),
        (
            len(cifar) == 2 and min(low["isun", "pz"] + low["isun", "px"]) > 0,
            "Under both CIFAR sets iSUN is surely found better, by either score.",
        ),
        (
            len(cifar) == 2 and max(low["svhn", "pz"]) < 0 < min(low["svhn", "px"]),
            "SVHN gains more in the mean. By −log p(x) its gain is sure; by eq. (4) the seeds differ too much to tell.",
        ),
        (
            len(isun) > 0 and isun["pz"].max() < 0 and (isun["px"] > 0).sum() >= len(isun) - 1,
            "Under iSUN eq. (4) shows no sure gain, and −log p(x) shows one on nearly every set.",
        ),
        (
            faces is not None and faces["high"]["pz"] < 0 < faces["high"]["px"],
            "Faces, as complex as CIFAR-10, are surely found worse by eq. (4).",
        ),
        (
            len(celeba) > 1 and max(celeba) < 0,
            "CelebA is surely found worse by eq. (4) under every ID set.",
        ),
        (
            len(near) > 0 and max(map(abs, near)) < 3,
            "Between the two CIFAR sets the means move by less than three points.",
        ),
    ]


def alone(found: pd.DataFrame) -> list[Said]:
    """-C(x) beside the printed rows.

    Args:
        found: of `benchmark_tables.alone_beside_printed`.
    """
    above, below = found[found["alone"] > found["highest"]], found[found["alone"] < found["lowest"]]
    return [
        (not len(found), "None of the paper's pairs was run."),
        (
            len(found) > 0,
            f"Without a flow −C(x) lies above all five printed rows for {len(above)} of {len(found)} pairs, and below "
            f"all five for {len(below)}.",
        ),
        (
            len(below) > 0 and set(below["ood"]) == {"isun"} and "isun" not in set(above["ood"]),
            "It loses where OOD is iSUN, the more complex side, and wins everywhere else.",
        ),
        (
            {*zip(below["id"], below["ood"], strict=True)}
            == {(i, o) for i in CIFAR for o in ("isun", "celeba")},
            "Under CIFAR it loses on iSUN, the more complex side, and on CelebA, as complex as ID; elsewhere it wins.",
        ),
    ]


def footnote(finished: Iterable[Run]) -> list[Said]:
    """What the column CelebA is measured on, where a profile has it from reduced copies (`Spec.later`).

    Args:
        finished: runs of Tables 2 and 3.
    """
    scored = [r for r in finished if "celeba" in r.spec.later and "celeba" not in r.absent]
    C = [r.metrics["complexity"]["celeba"]["mean"] for r in scored]
    printed = tables.printed("table_7").set_index("set").at["celeba", "mean"]
    return [
        (
            len(C) > 0 and abs(C[0] - printed) > 0.1,
            f"It is here in reduced copies: 64x64 pixels, saved as JPEG, brought to 32x32. C is {C[0] if C else 0:.2f} "
            f"where Table 7 prints {printed:.2f}, and its rule refuses the set (02_1). JPEG leaves marks, by which a "
            "training against JPEG may find it. No run trained on it; all were scored on it from their weights.",
        ),
    ]


def likelihood_bias(frame: pd.DataFrame) -> list[Said]:
    """Fig. 3, all ID sets.

    Args:
        frame: rows of `benchmark_tables.bias`.
    """
    r = frame.pivot_table(index=["sets", "id"], columns=["quantity", "training"], values="r", sort=False)[
        "log_pz"
    ]
    before, after = (r[title] for title in benchmark_tables.TITLES.values())
    rose = after > before
    said: list[Said] = [
        (
            True,
            "Here r is the correlation of C with log p(z), without and then with outliers; negative is the bias.",
        ),
    ]
    for part in r.index.unique("sets"):
        named = "; ".join(
            f"{text_of(i)} {before[part, i]:+.2f} to {after[part, i]:+.2f}" for i in rose[part].index
        )
        said.append((True, f"Over {part} r goes from {named}."))
    few, every = (benchmark_tables.SIMPLER, benchmark_tables.ALL)
    both = few in r.index and [*CIFAR] == [i for i in CIFAR if i in r.loc[few].index]
    return [
        *said,
        (
            both and rose[few].all() and before[few].abs().max() < 0.1,
            "Among ID and SVHN there is hardly any bias by eq. (4) without outliers. With them simple images are the "
            "less likely ones: the dashed line turns upwards.",
        ),
        (
            both and not rose[every][[*CIFAR]].any(),
            "The line through all sets gets steeper all the same. iSUN, more complex than ID, is pushed far down: it "
            "is detected better, and no bias is reduced by it.",
        ),
        (
            "isun" in before[every].index and before[every]["isun"] > 0,
            "A flow of iSUN, the most complex set, has no bias to reduce.",
        ),
    ]


def id_cost(cost: pd.DataFrame) -> list[Said]:
    """Fig. 4.

    Args:
        cost: of `benchmark_tables.id_cost`.
    """
    means = cost.groupby(["id", "method"], sort=False)[["ID test bits/dim", "mean log p_Z"]].mean()
    moved = means.xs(OURS, level="method") - means.xs(BASE, level="method")
    bits, nats = moved["ID test bits/dim"], moved["mean log p_Z"]
    return [
        (
            bits.min() > 0.05,
            f"Outlier training costs ID images {bits.min():.2f} to {bits.max():.2f} bits per dimension: the flow is a "
            "worse model of them.",
            f"Bits per dimension of ID images move by {bits.min():+.2f} to {bits.max():+.2f}.",
        ),
        (
            nats.abs().max() < 100 < bits.min() * 3072 * 0.69,
            f"Eq. (4) hardly sees it. The mean of log p(z) moves by {nats.min():+.0f} to {nats.max():+.0f} nats.",
            f"The mean of log p(z) moves by {nats.min():+.0f} to {nats.max():+.0f} nats.",
        ),
    ]


def blur(against: pd.DataFrame, radius: float) -> list[Said]:
    """Fig. 6: the paper's own radius against every other one that was run.

    Args:
        against: of `blur_tables.against`. radius: the paper's.
    """
    said: list[Said] = []
    for score, part in against.groupby("score", sort=False):
        ends = part[
            part["other"].isin([part["other"].min(), part["other"].max()]) & (part["other"] != radius)
        ]
        name = text_of(score).split(",")[-1].strip()
        better = f"better than an end of the curve in {(ends['value'] > 0).sum()} of {len(ends)} comparisons"
        said.append((len(ends) > 0, f"By {name} radius {radius:g} is {better} in the mean."))
    ends = against[against["other"].isin([against["other"].min(), against["other"].max()])]
    one, more = ends[ends["n_seeds"] == 1], ends[ends["n_seeds"] > 1]
    said += [
        (len(more) > 0, f"Over several seeds {(more['low'] > 0).sum()} of {len(more)} are sure."),
        (
            len(one) > 0,
            f"With one seed {(one['low'] > 0).sum()} of {len(one)} are sure of that flow, and of no other.",
        ),
    ]
    half = against[against["other"] == 0.5].set_index(["id", "ood", "score"])["value"]
    key: dict[str, Any] = {s: ("cifar100", "svhn", s) for s in ("pz", "px")}
    is_split = all(k in half.index for k in key.values()) and half[key["pz"]] > 0 > half[key["px"]]
    others = half.drop(key.values(), errors="ignore") if len(half) else half
    return [
        *said,
        (
            len(others) > 0 and (others < 0).all() and is_split,
            "Half a pixel of blur finds more than radius 1 in the mean of every curve but one. For SVHN under "
            "CIFAR-100 it is far worse by eq. (4), and far better by −log p(x).",
        ),
    ]


def blur_cost(cost: pd.DataFrame) -> list[Said]:
    """What the radius costs ID data, within each ID set and seed.

    Args:
        cost: columns id, radius, seed, bpd.
    """
    by = cost.set_index("radius").groupby(["id", "seed"], sort=False)["bpd"]
    cheapest, costliest = by.idxmin(), by.idxmax()
    return [
        (
            len(by) > 1 and cheapest.nunique() == costliest.nunique() == 1,
            f"In every ID set and seed radius {cheapest.iloc[0]:g} is the cheapest, and radius {costliest.iloc[0]:g} "
            "the costliest.",
            "Cheapest radius by ID set and seed: "
            + ", ".join(f"{text_of(i)} {seed}: {r:g}" for (i, seed), r in cheapest.items())
            + ".",
        ),
    ]
