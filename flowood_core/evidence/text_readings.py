"""What the tables of section 3.3 show, in sentences by hand: each with the condition under which it is said."""

import pandas as pd

from flowood_core.datasets import corpora
from flowood_core.notebook.reading import Said

__all__ = ["correlations", "over_fitting", "simpler", "table_6", "ways"]


def simpler(both: pd.DataFrame) -> list[Said]:
    """Are the outliers simpler than the texts they were made of? Of `text_tables.outliers_and_originals`."""
    fall, printed = (both[column].iloc[0] - both[column].iloc[1] for column in ("ours", "paper"))
    return [
        (
            fall > 0,
            f"The outliers are {fall:.2f} bits per byte simpler than the texts they were made of.",
            f"The outliers are not simpler than the texts they were made of ({-fall:+.2f} bits per byte).",
        ),
        (printed > 0, f"The paper prints a fall of {printed:.2f}, of IMDb as a whole."),
        (0 < fall < printed / 2, "That is less than half of the printed fall."),
    ]


def table_6(ours: pd.DataFrame, alone: pd.DataFrame) -> list[Said]:
    """What outliers move by the printed score, and what length alone finds.

    Args:
        ours: of `text_tables.over_seeds`. alone: of `text_tables.both_ways`.
    """
    auroc = ours[(ours["metric"] == "auroc") & (ours["encoder"] == ours["encoder"].iloc[0])]
    value = auroc.set_index(["score", "training", "ood"])["value"].sort_index()
    gain = value["pz", "with outliers"] - value["pz", "without outliers"]
    short = alone[alone["score"] == "shortness alone"].drop_duplicates("ood").set_index("ood")["value"]
    trivial = [corpora.LABELS[s] for s in gain.index if short[s] > 95]
    said: list[Said] = [
        (
            gain.abs().max() < 1,
            f"By eq. (4) the paper's outliers move no corpus by more than {gain.abs().max():.1f} points "
            f"({auroc['encoder'].iloc[0]}).",
            f"By eq. (4) the paper's outliers move AUROC by {gain.min():+.1f} to {gain.max():+.1f} points "
            f"({auroc['encoder'].iloc[0]}).",
        ),
        (
            len(trivial) > 0,
            f"High numbers on {' and '.join(trivial)} say little: that these texts are short tells as much, without "
            "an encoder or a flow.",
        ),
    ]
    return [*said, *_long_texts(value)]


def _long_texts(value: pd.Series) -> list[Said]:
    """Movie Reviews: reviews as ID texts are, and longer."""
    px = value["px"].unstack("ood")
    if "movie_reviews" not in px:
        return []
    films = px["movie_reviews"]
    best, plain = films.idxmax(), films["without outliers"]
    lost = (px.loc["without outliers"] - px.loc[best]).drop("movie_reviews").max()
    return [
        (
            plain < 50,
            f"Movie Reviews are missed: {plain:.1f} by −log p, worse than a coin, since longer texts are likelier.",
        ),
        (
            plain < 50 < films[best] and lost > 0,
            f"Of {len(films)} rows the best by this very number, {best}, finds them at {films[best]:.1f}, and pays up "
            f"to {lost:.1f} points elsewhere.",
        ),
    ]


def ways(change: pd.DataFrame, rank: float) -> list[Said]:
    """Scores that look both ways.

    Args:
        change: of `text_tables.changes`. rank: rank correlation of length with log p_X among ID texts.
    """
    words = [
        f"{name.removeprefix('px, ')}: "
        + ", ".join(f"{corpora.LABELS.get(s, s)} {v:+.1f}" for s, v in row.items())
        for name, row in change.iterrows()
    ]
    films = change.get("movie_reviews", pd.Series(dtype=float))
    return [
        (
            rank > 0.2,
            f"Among ID texts the longer is the likelier (rank correlation {rank:+.2f}).",
            f"Among ID texts length and likelihood have a rank correlation of {rank:+.2f}.",
        ),
        (True, f"AUROC points that each score adds to −log p, mean over the rows. {'; '.join(words)}."),
        (
            len(films) > 0 and films.min() > 10 and change.drop(columns="movie_reviews").max(axis=None) < 0,
            "Looking both ways finds Movie Reviews and costs something on every other corpus.",
        ),
    ]


def over_fitting(curve: pd.DataFrame, epochs: float) -> list[Said]:
    """The likelihood of unseen ID texts over training.

    Args:
        curve: epochs, train, test (nats). epochs: of the runs in the tables.
    """
    peak, last = curve.loc[curve["test"].idxmax()], curve.iloc[-1]
    at = curve.loc[(curve["epochs"] - epochs).abs().idxmin()]
    return [
        (
            peak["epochs"] < last["epochs"],
            f"ID test texts are likeliest after {peak['epochs']:.0f} of {last['epochs']:.0f} epochs "
            f"({peak['test']:.0f} nats). At the end they are at {last['test']:.0f}, training texts at "
            f"{last['train']:.0f}.",
            "ID test texts are likeliest at the end: no over-fitting is seen.",
        ),
        (
            peak["epochs"] < at["epochs"] == epochs and at["test"] < peak["test"],
            f"The runs of Table 6 train for {epochs:g} epochs, past that peak ({at['test']:.0f} nats).",
        ),
    ]


def correlations(bias: pd.DataFrame) -> list[Said]:
    """Length and complexity against likelihood. Of `text_tables.rank_correlations`."""
    by = bias.set_index(["training", "quantity"])
    first, second = bias["training"].iloc[0], bias["training"].iloc[-1]
    tokens = by.xs("n_tokens", level="quantity")
    return [
        (
            bool((tokens > 0.2).all(axis=None)),
            "The longer a text, the likelier, over all texts and inside the corpora.",
            "Length and likelihood do not rise together in every row.",
        ),
        (
            bool((tokens.loc[second] < tokens.loc[first]).all()),
            f"The row on the right weakens it: {tokens.loc[first, 'rank correlation']:+.2f} to "
            f"{tokens.loc[second, 'rank correlation']:+.2f}.",
        ),
        (
            bool((by.xs("bits_per_byte", level="quantity") < 0).all(axis=None)),
            "Complexity of the text alone falls with length, so its correlation has the other sign.",
        ),
    ]
