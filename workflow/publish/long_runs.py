"""What the trainings of the paper's size say, and what each profile does otherwise than the paper."""

from typing import Any

from flowood_core.outliers.image import METHOD_LABELS
from flowood_core.runs import Run, grid, over_epochs
from workflow.publish import markdown
from workflow.publish.facts import Facts, n_train

__all__ = [
    "deviations_table",
    "length_table",
    "long_cell",
    "long_hours",
    "long_images",
    "long_steps",
    "long_table",
]

# of profile paper; what "length" alone has is RO with a pool at hand (A18)
TABLES = ("table_2", "table_3", "length")
PRINTED = ("mle", "ro", "gaussian", "ccm", "ccm_gaussian")  # rows of Tables 2 and 3
LENGTH_SETS = {"isun": ("svhn", "cifar10", "cifar100", "celeba")} | dict.fromkeys(
    ("cifar10", "cifar100"), ("svhn", "isun", "celeba")
)


def length_table(f: Facts, id: str = "isun") -> str:
    """AUROC by both scores, and bits, after more and more epochs, and what the paper prints after 500."""
    rows, epochs = [], (12, 50, 100, 200, 500)
    for method, label in (("mle", "maximum likelihood"), ("ccm_gaussian", "CCM+Gaussian")):
        reached = f.epochs(method, id)

        def cells(ood: str, quantity: str, digits: int, method=method, reached=reached) -> list[str]:
            return [
                f"{f.at_epoch(method, ood, e, quantity, id):.{digits}f}" if e in reached else "–"
                for e in epochs
            ]

        for score, words in (("pz", "eq. (4)"), ("pz_comp", "eq. (5)"), ("px", "−log p(x)")):
            for ood in LENGTH_SETS[id]:
                of_paper = {"pz": "nll", "pz_comp": "comp"}.get(score)
                printed = f"{f.paper(method, ood, id, of_paper):.1f}" if of_paper else ""
                rows.append(
                    [f"{label}, {words}, {markdown.label(ood)}", *cells(ood, f"auroc {score}", 1), printed]
                )
        for quantity, words in (("bpd", "mean"), ("bpd median", "median")):
            rows.append([f"{label}, ID bits per dimension, {words}", *cells("", quantity, 2), ""])
    return markdown.table(["", *(f"{epoch} epochs" for epoch in epochs), "paper"], rows)


def long_table(f: Facts, id: str) -> str:
    """Every training of the paper's size that is done: AUROC by eq. (4), its interval, and the printed one."""
    done = {r.spec.method: r for r in _done() if r.spec.id == id}
    sets, rows = LENGTH_SETS[id], []
    specs = [s for t in TABLES for s in grid.rows("paper", t)]
    for method, label in METHOD_LABELS.items():
        if method not in PRINTED:
            continue
        cells = [
            f"{_auroc(done[method], ood, 'pz')} ({f.paper(method, ood, id):.1f})"
            for ood in sets
            if method in done
        ]
        started = any(s.id == id and s.method == method and over_epochs.kept(s) for s in specs)
        rows.append([label, *(cells or ["on its way" if started else "not run"] * len(sets))])
    alone = [_auroc(next(iter(done.values())), ood, "comp_only") if done else "not run" for ood in sets]
    return markdown.table(["", *map(markdown.label, sets)], [*rows, ["−C(x) alone", *alone]])


def long_cell(method: str, ood: str, id: str = "cifar10", score: str = "pz") -> str:
    """AUROC in percent of one training of the paper's size, with its interval over test draws."""
    found = [r for r in _done() if r.spec.id == id and r.spec.method == method]
    return _auroc(found[0], ood, score) if found else "not run"


def _done() -> list[Run]:
    return list({r.spec.run_id: r for t in TABLES for r in grid.finished("paper", t)}.values())


def _auroc(run: Run, ood: str, score: str) -> str:
    value, low, high = (100 * v for v in run.metrics["ood"][ood][score]["auroc"])
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def long_images(f: Facts, id: str) -> str:
    """Number of training images of the trainings of the paper's length on one ID set."""
    return _count({r.spec.id: n_train(r) for r in _done()}.get(id))


def long_steps(f: Facts, id: str) -> str:
    """Number of steps of the same."""
    run = next(r for r in _done() if r.spec.id == id)
    return _steps(run.spec, n_train(run))


def long_hours(f: Facts) -> str:
    """Shortest and longest training of the paper's size, in hours: "0.3 to 7.6"."""
    hours = [r.metrics["seconds"]["training"] / 3600 for r in _done()]
    return f"{min(hours):.1f} to {max(hours):.1f}"


def deviations_table(f: Facts) -> str:
    """What the flows on pixels do otherwise than the paper, in the profile and at the paper's size."""
    ours, long = f.of("mle")[0].spec, next(s for s in grid.rows("paper", "table_2") if s.id == "cifar10")
    done = _done()
    of_set = {r.spec.id: n_train(r) for r in done}
    of_profile = [r for id in ("cifar10", "cifar100", "isun") for r in f.of("ro", id)]
    pools = [_pools(of_profile), _pools([r for r in done if r.spec.method == "ro"])]
    same, none = "the same", "–"
    rows = [
        ["training images, CIFAR-10", "50,000", f"{f.trained_on('cifar10'):,}", _count(of_set.get("cifar10"))],
        ["training images, CIFAR-100", "50,000", f"{f.trained_on('cifar100'):,}", _count(of_set.get("cifar100"))],
        ["training images, iSUN", "not printed; 7,925 are left of the set", f"{f.trained_on('isun'):,}",
         _count(of_set.get("isun"))],
        ["epochs", f"{long.epochs:g}", f"{ours.epochs:g}", f"{long.epochs:g}"],
        ["batch, steps (CIFAR)", f"{long.batch_size}, about 195,000",
         f"{ours.batch_size}, {_steps(ours, f.trained_on('cifar10'))}",
         f"{long.batch_size}, " + "; ".join(
             f"{markdown.label(id)}: {_steps(long, n)}" for id, n in of_set.items() if id != "isun")],
        ["learning rate, schedule", f"{long.lr:g}, none mentioned", f"{ours.lr:g}, {ours.schedule}",
         f"{long.lr:g}, {long.schedule}"],
        ["start", "not printed", _start(ours), _start(long)],
        ["precision of the subnets", "not printed", _precision(ours), _precision(long)],
        ["clipping of the gradient's norm", "none mentioned", f"{ours.clip:g}", f"{long.clip:g}"],
        ["seeds", "not printed", f"{len(f.of('mle'))}", f"{len({r.spec.seed for r in done})}"],
        ["test images a set", "1,000", f"{ours.n_test:,}, the same in every run",
         f"{long.n_test:,}, of CIFAR-10 another draw"],
        ["real outliers (RO)", "not said which", *pools],
        ["CIFAR-10", "official split", "official split, its first 12,000 and 2,000 images",
         "official split, all but 73 and 20 images"],
        ["CIFAR-100", "official split", "split drawn anew: an official test image may train", same],
        ["SVHN", "test file", "1,083 images of the training file", same],
        ["iSUN", "not said", "6,000 / 2,000 drawn here; one duplicate lies in both", same],
        ["LSUN (C = 5.44)", "tested", f"scenes, C = {f.complexity('scenes_tinyimagenet'):.2f}, instead", "not run"],
        ["CelebA (C = 6.33)", "tested", f"copies of 64x64, JPEG, C = {f.complexity('celeba'):.2f} (†)", same],
        ["section 3.2: backbone", "Wide-ResNet50-2, EfficientNet-B5", "SqueezeNet, pruned and of 8-bit weights", none],
        ["section 3.2: pictures", "256 px, original files", "128 px from copies of 224 px; 300 train, 150 + 150 test",
         none],
        ["section 3.3: encoder", "ALBERT base v2", "MiniLM-L6, TF-IDF", none],
        ["section 3.3: epochs", "not printed", f"{_epochs_of_texts(f):g}; held-out log p peaks at 4", none],
    ]  # fmt: skip
    return markdown.table(
        ["", "the paper", f"profile {f.profile}", "trainings at the paper's size"], rows, words=True
    )


def _pools(runs: list[Run]) -> str:
    """Where the real outliers of row RO come from: "CIFAR-10: iSUN (A18)"."""
    of = {markdown.label(r.spec.id): " and ".join(map(markdown.label, r.spec.ro_pool)) for r in runs}
    return "; ".join(f"{id}: {pool}" for id, pool in of.items()) + " (A18)" if of else "–"


def _count(n: int | None) -> str:
    return "not done yet" if n is None else f"{n:,}"


def _steps(spec: Any, n: int) -> str:
    return f"{spec.epochs * (n // spec.batch_size):,.0f}"


def _start(spec: Any) -> str:
    return "measured on 512 training images" if spec.data_init else "as built"


def _precision(spec: Any) -> str:
    return "bfloat16" if spec.bf16 else "float32"


def _epochs_of_texts(f: Facts) -> float:
    return next(s for s in grid.rows(f.profile, "table_6")).epochs
