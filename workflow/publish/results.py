"""RESULTS.md and the headline of README.md, made from the runs that are committed: nobody types a number.

`templates/results.md` holds the sentences, this file the tables that it names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowood_core.evidence import surface, two_levels
from flowood_core.intervals import Interval
from flowood_core.outliers.image import METHOD_LABELS
from workflow.publish import facts, long_runs, markdown
from workflow.publish.facts import Facts

__all__ = ["headline", "page", "updated"]

TEMPLATE = Path(__file__).parent / "templates" / "results.md"
BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
MARKS = {"agrees": "=", "higher": "↑", "lower": "↓", "cannot tell": "?"}
ROWS = {"mle": "MLE", "ro": "RO", "gaussian": "Gaussian", "ccm": "CCM", "ccm_gaussian": "CCM+Gaussian"}
OURS = {
    "squeezed": "CCM+Gaussian, squeezed (A7)",
    "ccm_simplify": "squeezed, CCM+simplify: our first variant",
    "ccm_graded": "flowood: squeezed, outliers of every grade",
}


def page(profile: str = facts.PROFILE) -> str:
    """RESULTS.md."""
    return facts.render(TEMPLATE.read_text("utf-8"), _given(Facts(profile)), "results.md")


def _given(f: Facts) -> dict[str, Any]:
    """What the template may call: all facts, and the tables of this file."""
    makers: list[Callable[..., str]] = [
        coverage, claims_table, images_table, rates_table, unit_table, maps_table, better_network_table, texts_table,
        choices_table, lipschitz_table, how, figure, battery_table, surface_table, levels_table,
        long_runs.length_table, long_runs.deviations_table, long_runs.long_table,
        long_runs.long_hours, long_runs.long_images, long_runs.long_steps,
    ]  # fmt: skip
    bound = {maker.__name__: lambda *args, maker=maker, **more: maker(f, *args, **more) for maker in makers}
    return facts.facts_of(f) | bound


# --- how often do ours agree -------------------------------------------------------------------------------


def coverage(f: Facts) -> str:
    """Counts of verdicts by printed table of percentages."""
    words = ["agrees", "higher", "lower", "cannot tell"]
    rows = []
    for name, cells in f.cells.groupby("table", sort=False):
        found = cells["verdict"].value_counts()
        other = {w: n for w, n in found.items() if w.startswith("other")}
        counts = [f"{found.get(w, 0)}" for w in words]
        not_run = len(cells) - sum(found.get(w, 0) for w in words) - sum(other.values())
        setting = ", ".join(f"{n} {w}" for w, n in other.items()) or "–"
        rows.append([name.replace("_", " ").capitalize(), f"{len(cells)}", *counts, setting, f"{not_run}"])
    head = ["", "printed cells", *words, "measured in another setting", "not run, or not scored yet"]
    return markdown.table(head, rows)


def claims_table(f: Facts) -> str:
    """Every claim with its parts, the best and the worst."""
    rows = []
    for c in f.judged.itertuples():
        whose = f"“{c.sentence}”" if c.wording == "the paper's" else f"{c.sentence} *(our wording)*"
        word = f"**{c.verdict}**" + (f" ({c.setting})" if c.verdict == "other setting" else "")
        parts = "<br>".join(x for x in (c.parts, c.apart) if x) or "–"
        rows.append([whose, c.section, word, parts, c.best or "–", c.worst or "–", c.unit, c.seeds or "–"])
    head = ["claim", "where", "verdict", "parts", "best part", "worst part", "unit", "seeds"]
    return markdown.table(head, rows, words=True)


# --- Tables 2 and 3 ----------------------------------------------------------------------------------------


def images_table(f: Facts, id: str, score: str = "nll") -> str:
    """AUROC with one ID set: the paper's number, ours and the mark of the verdict; the best of ours in bold."""
    ours = {"nll": "pz", "comp": "pz_comp"}[score]
    return _images(f, id, score, ours, "auroc", best=max)


def rates_table(f: Facts, id: str, score: str = "nll") -> str:
    """FPR95, the same way."""
    ours = {"nll": "pz", "comp": "pz_comp"}[score]
    return _images(f, id, score, ours, "fpr95", best=min)


def _images(f: Facts, id: str, score: str, ours: str, metric: str, best: Callable) -> str:
    runs = f.of("mle", id)
    if not runs:
        return f"*{markdown.label(id)} as ID: not run.*"
    printed = f.cells.query(
        "table in ['table_2', 'table_3'] and id == @id and score == @score and metric == @metric"
    )
    printed = printed.set_index(["method", "ood"])
    tested = list(runs[0].metrics["ood"])
    sets = sorted(tested, key=lambda o: ("mle", o) not in printed.index)
    named = "fpr95_id95" if metric == "fpr95" else metric
    values = {
        (m, o): e for m in (*ROWS, *OURS) for o in sets if (e := f.at(m, o, id, ours, named)) is not None
    } | {("alone", o): f.alone(o, id, named) for o in sets}
    top = {o: best(round(e.value, 1) for (_, x), e in values.items() if x == o) for o in sets}
    rows = []
    for method, title in (ROWS | {"alone": "*−C(x) alone, no flow*"} | OURS).items():
        if not any(m == method for m, _ in values):
            continue
        suffix = "" if score == "nll" or method == "alone" else "+Complexity"
        suffix = f", {suffix}" if suffix and method in OURS else suffix
        cells = [
            _beside(printed, method, o, values.get((method, o)), bold=_is(values.get((method, o)), top[o]))
            for o in sets
        ]
        rows.append([title + suffix, *cells])
    return markdown.table(["", *[_head(f, o, id) for o in sets]], rows)


def _is(e: Interval | None, value: float) -> bool:
    return e is not None and round(e.value, 1) == value


def _beside(printed: Any, method: str, ood: str, e: Interval | None, bold: bool) -> str:
    shown = "not run" if e is None else f"{e:.1f}"
    if bold:
        value, _, rest = shown.partition(" ")
        shown = f"**{value}** {rest}".strip()
    if (method, ood) not in printed.index:
        return shown
    cell = printed.loc[(method, ood)]
    return f"*{cell['paper']:.1f}* {MARKS.get(cell['verdict'], '')} {shown}"


def _head(f: Facts, ood: str, id: str) -> str:
    mark = "†" * (ood in f.of("mle", id)[0].spec.later)  # the page has the footnote
    return f"{markdown.label(ood)}{mark}<br>C = {f.complexity(ood, id):.2f}"


def unit_table(f: Facts) -> str:
    """A6: "+Complexity" on iSUN by training, in both units of eq. (5)."""
    rows = []
    for method, title in ROWS.items():
        cells = []
        for id in ("cifar10", "cifar100"):
            paper = f.paper(method, "isun", id, "comp")
            cells += [f"*{paper:.1f}*", _text(f.at(method, "isun", id, "pz_comp"))]
        rows.append([title, *cells])
    head = ["training", "CIFAR-10, paper", "CIFAR-10, ours", "CIFAR-100, paper", "CIFAR-100, ours"]
    return markdown.table(head, rows)


def _text(e: Interval | None, spec: str = ".1f") -> str:
    return "not run" if e is None else f"{e:{spec}}"


# --- sections 3.2 and 3.3 ----------------------------------------------------------------------------------


def maps_table(f: Facts) -> str:
    """Table 5 on another backbone: published score, and what -log p gives on the same flows."""
    columns = [
        ("chest_xray_bad", "table_5", "published"),
        ("chest_xray_bad", "table_5", "px"),
        ("chest_xray_bad", "table_5_256", "published"),
        ("magnetic_tile_bad", "table_5", "published"),
        ("magnetic_tile_bad", "table_5", "px"),
    ]
    rows = []
    for model, title in (("fastflow", "FastFlow"), ("cs_flow", "CS-Flow")):
        for method, name in METHOD_LABELS.items():
            if method == "ro":
                continue
            printed = "plain" if method == "mle" else method
            paper = f.paper_maps(printed, model)
            cells = [_text(f.maps(method, ood, model, score, table)) for ood, table, score in columns]
            rows.append([title + ("" if method == "mle" else f"+{name}"), f"*{paper:.1f}*", *cells])
    alone = [_text(f.maps("mle", ood, "fastflow", "comp_only", table)) for ood, table, _ in columns]
    rows.append(["*−C(x) alone, no flow*", "–", *alone])
    head = [
        "", "chest, paper", "chest 128 px", "chest, −log p", "chest 256 px, one seed", "tiles 128 px", "tiles, −log p",
    ]  # fmt: skip
    return markdown.table(head, rows)


def better_network_table(f: Facts) -> str:
    """Flows on EfficientNet-Lite0 at 256 pixels beside what needs no flow, as `03_2` and `app_c` left them."""
    left = {"chest X-ray": f.table("table_5_lite_ours"), "screws": f.table("table_10_scores")}
    keys, shown = ["model", "method"], ["−log p", "published score", "eq. (4)", "no flow"]
    rows = []
    for name, table in left.items():
        for row in (table if table is not None else pd.DataFrame()).to_dict("records"):
            title = f"{name}: {row[keys[0]]}, {row[keys[1]]}"
            rows.append([title, *("–" if pd.isna(row[c]) else row[c] for c in shown)])
    return markdown.table(["", *shown], rows)


TEXTS = {"movie_reviews": "Movie Reviews", "ag_news": "AG News", "sst2": "SST-2", "wikitext2": "WikiText-2"}


def texts_table(f: Facts) -> str:
    """Table 6 with other encoders, beside the length of the text alone."""
    rows = []
    for outliers, method in (("without", "mle"), ("with", "text")):
        rows.append(
            [f"ALBERT, {outliers} outliers, *paper*", *[f"*{f.paper_text(outliers, o):.1f}*" for o in TEXTS]]
        )
        for encoder, name in (("minilm", "MiniLM"), ("tfidf", "TF-IDF")):
            cells = [_text(f.text(method, o, encoder)) for o in TEXTS]
            rows.append([f"{name}, {outliers} outliers", *cells])
    alone = [f.shortness(o) for o in TEXTS]
    rows.append(["*the shorter, the more OOD: no flow*", *["–" if a is None else f"{a:.1f}" for a in alone]])
    return markdown.table(["", *TEXTS.values()], rows)


# --- choices, Lipschitz, deviations ------------------------------------------------------------------------


def choices_table(f: Facts, score: str) -> str:
    """AUROC points that each open choice gains on every test set, by one score."""
    found = f.choices[f.choices["score"] == score]
    sets = list(dict.fromkeys(found["ood"]))
    rows = []
    for (code, choice, of), part in found.groupby(["code", "choice", "of"], sort=False):
        effects = part.set_index("ood")["effect"]
        bpd = "–" if code in ("A2", "A4") else f"{part['bpd'].iloc[0]:+.2f}"
        rows.append(
            [f"{code} {choice} ({of})", *[_clear(effects[o]) if o in effects else "–" for o in sets], bpd]
        )
    return markdown.table(["the other choice (against)", *map(markdown.label, sets), "ID bits/dim"], rows)


def _clear(e: Interval) -> str:
    """Bold where the interval does not hold zero."""
    shown = f"{e:+.1f}"
    value, _, rest = shown.partition(" ")
    return f"**{value}** {rest}" if e.low > 0 or e.high < 0 else shown


def battery_table(f: Facts) -> str:
    """How many simple kinds of the battery each training leaves below an AUROC of 97, by eq. (4), and the worst."""
    table = f.table("battery_below")
    if table is None:
        return "*Not run.*"
    cells = table[table["score"] == "pz"].fillna({"worst": "none"})
    rows = [
        [r.training, f"{r.below} of {r.of}", _kinds(r.worst, is_trained=r.training != "MLE")]
        for r in cells.itertuples(index=False)
    ]
    return markdown.table(
        ["training", "kinds below 97", "the four worst, with their AUROC"], rows, words=True
    )


def _kinds(worst: str, is_trained: bool) -> str:
    """ "grey: 86*, median of 3 x 3: 90"; maximum likelihood has seen none, whatever the table marks."""
    return ", ".join(
        f"{kind}: {auroc}{'' if unseen or not is_trained else '*'}"
        for kind, auroc, unseen in markdown.kinds_of(worst)
    )


def surface_table(f: Facts) -> str:
    """AUROC of every score of `evidence.surface` on every set, with `flowood` on pixels, and simple kinds below 97."""
    table = f.table("surface")
    if table is None:
        return "*Not run.*"
    sets = list(dict.fromkeys(table["ood"]))
    rows = []
    for score, label in surface.SETS_LABELS.items():
        shown = [_text(f.surface(score, name)) for name in sets]
        rows.append([label, *shown, f.surface_below(score)])
    return markdown.table(["", *map(markdown.label, sets), "simple kinds below 97"], rows)


def levels_table(f: Facts) -> str:
    """AUROC of every score of `evidence.two_levels` on every set, the best of each column in bold."""
    table = f.table("levels")
    if table is None:
        return "*Not run.*"
    best = table.groupby("ood")["value"].max()
    sets, rows = list(dict.fromkeys(table["ood"])), []
    for score, of in table.groupby("score", sort=False):
        by = of.set_index("ood")
        shown = [_text(f.level(score, name)) for name in sets]
        bold = [f"**{x}**" if by["value"][n] == best[n] else x for n, x in zip(sets, shown, strict=True)]
        rows.append([two_levels.LABELS[score], *bold])
    return markdown.table(["", *map(markdown.label, sets)], rows)


def lipschitz_table(f: Facts) -> str:
    """The ratio with and without outliers, by reading and statistic: mean of log10 over seeds, and runs that rise."""
    table = f.table("lipschitz")
    if table is None:
        return "*Not run.*"
    names = {"max": "maximum", "median": "median", "q95": "95 % quantile"}
    rows = []
    for quantity, of in table.groupby("quantity", sort=False):
        cells = []
        for statistic in names:
            by = of.pivot_table(index=["id", "seed"], columns="method", values=statistic).dropna()
            ratio = by["CCM+Gaussian"] / by["MLE"]
            typical = 10 ** np.log10(ratio).mean()
            cells.append(f"{typical:.2f} times, rises in {(ratio > 1).sum()} of {len(ratio)} runs")
        rows.append([_READINGS[quantity], *cells])
    return markdown.table(["", *names.values()], rows)


_READINGS = {
    "grad_sum_z": "f: gradient of the sum of z",
    "grad_logp": "f: gradient of log p(x)",
    "spectral": "f: largest singular value",
    "spectral of the inverse": "inverse of f: largest singular value",
}


def how(f: Facts) -> str:
    """What a run is, in a sentence."""
    run = f.of("mle")[0]
    machine, seconds = run.metrics["provenance"]["machine"], run.metrics["seconds"]["training"]
    hardware = f"a {machine['gpu']}" if machine["gpu"] else f"one core of {machine['processor']}"
    return (
        f"{f.trained_on('cifar10'):,} training images, {run.spec.epochs:g} epochs, {len(f.of('mle'))} seeds, "
        f"{run.metrics['n_parameters']:,} parameters, {seconds / 60:.0f} minutes a run on {hardware}"
    )


def figure(f: Facts, name: str, caption: str) -> str:
    return f"![{caption}](outputs/{f.profile}/figures/{name}.png)"


# --- README ------------------------------------------------------------------------------------------------


def headline(profile: str = facts.PROFILE) -> str:
    """What stands between the markers of README.md: numbers of both sizes beside the paper's, and verdicts."""
    f = Facts(profile)
    rows = [
        [
            f"{markdown.label(name)}, {training}",
            f"{f.paper(method, name):.1f}",
            _text(f.at(method, name)),
            long_runs.long_cell(method, name),
        ]
        for name, method, training in (
            ("svhn", "mle", "maximum likelihood"),
            ("svhn", "ccm_gaussian", "with CCM+Gaussian outliers"),
            ("isun", "ccm_gaussian", "with CCM+Gaussian outliers"),
        )
    ]
    alone = long_runs.long_cell("ccm_gaussian", "svhn", score="comp_only")
    rows += [
        ["SVHN, by −C(x) alone: no flow", "not printed", _text(f.alone("svhn")), alone],
        [
            "CelebA (reduced copies): points gained by these outliers",
            f"{f.paper('ccm_gaussian', 'celeba') - f.paper('mle', 'celeba'):+.1f}",
            _text(f.gain("ccm_gaussian", "celeba"), "+.1f"),
            _text(f.long_gain("celeba", "cifar10"), "+.1f"),
        ],
    ]
    n = f.cell_counts()
    differ, epochs = n["higher"] + n["lower"], f"{f.of('mle')[0].spec.epochs:g}"
    printed = sum(len(f.cells[f.cells["table"] == t]) for t in ("table_2", "table_3"))
    verdicts = (
        f"CIFAR-10 as ID, AUROC in percent (the chance that an OOD image scores higher than an ID image; 50 is a "
        f"coin), by −log p(z), eq. (4). CCM is CutPaste, CutMix or MixUp, Gaussian a blur; C(x) is the size of the "
        f"image as lossless JPEG2000. [95 % interval], over seeds and test draws, with one seed over test draws alone. "
        f"The last column has another draw of test images, which is why −C(x) differs. Of the {printed} cells of "
        f"Tables 2 and 3, {n['all']} were run with {f.trained_on('cifar10'):,} images (iSUN {f.trained_on('isun'):,}) "
        f"and {epochs} epochs: {n['agrees']} agree with the paper, {differ} differ, {n['cannot tell']} cannot be told "
        f"yet. [What was trained at the paper's size](RESULTS.md#were-twelve-epochs-enough) has a chapter of its own."
    )
    head = [
        "",
        "paper",
        f"ours, {epochs} epochs, {len(f.of('mle'))} seeds",
        "ours, the paper's 500 epochs, one seed",
    ]
    return "\n\n".join([BEGIN, markdown.table(head, rows), verdicts, END])


def updated(readme: str, new: str) -> str:
    """The page with its block replaced.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"expected README.md to hold {BEGIN!r} and {END!r} once each; put them back")
    return readme[: readme.index(BEGIN)] + new + readme[readme.index(END) + len(END) :]
