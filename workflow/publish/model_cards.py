"""Model cards: trained detectors as small files, each with a page that says what it is and what it cannot do.

``make cards`` writes `models/<name>/` from committed runs: `detector.json` and `weights.safetensors`, which
`Detector.load` reads, and `README.md`, whose every number comes from the run's metrics.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowood_core import datasets, intervals, metrics, runs
from flowood_core.anyflow.detector import Detector
from flowood_core.evidence import tables
from flowood_core.flow import densities
from flowood_core.outliers.image import gaussian_blur
from flowood_core.runs import grid
from flowood_core.scores import Threshold
from flowood_core.system import paths
from workflow.publish import markdown

__all__ = ["Simple", "card", "detector", "main", "models", "simple", "simple_images", "write"]

PROFILE, TABLE, SEED = "sample", "beyond_graded", 0  # the first seed, not the best
KIND, KEEP, WEAK, FOUND = "pz", 0.95, 0.7, 97
PAPERS = dict.fromkeys(
    ("cifar10", "cifar100"), "the paper has 50,000 and 500"
)  # section 3.1 names these two alone
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


# --- images simpler than any test set ----------------------------------------------------------------------

RADII = (1, 2, 4, 8, 16)
N_SIMPLE = 300


@dataclasses.dataclass(frozen=True)
class Simple:
    """How a detector takes images of a simple kind.

    Attributes:
        auroc: against the ID test images, percent; complexity_only is that of -C(x) without a flow.
        flagged: share that it calls OOD, percent.
    """

    auroc: float
    complexity_only: float
    flagged: float


def simple_images(n: int = N_SIMPLE) -> dict[str, Tensor]:
    """uint8 (n, 3, 32, 32) by name: constant colours, ramps, smooth crops, photographs blurred more and more.

    All come from installed packages or are drawn with a fixed seed, so that anybody can measure again.
    """
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, size=(n, 3, 1, 1))
    ends = rng.integers(0, 256, size=(2, n, 3, 1, 1))
    along = np.linspace(0, 1, 32)[None, None, None, :]
    ramps = np.round(ends[0] * (1 - along) + ends[1] * along).repeat(32, axis=2)
    photo = datasets.load("photo", "test").drawn(n, 0).x
    drawn = {
        "constant colours": torch.from_numpy(np.broadcast_to(colours, (n, 3, 32, 32)).astype(np.uint8)),
        "ramps from one colour to another": torch.from_numpy(ramps.astype(np.uint8)),
        "smooth crops of photographs (sky, out of focus)": datasets.load("smooth", "test").drawn(n, 0).x,
        "textured crops of photographs": photo,
    }
    blurred = {f"the same, blurred with radius {r}": gaussian_blur(photo, r) for r in RADII}
    return drawn | blurred


def simple(run: runs.Run) -> dict[str, Simple]:
    """The published detector of a run on `simple_images`; its ID scores are the run's."""
    flow, threshold = run.flow(), _threshold(run)
    id_ = run.scores(run.spec.id)
    found = {}
    for name, x in simple_images().items():
        score, c = -densities(flow, x)[0], datasets.complexity_of(x).numpy()
        found[name] = Simple(
            100 * metrics.auroc(id_[KIND], score),
            100 * metrics.auroc(id_["comp_only"], -c),
            100 * float(threshold.decide(score).mean()),
        )
    return found


def _simple_rows(run: runs.Run) -> str:
    return "\n".join(
        f"| {name} | {s.auroc:.0f} | {s.complexity_only:.0f} | {s.flagged:.0f} % |"
        for name, s in simple(run).items()
    )


def _sentence(run: runs.Run) -> str:
    """What the rows of simple images say, kind by kind."""
    found = {
        name.partition(" (")[0].replace("the same,", "textured crops"): s.auroc
        for name, s in simple(run).items()
        if not name.startswith("textured")
    }
    missed, weak = [n for n, a in found.items() if a < 50], [n for n, a in found.items() if 50 <= a < FOUND]
    return (
        f"The AUROC reaches {FOUND} for {len(found) - len(missed) - len(weak)} of the {len(found)} simple kinds. Told "
        f"apart in part: {', '.join(weak) or 'none'}. Below 50, so likelier than {_label(run.spec.id)} to this flow: "
        f"{', '.join(missed) or 'none of them'}."
    )


def _battery() -> str:
    """What the same training leaves of the battery of 03_1_beyond, which has CIFAR-10 as ID and three seeds."""
    path = paths.profile_dir(PROFILE) / "tables" / "battery_below.csv"
    if not path.is_file():
        return "The larger battery of `03_1_beyond` was not run."
    table = pd.read_csv(path)
    row = table.set_index(["training", "score"]).loc[("flowood", "pz")]
    worst = ", ".join(f"{kind} {auroc}" for kind, auroc, _ in markdown.kinds_of(row["worst"]))
    return (
        f"With CIFAR-10 as ID and three seeds the same training leaves {row['below']} of the {row['of']} kinds of a "
        f"[larger battery](../../RESULTS.md#which-simple-pictures-still-deceive) below {FOUND}; the worst are {worst}."
    )


def _says_of_weak(run: runs.Run) -> str:
    """The sets that lie below 50, taken for ID, and those below `WEAK`."""
    of = {_label(ood): by_score[KIND]["auroc"][0] for ood, by_score in run.metrics["ood"].items()}
    taken = [name for name, auroc in of.items() if auroc < 0.5]
    weak = [name for name, auroc in of.items() if 0.5 <= auroc < WEAK]
    parts = [f"AUROC below 50, so ranked as likelier than ID: {', '.join(taken)}"] if taken else []
    parts += [f"below {100 * WEAK:.0f}: {', '.join(weak)}"] if weak else []
    return "; ".join(parts) or "see the table"


def card(name: str, run: runs.Run) -> str:
    """The page of a model, in Markdown."""
    spec, m = run.spec, run.metrics
    machine, packages = m["provenance"]["machine"], m["provenance"]["packages"]
    return PAGE.read_text(encoding="utf-8").format(
        name=name,
        label=_label(spec.id),
        n_id=m["ood"][spec.ood[0]][KIND]["n_id"],
        rows="\n".join(_row(run, ood, by_score[KIND]) for ood, by_score in m["ood"].items()),
        simple_rows=_simple_rows(run),
        n_simple=N_SIMPLE,
        simple_says=_sentence(run),
        control=_control(run),
        keep=100 * KEEP,
        n_fit=len(run.scores("train")[KIND]),
        share=100 * (1 - KEEP),
        refused=100 * _threshold(run).decide(run.scores(spec.id)[KIND]).mean(),
        n_parameters=m["n_parameters"],
        n_train=next(d["n"] for d in m["data"] if (d["name"], d["split"]) == (spec.id, "train")),
        spec=spec,
        seconds=m["seconds"]["training"],
        machine=machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread",
        packages=packages,
        run_id=spec.run_id,
        commit=m["provenance"]["commit"][:10],
        chosen="columns of the table above"
        if spec.id == "cifar10"
        else "not the table above, but not independent of it",
        papers=PAPERS.get(spec.id, "the paper does not say how many it takes of this set"),
        weak=_says_of_weak(run),
        battery=_battery(),
    )


def _row(run: runs.Run, ood: str, values: dict) -> str:
    found = {
        key: tables.sample(run, ood, score, key) for key, score in (("auroc", KIND), ("fpr95_id95", KIND))
    }
    alone = tables.sample(run, ood, "comp_only")
    copies = ", reduced copies saved as JPEG" if ood in run.spec.later else ""
    ends = [*map(_interval, found.values()), f"{alone.value:.1f}"]
    cells = [_label(ood) + copies, f"{values['n_ood']:,}", *ends]
    return "| " + " | ".join(cells) + " |"


def _control(run: runs.Run) -> str:
    """The same flow with the paper's outliers, where it was run: what this variant's own outliers add."""
    spec = run.spec
    done = [r for t in ("choices", "beyond_control") for r in grid.finished(spec.profile, t)]
    same = [
        r for r in done if (r.spec.id, r.spec.seed, r.spec.method) == (spec.id, spec.seed, "ccm_gaussian")
    ]
    squeezed = [r for r in same if (r.spec.squeeze, r.spec.hidden) == (spec.squeeze, spec.hidden)]
    if not squeezed:
        return "The same flow with CCM+Gaussian outliers was not run for this ID set."
    sets = list(run.metrics["ood"])
    both = (squeezed[0], run)
    means = [np.mean([r.auroc(o, KIND) for o in sets]) for r in both]
    alone, ours = (np.mean([s.auroc for s in simple(r).values()]) for r in both)
    bits = [r.metrics["id"]["bpd"] for r in both]
    return (
        f"With the paper's CCM+Gaussian outliers the same flow, seed {spec.seed}, has mean AUROC {means[0]:.1f} over "
        f"the sets above, against {means[1]:.1f} here, and {alone:.1f} over the kinds of the second table, against "
        f"{ours:.1f}. ID images cost {bits[1]:.2f} bits per dimension, there {bits[0]:.2f}."
    )


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


def _interval(sample: intervals.Sample) -> str:
    return f"{intervals.over([sample], bounds=(0, 100)):.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
