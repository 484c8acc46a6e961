"""FINDINGS.md, made from the committed runs: sentences by hand, every number and every judgement checked against them.

`templates/findings.md` holds the sentences; `facts` says what they may name, and `facts.render` how.
"""

import dataclasses
from pathlib import Path
from typing import Any

from flowood_core.evidence import claims
from flowood_core.intervals import Interval
from workflow.publish import facts, long_runs
from workflow.publish.facts import Facts

__all__ = ["page"]

TEMPLATE = Path(__file__).parent / "templates" / "findings.md"
FIVE = ("svhn", "isun", "scenes_tinyimagenet", "faces_rmfd", "cifar100")


def page(profile: str = facts.PROFILE) -> str:
    """FINDINGS.md."""
    return facts.render(TEMPLATE.read_text("utf-8"), _given(Facts(profile)), "findings.md")


def _given(f: Facts) -> dict[str, Any]:
    """What the template may call: all facts, and a few that only its sentences need."""
    counts = f.cell_counts()
    run = f.of("mle")[0] if f.of("mle") else None
    own = {
        "differ": lambda: counts["higher"] + counts["lower"],
        "n_train": lambda: f"{f.trained_on('cifar10'):,}",
        "epochs": lambda: f"{run.spec.epochs:g}",
        "n_seeds": lambda: len(f.of("mle")),
        "measured": lambda: f.measured,
        "judged": lambda: f.judged,
        "fig_6": lambda *of: _of_fig_6(f, *of),
        "fig_6_range": lambda *of: _range_of_fig_6(f, *of),
        "minus": _minus,
        "rises": lambda *of: _rises(f, *of),
        "region": lambda *of: _region(f, *of),
        "long_images": lambda id: long_runs.long_images(f, id),
        "text_complexity": lambda name: _text_complexity(f, name),
    }
    return facts.facts_of(f) | own | {"FIVE": FIVE, "BY_PX": claims.BY_PX}


def _of_fig_6(f: Facts, id: str, radius: float, score: str = "pz") -> float:
    """AUROC on SVHN by radius of the blur, mean over seeds."""
    return _row_of_fig_6(f, id, radius, score)["value"]


def _minus(e: Interval) -> Interval:
    """The same change, counted the other way."""
    return dataclasses.replace(
        e, value=-e.value, low=-e.high, high=-e.low, seeds=tuple(-seed for seed in e.seeds)
    )


def _range_of_fig_6(f: Facts, id: str, radius: float, score: str = "pz") -> str:
    """ "81.6–92.6": the same, seed by seed."""
    row = _row_of_fig_6(f, id, radius, score)
    return f"{row['lowest']:.1f}–{row['highest']:.1f}"


def _row_of_fig_6(f: Facts, id: str, radius: float, score: str) -> Any:
    return (
        f.table("fig_6")
        .query("id == @id and ood == 'svhn' and radius == @radius and score == @score")
        .squeeze(axis=0)
    )


def _rises(f: Facts, quantity: str, statistic: str) -> str:
    """ "9 of 9": in how many runs outlier training raised a reading of the Lipschitz constant."""
    of = f.table("lipschitz").query("quantity == @quantity")
    by = of.pivot_table(index=["id", "seed"], columns="method", values=statistic).dropna()
    return f"{(by['CCM+Gaussian'] > by['MLE']).sum()} of {len(by)}"


def _region(f: Facts, set_: str, where: str) -> float:
    """Probability mass that outliers took out of a region of Fig. 2."""
    mass = f.table("fig_2_regions").query("quantity == 'mass'").set_index(["set", "where"]).loc[(set_, where)]
    return float(mass["without"] - mass["with"])


def _text_complexity(f: Facts, name: str) -> float:
    """Complexity of a corpus minus the printed one, bits per byte."""
    row = f.table("table_9").set_index("set").loc[name]
    return float(row["ours"] - row["paper"])
