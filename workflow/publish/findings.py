"""FINDINGS.md, made from the committed runs: sentences by hand, every number and every judgement checked against them.

`templates/findings.md` holds the sentences. ``{auroc[mle svhn]:.1f}`` stands for a number of `facts`; a line that
begins with ``%%`` is a condition on them without which the sentence above it would be wrong, and stops the writing
where it fails. Run as ``python -m workflow.publish.findings`` (--check: says whether FINDINGS.md is what the runs say).
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowood_core import runs
from flowood_core.evidence import claims, decisions, tables
from flowood_core.runs import grid
from flowood_core.system import paths
from workflow.publish import results

__all__ = ["Seeds", "facts", "main", "render"]

TEMPLATE = Path(__file__).parent / "templates" / "findings.md"
PROFILE = "sample"


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One number per seed; shown as their mean and, where they differ, the lowest and the highest."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Seeds":
        return cls(tuple(float(v) for v in values))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    def __format__(self, spec: str) -> str:
        shown = [f"{v:{spec}}" for v in (self.mean, self.low, self.high)]
        return shown[0] if shown[1] == shown[2] else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def facts(profile: str = PROFILE) -> dict[str, Any]:
    """What the template may name, from runs and tables of a profile.

    auroc["mle svhn"]            eq. (4), CIFAR-10 as ID, percent; paper[...] the printed number
                                 another ID set goes before: auroc["isun mle svhn"]
    px["mle svhn"]               by -log p(x); comp[...] eq. (5); alone["svhn"] -C without a flow
    text["minilm mle sst2"]      eq. (4), IMDb as ID, by encoder; its printed number is paper["mle sst2"]
    gain["chest_xray_bad cs_flow ccm px"]  minus plain, by seed; level["chest_xray_bad fastflow mle"] published score,
                                 level["chest_xray_bad complexity"] -C without a flow
    claim["bias"]                the verdict; effect["bias"]["CIFAR-10"] its parts; count["holds"] how many
    choice["A7 svhn"]            AUROC points of an open choice (the k-th of a code: "A1.2 svhn"), choice_bpd["A7"]
    fig_2["circles centre"]      probability mass with outliers minus that without; "... moved": moved threshold
    table["fig_6"]               a table that a notebook left, as a frame
    """
    measured = claims.effects(profile)
    judged = claims.evaluate(profile, measured).set_index("claim")
    effects = {
        claim: {part: Seeds.of(np.atleast_1d(v)) for part, v in of.items()} for claim, of in measured.items()
    }
    counts = {word: int((judged["verdict"] == word).sum()) for word in _WORDS}
    folder = paths.profile_dir(profile) / "tables"
    return {
        **_seeds(
            _of_images(profile) | _of_choices(profile) | _of_maps(profile) | {"text": _of_texts(profile)}
        ),
        "paper": _printed(),
        "claim": judged["verdict"].to_dict(),
        "effect": effects,
        "count": counts | {"all": len(judged), "fingerprints": len(effects["fingerprint"])},
        "fig_2": _of_regions(folder / "fig_2_regions.csv"),
        "table": {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))},
    }


Values = dict[str, list[float]]


def _seeds(found: Mapping[str, Values]) -> dict[str, dict[str, Seeds]]:
    return {name: {key: Seeds.of(values) for key, values in of.items()} for name, of in found.items()}


def _of_images(profile: str) -> dict[str, Values]:
    found: dict[str, Values] = {"auroc": {}, "px": {}, "comp": {}, "alone": {}}
    for id_ in ("cifar10", "cifar100", "isun"):
        prefix = "" if id_ == "cifar10" else f"{id_} "
        for table in ("table_2", "table_3", "beyond_flowood"):
            for run in results.finished(profile, table, id_):
                for ood, by_score in run.metrics["ood"].items():
                    for name, score in (("auroc", "pz"), ("px", "px"), ("comp", "pz_comp")):
                        key = f"{prefix}{run.spec.method} {ood}"
                        found[name].setdefault(key, []).append(100 * by_score[score]["auroc"][0])
                    found["alone"].setdefault(prefix + ood, [100 * by_score["comp_only"]["auroc"][0]])
    return found


def _of_choices(profile: str) -> dict[str, Values]:
    found: dict[str, Values] = {"choice": {}, "choice_bpd": {}}
    for code, part in decisions.effects(profile).groupby("code", sort=False):
        for k, (_, one) in enumerate(part.groupby("choice", sort=False), 1):
            name = code if k == 1 else f"{code}.{k}"
            for ood, values in one.groupby("ood", sort=False):
                found["choice"][f"{name} {ood}"] = list(values["difference"])
            found["choice_bpd"][name] = list(one.drop_duplicates("seed")["bpd"])
    return found


def _of_maps(profile: str) -> dict[str, Values]:
    found: dict[str, Values] = {"gain": {}, "level": {}}
    suffixes = {"table_5": "", "table_5_additive": " additive", "table_5_256": " 256"}
    for table in [t for t in suffixes if t in grid.tables(profile)]:
        done, _ = runs.available(grid.rows(profile, table), train_missing=False)
        plain = {(r.spec.id, r.spec.model, r.spec.seed): r for r in done if r.spec.method == "mle"}
        for run in sorted(done, key=lambda r: r.spec.seed):
            spec, model = run.spec, run.spec.model + suffixes[table]
            (ood,) = spec.ood
            base = plain.get((spec.id, spec.model, spec.seed))
            for score in ("published", "px") if base is not None else ():
                after, before = (100 * r.metrics["ood"][ood][score]["auroc"][0] for r in (run, base))
                found["gain"].setdefault(f"{ood} {model} {spec.method} {score}", []).append(after - before)
            published = 100 * run.metrics["ood"][ood]["published"]["auroc"][0]
            found["level"].setdefault(f"{ood} {model} {spec.method}", []).append(published)
            alone = 100 * run.metrics["ood"][ood]["comp_only"]["auroc"][0]
            found["level"].setdefault(f"{ood} complexity{suffixes[table]}", [alone])
    return found


def _of_texts(profile: str) -> Values:
    found: Values = {}
    for run in results.finished(profile, "table_6", "imdb"):
        encoder = "minilm" if "minilm" in run.spec.encoder else run.spec.encoder.split(":")[0]
        for ood, by_score in run.metrics["ood"].items():
            key = f"{encoder} {run.spec.method} {ood}"
            found.setdefault(key, []).append(100 * by_score["pz"]["auroc"][0])
    return found


def _of_regions(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    found = {}
    for _, row in pd.read_csv(path).query("quantity == 'mass'").iterrows():
        name = f"{row['set']} {row['where']}"
        found[name] = row["with"] - row["without"]
        found[f"{name} moved"] = row.iloc[-1] - row["without"]
    return found


def _printed() -> dict[str, float]:
    images = pd.concat(tables.printed(name) for name in ("table_2", "table_3"))
    images = images.query("metric == 'auroc' and score == 'nll'")
    found = {
        f"{'' if row.id == 'cifar10' else row.id + ' '}{row.method} {row.ood}": row.paper
        for row in images.itertuples()
    }
    texts = tables.printed("table_6").query("metric == 'auroc'")
    maps = tables.printed("table_5").query("metric == 'auroc'")
    found |= {f"{row.dataset} {row.model} {row.method}": row.paper for row in maps.itertuples()}
    found |= {f"complexity {row.set}": row.paper for row in tables.printed("table_9").itertuples()}
    found |= {
        f"{row.dataset} {row.model} {row.method} gain": row.printed_delta
        for row in maps.dropna(subset=["printed_delta"]).itertuples()
    }
    return found | {
        f"{'text' if row.outliers == 'with' else 'mle'} {row.ood}": row.paper for row in texts.itertuples()
    }


_WORDS = ("holds", "holds partly", "does not hold", "not run")


def render(template: str, given: Mapping[str, Any]) -> str:
    """The page: conditions evaluated and left out, numbers filled in.

    Raises:
        ValueError: a condition does not hold, or a name is unknown; says which line of the template.
    """
    page = []
    for number, line in enumerate(template.splitlines(), 1):
        try:
            if line.startswith("%%"):
                if not eval(line[2:], {"__builtins__": {"abs": abs, "all": all}} | dict(given)):
                    raise ValueError("it is not so any more: change the sentence above it")
                continue
            page.append(line.format_map(given))
        except Exception as error:
            raise ValueError(f"findings.md, line {number}, {line.strip()[:120]!r}: {error}") from error
    return "\n".join(page) + "\n"


def main(arguments: Sequence[str]) -> int:
    path = paths.repo_root() / "FINDINGS.md"
    text = render(TEMPLATE.read_text(encoding="utf-8"), facts())
    if "--check" in arguments:
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        print("FINDINGS.md is what the runs say" if same else "FINDINGS.md is stale: make readme")
        return int(not same)
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: written from the runs below {paths.outputs_root().name}/{PROFILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
