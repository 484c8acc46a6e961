"""What the pages may name: numbers of the committed runs as one long frame, and the paper's beside them.

Every method that returns an `Interval` is over seeds and test draws, in percent or percent points. Pages are made of
templates (`render`): ``{at("mle", "svhn"):.1f}`` is evaluated and formatted, and a line that begins with ``%%`` is a
condition on the facts without which the sentence above it would be wrong; it stops the writing where it fails.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from flowood_core import intervals, runs
from flowood_core.evidence import claims, complexity_term, decisions, surface, tables, verdicts
from flowood_core.intervals import Interval, Sample
from flowood_core.runs import grid
from flowood_core.system import paths
from workflow.publish import model_cards

__all__ = ["PROFILE", "Facts", "facts_of", "render"]

PROFILE = "sample"
IMAGES = ("table_2", "table_3", "beyond_flowood", "beyond_graded")
CELLS = ("table_1", "table_2", "table_3", "table_5", "table_6")  # printed tables of percentages
BACKBONE, ENCODER = "other backbone", "other encoder"


class Facts:
    """Numbers of a profile by name.

    Args:
        profile: whose runs; none is trained.
    """

    def __init__(self, profile: str = PROFILE):
        self.profile = profile
        self._evidence = claims.Evidence(profile)

    # --- images

    @functools.cached_property
    def _images(self) -> dict[tuple[str, str], list[runs.Run]]:
        found: dict[tuple[str, str], dict[int, runs.Run]] = {}
        for table in IMAGES:
            for run in self._evidence.finished(table):
                found.setdefault((run.spec.id, run.spec.method), {})[run.spec.seed] = run
        widths = {run.spec.hidden for runs_ in found.values() for run in runs_.values()}
        for run in self._evidence.finished("choices"):
            # A7 at the width of the other rows, the control of ours
            squeezed = getattr(run.spec, "squeeze", 0) and run.spec.hidden in widths
            if squeezed and run.spec.method == "ccm_gaussian":
                found.setdefault((run.spec.id, "squeezed"), {})[run.spec.seed] = run
        for run in self._evidence.finished("beyond_graded_40"):
            found.setdefault((run.spec.id, "graded_40"), {})[run.spec.seed] = run
        return {key: [by[seed] for seed in sorted(by)] for key, by in found.items()}

    def of(self, method: str, id: str = "cifar10") -> list[runs.Run]:
        """The runs of a row of Tables 2 and 3, or of ours.

        Ours are "ccm_simplify", "ccm_graded", the same with 40 % of outliers ("graded_40"), and CCM+Gaussian squeezed
        ("squeezed").
        """
        return self._images.get((id, method), [])

    def at(
        self, method: str, ood: str, id: str = "cifar10", score: str = "pz", metric: str = "auroc"
    ) -> Interval | None:
        """AUROC of a row; None where it was not run or not scored on this set."""
        samples = [
            tables.sample(r, ood, score, metric) for r in self.of(method, id) if ood in r.metrics["ood"]
        ]
        return _over(samples)

    def alone(self, ood: str, id: str = "cifar10", metric: str = "auroc") -> Interval | None:
        """-C(x) without any flow."""
        found = [r for (i, _), of in self._images.items() if i == id for r in of if ood in r.metrics["ood"]]
        return _over([tables.sample(found[0], ood, "comp_only", metric)] if found else [])

    def gain(
        self, method: str, ood: str, base: str = "mle", id: str = "cifar10", score: str = "pz"
    ) -> Interval | None:
        """AUROC of a row minus another's, on the same images, seed by seed."""
        return _over(_differences(self.of(method, id), self.of(base, id), ood, score), signed=True)

    def mean_of(self, method: str, sets: Iterable[str], id: str = "cifar10") -> Interval | None:
        """Mean AUROC over several sets."""
        sets = list(sets)
        return _over([Sample.average([tables.sample(r, o) for o in sets]) for r in self.of(method, id)])

    def fewer_nats(self, quantity: str, id: str = "cifar10") -> Interval | None:
        """How many nats per ID test image CCM+Gaussian adds to log p_Z ("log_pz") or log p_X."""
        found = []
        for a, b in zip(self.of("ccm_gaussian", id), self.of("mle", id), strict=False):
            moved = a.arrays[id][quantity] - b.arrays[id][quantity]
            found.append(intervals.mean(moved, intervals.of(id, moved)))
        return intervals.over(found) if found else None

    def term(self, reading: str, kind: str = "px") -> Any:
        """A reading of eq. (5), by a word of its name, beside the printed +Complexity cells: error, isun_lowest, ..."""
        found = self._readings(kind)
        (row,) = found[found["reading"].str.contains(reading, regex=False)].itertuples()
        return row

    @functools.cache  # noqa: B019  one Facts a page
    def _readings(self, kind: str) -> pd.DataFrame:
        return complexity_term.against_paper(complexity_term.readings(self._finished("table_2"), kind))

    def simple_of(self, method: str, kind: str, id: str = "cifar10") -> model_cards.Simple:
        """How the first seed of a training takes a kind of `model_cards.simple_images`."""
        return self._simple(method, id)[kind]

    @functools.cache  # noqa: B019  one Facts a page
    def _simple(self, method: str, id: str) -> dict[str, model_cards.Simple]:
        return model_cards.simple(self.of(method, id)[0])

    def dearer(self, method: str, base: str, id: str = "cifar10") -> Interval | None:
        """Bits per dimension that ID test images cost more than after another training, seed by seed."""
        a, b = ({r.spec.seed: r.metrics["id"]["bpd"] for r in self.of(m, id)} for m in (method, base))
        return _over([Sample(a[seed] - b[seed]) for seed in a if seed in b])

    def found(self, training: str, kind: str, table: str = "battery") -> float:
        """AUROC of a kind of simple pictures, as the battery of 03_1_beyond labels it, mean over seeds.

        By eq. (4) for a training; in the table "surface_battery" for a score of `evidence.surface`.
        """
        return float(self.table(table).set_index("label").at[kind, training])

    def below(self, training: str, score: str = "pz") -> str:
        """How many kinds of simple pictures lie below an AUROC of 97, "k of n", by the battery of 03_1_beyond."""
        table = self.table("battery_below").set_index(["training", "score"])
        return "{below} of {of}".format(**table.loc[(training, score)])

    # --- levels beside the pixels

    def surface(self, score: str, ood: str, training: str = "flowood") -> Interval | None:
        """AUROC by a score of `evidence.surface`, from 03_1_beyond; None where that was not run."""
        table = self.table("surface")
        if table is None:
            return None
        cells = table.set_index(["training", "score", "ood"])[["value", "low", "high"]]
        value, low, high = cells.loc[(training, score, ood)]
        return Interval(value, low, high, (value,))

    def surface_below(self, score: str) -> str:
        """How many kinds of simple pictures lie below an AUROC of 97 by a score of `evidence.surface`: "k of n"."""
        of = self.table("surface_battery")[score]
        return f"{(of < surface.FOUND).sum()} of {len(of)}"

    def level(self, score: str, ood: str) -> Interval | None:
        """AUROC by a score of `evidence.two_levels`, from 03_1_beyond; None where that was not run."""
        table = self.table("levels")
        if table is None:
            return None
        value, low, high = table.set_index(["score", "ood"]).loc[(score, ood), ["value", "low", "high"]]
        return Interval(value, low, high, (value,))

    def maps(
        self, method: str, ood: str, model: str, score: str = "published", table: str = "table_5"
    ) -> Interval | None:
        return _over([tables.sample(r, ood, score) for r in self._maps(method, ood, model, table)])

    def without_a_flow(self, score: str, maps: str) -> str:
        """AUROC on X-rays with EfficientNet-Lite0 and no flow, as 03_2 left it: "95.9 [93.6, 97.9]"."""
        table = self.table("table_5_lite_ours").set_index(["model", "method"])
        return table.loc[(score, maps), "no flow"]

    def maps_gain(
        self, method: str, ood: str, model: str, score: str = "published", table: str = "table_5"
    ) -> Interval | None:
        both = (self._maps(m, ood, model, table) for m in (method, "mle"))
        return _over(_differences(*both, ood, score), signed=True)

    def _maps(self, method: str, ood: str, model: str, table: str) -> list[runs.Run]:
        wanted = (method, model)
        return [
            r
            for r in self._finished(table)
            if (r.spec.method, r.spec.model) == wanted and ood in r.metrics["ood"]
        ]

    def text(self, method: str, ood: str, encoder: str = "minilm", score: str = "pz") -> Interval | None:
        return _over([tables.sample(r, ood, score) for r in self._texts(method, encoder)])

    def text_gain(self, ood: str, encoder: str = "minilm", score: str = "pz") -> Interval | None:
        both = (self._texts(m, encoder) for m in ("text", "mle"))
        return _over(_differences(*both, ood, score), signed=True)

    def _texts(self, method: str, encoder: str) -> list[runs.Run]:
        return [r for r in self._finished("table_6") if r.spec.method == method and encoder in r.spec.encoder]

    def shortness(self, ood: str) -> float | None:
        """AUROC of the score "the shorter, the more OOD": the baseline that knows no flow, percent."""
        table = self.table("text_both_ways")
        column = {
            "movie_reviews": "Movie Reviews",
            "ag_news": "AG News",
            "sst2": "SST-2",
            "wikitext2": "WikiText-2",
        }
        found = table[table["score"] == "length alone"] if table is not None else []
        return 100 - float(found.iloc[0][column[ood]]) if len(found) else None

    # --- claims, choices, cells

    @functools.cached_property
    def measured(self) -> dict[str, verdicts.Parts]:
        return claims.effects(self.profile, self._evidence)

    @functools.cached_property
    def judged(self) -> pd.DataFrame:
        return claims.evaluate(self.profile, self.measured).set_index("claim", drop=False)

    def claim(self, name: str) -> str:
        """The verdict."""
        return self.judged.loc[name, "verdict"]

    def part(self, claim: str, name: str, apart: str = "") -> Interval:
        found = [p.effect for p in self.measured[claim] if (p.name, p.apart) == (name, apart)]
        if len(found) != 1:
            known = [(p.name, p.apart) for p in self.measured[claim]]
            raise KeyError(f"expected a part of {claim!r}, got {(name, apart)}; it has {known}")
        return found[0]

    def holding(self, claim: str, apart: str | None = "") -> str:
        """ "2 of 7": in how many parts a claim holds."""
        signs = [p.sign for p in self.measured[claim] if apart is None or p.apart == apart]
        return f"{signs.count(1)} of {len(signs)}"

    def count(self, word: str) -> int:
        return int((self.judged["verdict"] == word).sum())

    @functools.cached_property
    def choices(self) -> pd.DataFrame:
        return decisions.over_seeds(
            decisions.effects(self.profile, lambda _, table: self._evidence.finished(table))
        )

    def choice(self, code: str, ood: str, score: str = "pz", k: int = 0) -> Interval:
        """AUROC points gained by an open choice; k: which of several under one code."""
        return self._choice(code, k).query("ood == @ood and score == @score")["effect"].item()

    def choice_bpd(self, code: str, k: int = 0) -> Interval:
        return self._choice(code, k)["bpd"].iloc[0]

    def _choice(self, code: str, k: int) -> pd.DataFrame:
        found = self.choices[self.choices["code"] == code]
        return found[found["choice"] == list(dict.fromkeys(found["choice"]))[k]]

    def gain_with_rotations(self, ood: str, score: str = "pz") -> Interval:
        """AUROC points gained by CCM+Gaussian over MLE where both rotate instead of permuting (A8), on their seeds."""
        rotated = [r for r in self._finished("choices") if r.spec.permute_soft]
        of = {(r.spec.method, r.spec.seed): tables.sample(r, ood, score) for r in rotated}
        seeds = [s for m, s in of if m == "mle" and ("ccm_gaussian", s) in of]
        return intervals.over([of["ccm_gaussian", s] - of["mle", s] for s in seeds], bounds=(-100, 100))

    @functools.cached_property
    def cells(self) -> pd.DataFrame:
        """Every printed percentage of Tables 1, 2, 3, 5 and 6 with ours and the verdict: table, ..., verdict."""
        return pd.concat([self._joined(name).assign(table=name) for name in CELLS], ignore_index=True)

    def cell_counts(self, tables_: Iterable[str] = ("table_2", "table_3")) -> dict[str, int]:
        """How many printed cells agree, are higher, lower, cannot be told; "all": how many were run."""
        words = self.cells[self.cells["table"].isin(list(tables_))]["verdict"].value_counts().to_dict()
        ran = {w: n for w, n in words.items() if w in ("agrees", "higher", "lower", "cannot tell")}
        return (
            dict.fromkeys(("agrees", "higher", "lower", "cannot tell"), 0)
            | words
            | {"all": sum(ran.values())}
        )

    def _joined(self, name: str) -> pd.DataFrame:
        finished = self._finished(name)
        if name == "table_1" and not finished:
            finished = [r for (_, m), of in self._images.items() if m == "mle" for r in of]
        paper = tables.printed(name)
        ours = self._ours(name, finished)
        keys = [c for c in paper.columns if c not in ("paper", "best", "printed_delta")]
        setting = {"table_5": BACKBONE, "table_6": ENCODER}.get(name, "")
        return tables.paper_vs_ours(paper, ours, keys, setting=setting, absent=tables.absent(finished))

    def _ours(self, name: str, finished: list[runs.Run]) -> pd.DataFrame:
        long = tables.collect(finished) if finished else pd.DataFrame(columns=_LONG)
        if name == "table_5":
            long = long[(long["score"] == "published")].assign(dataset=long["id"])
            long["model"] = [m.run.spec.model for m in long["measured"]]
            long = long.replace({"method": {"mle": "plain"}})
            keys = ["model", "method", "dataset", "metric"]
        elif name == "table_6":
            long = long[long["score"] == "pz"].assign(
                outliers=long["method"].map({"mle": "without", "text": "with"})
            )
            # as a series: an empty list would ask for no columns
            is_pretrained = [not m.run.spec.encoder.startswith("tfidf") for m in long["measured"]]
            long = long[pd.Series(is_pretrained, long.index, dtype=bool)]
            long = long.replace({"metric": {"aupr_out": "aupr"}})
            keys = ["ood", "outliers", "metric"]
        else:
            long = long.replace(
                {"score": {"pz": "nll", "pz_comp": "comp"}, "metric": {"fpr95_id95": "fpr95"}}
            )
            keys = ["id", "method", "score", "ood", "metric"]
            long = long[long["method"].eq("mle") & long["score"].eq("nll")] if name == "table_1" else long
            keys = ["id", "ood", "metric"] if name == "table_1" else keys
        wanted = tables.printed(name)[keys].drop_duplicates()
        long = long.merge(wanted, on=keys)
        empty = [*keys, "value", "low", "high", "n_seeds"]
        return tables.over_seeds(long, keys) if len(long) else pd.DataFrame(columns=empty)

    # --- the rest

    def _finished(self, table: str) -> list[runs.Run]:
        return sorted(self._evidence.finished(table), key=lambda r: r.spec.seed)

    def specs(self, table: str) -> list[runs.Spec]:
        """The rows of a table of the grid, run or not."""
        return grid.rows(self.profile, table)

    def times_parameters(self) -> str:
        """How many times as many parameters the squeezed flow has."""
        a, b = (self.of(m)[0].metrics["n_parameters"] for m in ("squeezed", "mle"))
        return f"{a / b:.1f}"

    def table(self, name: str) -> pd.DataFrame | None:
        """A table that a notebook left."""
        path = paths.profile_dir(self.profile) / "tables" / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() else None

    def at_epoch(
        self, method: str, ood: str, epoch: int, quantity: str = "auroc pz", id: str = "isun"
    ) -> float:
        """A quantity of `runs.over_epochs` after so many epochs of the paper's training."""
        table = Facts("paper").table("over_epochs").fillna({"ood": ""})
        wanted = {"id": id, "method": method, "ood": ood, "epoch": epoch, "quantity": quantity}
        (value,) = table.loc[(table[list(wanted)] == list(wanted.values())).all(axis=1), "value"]
        return float(value)

    def long_gain(self, ood: str, id: str = "isun") -> Interval | None:
        """What CCM+Gaussian moves at the paper's size by eq. (4): percent points, one seed, over test draws."""
        table = Facts("paper").table("auroc_gain").set_index(["id", "ood", "score"])
        if (id, ood, "pz") not in table.index:
            return None
        value, low, high = table.loc[(id, ood, "pz"), ["gain", "low", "high"]]
        return Interval(value, low, high, (value,))

    def epochs(self, method: str, id: str = "isun") -> list[int]:
        """The epochs at which a training of the paper's size was measured; the last may be short of 500."""
        table = Facts("paper").table("over_epochs")
        return sorted({int(e) for e in table.loc[(table["id"] == id) & (table["method"] == method), "epoch"]})

    def trained_on(self, id: str) -> int:
        """Number of training images of an ID set."""
        return n_train(self.of("mle", id)[0])

    def complexity(self, ood: str, id: str = "cifar10") -> float:
        """Mean C(x) of a test set, bits/dim."""
        return self.of("mle", id)[0].metrics["complexity"][ood]["mean"]

    def paper(self, method: str, ood: str, id: str = "cifar10", score: str = "nll") -> float:
        """AUROC as Tables 2 and 3 print it."""
        rows = pd.concat(tables.printed(t) for t in ("table_2", "table_3"))
        wanted = (rows[["id", "method", "ood", "score", "metric"]] == [id, method, ood, score, "auroc"]).all(
            axis=1
        )
        return rows[wanted]["paper"].item()

    def paper_maps(self, method: str, model: str, dataset: str = "chest_xray") -> float:
        """AUROC as Table 5 prints it; method "plain" is the model as published."""
        rows = tables.printed("table_5").query("metric == 'auroc'")
        return rows[(rows[["model", "method", "dataset"]] == [model, method, dataset]).all(axis=1)][
            "paper"
        ].item()

    def paper_text(self, outliers: str, ood: str) -> float:
        """AUROC as Table 6 prints it; outliers: with, without."""
        rows = tables.printed("table_6").query("metric == 'auroc'")
        return rows[(rows[["outliers", "ood"]] == [outliers, ood]).all(axis=1)]["paper"].item()


_LONG = ["id", "method", "seed", "ood", "score", "metric", "value", "measured"]


def n_train(run: runs.Run) -> int:
    """Number of training images of a run."""
    return next(d["n"] for d in run.metrics["data"] if d["split"] == "train")


def _over(samples: list[Sample], signed: bool = False) -> Interval | None:
    return intervals.over(samples, bounds=(-100 if signed else 0, 100)) if samples else None


def _differences(a: list[runs.Run], b: list[runs.Run], ood: str, score: str) -> list[Sample]:
    before = {r.spec.seed: r for r in b}
    pairs = [(r, before[r.spec.seed]) for r in a if r.spec.seed in before]
    return [tables.sample(x, ood, score) - tables.sample(y, ood, score) for x, y in pairs]


def facts_of(f: Facts) -> dict[str, Any]:
    """What a template may call: public methods of `Facts`, `cells()` with the counts of verdicts, `facts` itself."""
    names = [n for n in dir(Facts) if not n.startswith("_") and callable(getattr(Facts, n))]
    return {name: getattr(f, name) for name in names} | {"cells": f.cell_counts, "facts": f}


_EXPRESSION = re.compile(r"\{(?P<code>[^{}\\]*?\w\([^{}\\]*?)(?::(?P<spec>[+,]?(?:\.\d)?[a-z]?))?\}")
_SAFE = {"abs": abs, "all": all, "any": any, "min": min, "max": max, "len": len, "round": round}


def render(template: str, given: Mapping[str, Any], name: str = "findings.md") -> str:
    """The page: conditions evaluated and left out, numbers filled in.

    Raises:
        ValueError: a condition does not hold, or a name is unknown; says which line of the template.
    """
    names = {"__builtins__": _SAFE} | dict(given)

    def filled(match: re.Match[str]) -> str:
        value = eval(match["code"], names)
        if value is None:
            raise ValueError(f"nothing was run for {match['code']}")
        return format(value, match["spec"] or "")

    page = []
    for number, line in enumerate(template.splitlines(), 1):
        try:
            if line.startswith("%%"):
                if not eval(line[2:], names):
                    raise ValueError("it is not so any more: change the sentence above it")
                continue
            page.append(_EXPRESSION.sub(filled, line))
        except Exception as error:
            raise ValueError(f"{name}, line {number}, {line.strip()[:120]!r}: {error}") from error
    return "\n".join(page) + "\n"
