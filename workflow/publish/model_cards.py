"""Model cards: trained detectors as small files, each with a page that says what it is and what it cannot do.

``make cards`` writes `models/<name>/` from committed runs: `detector.json` and `weights.safetensors`, which
`Detector.load` reads, and `README.md`, whose every number comes from the run's metrics.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowood_core import datasets, runs
from flowood_core.anyflow.detector import Detector
from flowood_core.runs import grid
from flowood_core.scores import Threshold
from flowood_core.system import paths

__all__ = ["card", "detector", "main", "models", "write"]

PROFILE, TABLE, SEED = "sample", "beyond_flowood", 0  # the first seed, not the best
KIND, KEEP, WEAK = "pz", 0.95, 0.7
PAGE = Path(__file__).parent / "templates" / "model_card.md"


def models(profile: str = PROFILE) -> dict[str, runs.Run]:
    """The runs that are published, by name of their folder; those that are there with their weights."""
    found = {}
    for spec in grid.rows(profile, TABLE) if TABLE in grid.tables(profile) else []:
        if spec.seed == SEED and (spec.folder / "model.safetensors").is_file():
            found[f"{spec.id}-flowood"] = runs.run_or_load(spec, train_missing=False)
    return found


def detector(run: runs.Run) -> Detector:
    """The run's flow with the threshold that keeps 95 % of the training images whose scores the run stored."""
    return Detector.of_flow(run.flow(), _threshold(run), kind=KIND)


def _threshold(run: runs.Run) -> Threshold:
    return Threshold.fit_quantile(run.scores("train")[KIND], KEEP)


def card(name: str, run: runs.Run) -> str:
    """The page of a model, in Markdown."""
    spec, m = run.spec, run.metrics
    machine, packages = m["provenance"]["machine"], m["provenance"]["packages"]
    weak = [_label(ood) for ood, by_score in m["ood"].items() if by_score[KIND]["auroc"][0] < WEAK]
    return PAGE.read_text(encoding="utf-8").format(
        name=name,
        label=_label(spec.id),
        n_id=m["ood"][spec.ood[0]][KIND]["n_id"],
        rows="\n".join(_row(ood, by_score[KIND]) for ood, by_score in m["ood"].items()),
        keep=100 * KEEP,
        n_fit=len(run.scores("train")[KIND]),
        refused=100 * _threshold(run).decide(run.scores(spec.id)[KIND]).mean(),
        n_parameters=m["n_parameters"],
        n_train=next(d["n"] for d in m["data"] if (d["name"], d["split"]) == (spec.id, "train")),
        spec=spec,
        seconds=m["seconds"]["training"],
        machine=machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread",
        packages=packages,
        run_id=spec.run_id,
        commit=m["provenance"]["commit"][:10],
        chosen="were in view" if spec.id == "cifar10" else "are another ID set's, but not independent of it",
        weak=f"AUROC below {100 * WEAK:.0f} against {', '.join(weak)}" if weak else "see the table",
    )


def _row(ood: str, values: dict) -> str:
    cells = [_label(ood), f"{values['n_ood']:,}", *(_interval(values[k]) for k in ("auroc", "fpr95_id95"))]
    return "| " + " | ".join(cells) + " |"


def _label(name: str) -> str:
    return datasets.LABELS.get(name, name)


def write(folder: Path, name: str, run: runs.Run) -> Path:
    """The detector's two files and its page, in `folder/name`."""
    made = detector(run).save(folder / name)
    (made / "README.md").write_text(card(name, run), encoding="utf-8")
    return made


def main(arguments: Sequence[str] = ()) -> int:
    found = models()
    if not found:
        print(f"expected runs of {TABLE} in outputs/{PROFILE}, found none", file=sys.stderr)
        return 1
    for name, run in found.items():
        print(f"{write(paths.repo_root() / 'models', name, run)}: {run.spec.run_id}")
    return 0


def _interval(value: Sequence[float]) -> str:
    middle, low, high = (100 * np.clip(v, 0, 1) for v in value)
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
