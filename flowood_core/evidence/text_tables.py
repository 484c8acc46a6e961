"""Section 3.3 in tables: Tables 6 and 11, scores that look both ways, length and complexity against likelihood."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from flowood_core import metrics, neighbours, scores
from flowood_core.complexity import text_complexity
from flowood_core.datasets import corpora
from flowood_core.evidence import tables
from flowood_core.features import encoders
from flowood_core.outliers import text as text_outliers
from flowood_core.runs import Run
from flowood_core.runs.spec import Spec

__all__ = [
    "BASELINES",
    "KEYS",
    "LENGTH",
    "beside_paper",
    "both_ways",
    "changes",
    "deciding",
    "encoder_of",
    "gains",
    "labels",
    "outliers_and_originals",
    "over_seeds",
    "rank_correlations",
    "table_11",
    "training_label",
]

KEYS = ["encoder", "training", "score", "ood", "metric"]
LENGTH = "length alone"  # the score "the longer, the more OOD"; as the table text_both_ways names it
BASELINES = {LENGTH: "the longer, the more OOD", "shortness alone": "the shorter, the more OOD"}
QUANTITIES = {"n_tokens": "length in tokens", "bits_per_byte": "complexity alone, bits per byte"}
_TRAINED = {"mle": "without outliers", "text": "with outliers"}
_KINDS = {
    "text": "the paper's",
    "sentence": "single sentences",
    "joined": "two texts by turns",
    "mixup": "mixtures of two texts",
    "cutmix": "features of two texts",
}
_POOLED = {"mean": "mean of the tokens", "cls": "first token", "pooler": "pooler"}


# --- what was run --------------------------------------------------------------------------------------------------


def training_label(spec: Spec, first: Spec) -> str:
    """What a row was trained with, in words: the difference to the first row.

    Example: "with outliers (two texts by turns, threshold -700 nats, 15 epochs, width 256)".
    """
    said = {
        "pooling": _POOLED.get(spec.pooling, spec.pooling),
        "kinds": " and ".join(_KINDS.get(kind, kind) for kind in spec.kinds),
        "tau": f"threshold {spec.tau:g} nats",
        "epochs": f"{spec.epochs:g} epochs",
        "hidden": f"width {spec.hidden}",
        "components": f"{spec.components} components",
        "weight_decay": f"weight decay {spec.weight_decay:g}",
    }
    # the components belong to the encoder, which stands in a column of its own
    alone = {"components"} if spec.encoder != first.encoder else set()
    changed = [w for n, w in said.items() if n not in alone and getattr(spec, n) != getattr(first, n)]
    return f"{_TRAINED[spec.method]} ({', '.join(changed)})" if changed else _TRAINED[spec.method]


def labels(finished: Iterable[Run], first: Spec) -> dict[str, str]:
    """`training_label` by run_id."""
    return {r.spec.run_id: training_label(r.spec, first) for r in finished}


def encoder_of(finished: Iterable[Run]) -> dict[str, str]:
    """The printed name of the encoder by run_id."""
    return {r.spec.run_id: encoders.label_of(r.spec.encoder) for r in finished}


def _named(frame: pd.DataFrame, finished: Sequence[Run], first: Spec) -> pd.DataFrame:
    by_run = {"training": labels(finished, first), "encoder": encoder_of(finished)}
    return frame.assign(**{column: frame["run_id"].map(of) for column, of in by_run.items()})


# --- the outliers --------------------------------------------------------------------------------------------------


def table_11(lexicon: text_outliers.Lexicon) -> pd.DataFrame:
    """The printed outliers and ours of the same originals, and how many of the printed sentences ours has.

    Returns:
        Columns of the printed table, ours, printed sentences in ours ("3 of 4").
    """
    examples = tables.printed("table_11")
    examples["ours"] = [text_outliers.simplify(text, lexicon) for text in examples["original"]]
    pieces = [text_outliers.sentences(text, lexicon) for text in examples["synthetic"]]
    examples["printed sentences in ours"] = [
        f"{sum(s in ours for s in of)} of {len(of)}"
        for of, ours in zip(pieces, examples["ours"], strict=True)
    ]
    return examples


def outliers_and_originals(id: str, originals: Sequence[str], synthesized: float) -> pd.DataFrame:
    """C(X) of the training texts and of the outliers made of them, bits per byte, beside Table 9.

    Returns:
        Columns set (ID_originals, ID_synthesized), paper (of the corpus as a whole), ours.
    """
    printed = tables.printed("table_9").set_index("set")["paper"]
    rows = [
        (f"{id}_originals", printed.get(id, np.nan), text_complexity(list(originals))),
        (f"{id}_synthesized", printed.get(f"{id}_synthesized", np.nan), synthesized),
    ]
    return pd.DataFrame(rows, columns=["set", "paper", "ours"])


# --- Table 6 -------------------------------------------------------------------------------------------------------


def over_seeds(finished: Sequence[Run], first: Spec) -> pd.DataFrame:
    """Every metric of every row over seeds: `KEYS` and the columns of `tables.over_seeds`."""
    return tables.over_seeds(_named(tables.collect(finished), finished, first), KEYS)


def beside_paper(ours: pd.DataFrame) -> pd.DataFrame:
    """The printed cells of Table 6 beside ours by eq. (4), by encoder; AUPR counts OOD as positive.

    Args:
        ours: of `over_seeds`. A verdict is given for ALBERT alone.
    """
    printed = tables.printed("table_6").replace({"metric": {"aupr": "aupr_out"}})
    printed["training"] = printed["outliers"] + " outliers"
    blocks = []
    for encoder, part in ours[ours["score"] == "pz"].groupby("encoder", sort=False):
        other = "" if encoder == encoders.LABELS["albert/albert-base-v2"] else "other encoder"
        joined = tables.paper_vs_ours(printed, part, ["training", "ood", "metric"], setting=other)
        blocks.append(joined.assign(encoder=encoder))
    return pd.concat(blocks)


def gains(ours: pd.DataFrame) -> pd.DataFrame:
    """AUROC minus that without outliers on the mean of the tokens, percent points: by encoder, score, OOD set.

    Args:
        ours: of `over_seeds`.
    """
    auroc = ours[ours["metric"] == "auroc"]
    rows = ["encoder", "score", "ood"]
    table = auroc.pivot_table(index=rows, columns="training", values="value", sort=False)
    return table.sub(table["without outliers"], axis=0).drop(columns="without outliers")


def deciding(ours: pd.DataFrame, ways: pd.DataFrame) -> pd.DataFrame:
    """AUROC in percent with 95 % intervals, by encoder, training and score, below what length alone gives.

    Args:
        ours: of `over_seeds`. ways: of `both_ways`; the baselines are the same for every training of an encoder.
    """
    auroc = ours[ours["metric"] == "auroc"].replace({"score": {"pz": "eq. (4)", "px": "−log p"}})
    auroc = auroc[~auroc["training"].str.contains(_POOLED["cls"] + "|" + _POOLED["pooler"])]
    first = ways["encoder"] == ways["encoder"].iloc[0]
    alone = ways[first & ways["score"].isin(BASELINES)].drop_duplicates(["score", "ood"])
    alone = alone.assign(encoder="no encoder, no flow", training="none").replace({"score": BASELINES})
    both = pd.concat([alone, auroc]).replace({"ood": corpora.LABELS})
    return tables.wide(both, ["encoder", "training", "score"], ["ood"])


# --- looking both ways ---------------------------------------------------------------------------------------------


def _looking_both_ways(run: Run) -> Iterator[dict]:
    limit = run.metrics["encoder"].get("max_length") or np.inf

    def log_length(of: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.log(np.clip(of["n_tokens"], 1, limit))

    fitted, held = ({q: v[k::2] for q, v in run.arrays[run.spec.id].items()} for k in (0, 1))
    line = np.polyfit(log_length(fitted), fitted["log_px"], 1)
    ways = {
        "px": lambda of: scores.score_nll_px(of["log_px"]),
        "px, typicality": neighbours.Typicality.fit(fitted).score,
        "px, given length": lambda of: np.polyval(line, log_length(of)) - of["log_px"],
        LENGTH: lambda of: of["n_tokens"],
        "shortness alone": lambda of: -of["n_tokens"],
    }
    for ood in run.spec.ood:
        for name, score in ways.items():
            value = 100 * metrics.auroc(score(held), score(run.arrays[ood]))
            yield {"run_id": run.spec.run_id, "score": name, "ood": ood, "value": float(value)}


def both_ways(finished: Sequence[Run], first: Spec) -> pd.DataFrame:
    r"""AUROC in percent of scores that look both ways, fitted on every second ID test text, on the others.

    `typicality` is |log p_X + H|; `given length` is -log p_X minus its line in the logarithm of the tokens seen.

    Returns:
        encoder, training, score, ood and the columns of `tables.over_seeds`, over seeds alone.
    """
    rows = pd.DataFrame([row for run in finished for row in _looking_both_ways(run)])
    return tables.over_seeds(_named(rows, finished, first).assign(low=np.nan, high=np.nan), KEYS[:-1])


def changes(ways: pd.DataFrame, encoder: str) -> pd.DataFrame:
    """Points of AUROC that typicality and length add to px, mean over the rows of an encoder: by score and OOD set."""
    mine = ways[ways["encoder"] == encoder]
    table = mine.pivot_table(index=["training", "ood"], columns="score", values="value", sort=False)
    both = table[["px, typicality", "px, given length"]].sub(table["px"], axis=0)
    return both.groupby("ood", sort=False).mean().T


def rank_correlations(named: Mapping[str, Run], sets: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of length and complexity with log p_X: of all texts, and the mean inside a corpus.

    Args:
        named: a run by what it was trained with. sets: ID and OOD, names of its arrays.
    """
    rows = []
    for training, run in named.items():
        for quantity in QUANTITIES:
            frames = [pd.DataFrame({q: run.arrays[s][q] for q in (quantity, "log_px")}) for s in sets]
            inside = np.mean([_spearman(of) for of in frames])
            rows.append([training, quantity, _spearman(pd.concat(frames)), inside])
    return pd.DataFrame(rows, columns=["training", "quantity", "rank correlation", "inside the corpora"])


def _spearman(two: pd.DataFrame) -> float:
    return float(two.rank().corr().iloc[0, 1])
