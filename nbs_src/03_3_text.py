# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# 3.3 Text
**Question.** Does the bias, and its cure by simpler outliers, carry over from pixels to texts?
**Answer.** Not with the encoders at hand. In profile `sample` (MiniLM and TF-IDF; the paper's is ALBERT) the paper's outliers move no corpus by a point with MiniLM, and cost up to eight points with TF-IDF. Short texts are found, and their shortness alone finds them as well. Long texts are missed, since a long text is likely whatever it says. Outliers joined from two texts push against that. Table 6 has the numbers.
**Makes** Tables 6 and 11 · **reads** the runs of `train_one` (trains what is missing) · **time** 20 s when the runs exist; quick 1 min, sample 20 min, paper GPU-minutes
"""

# %% tags=["bootstrap"]
import importlib.util

from IPython import get_ipython

REPO, REF = "https://github.com/OWNER/REPO", "main"  # stamped by `make badges` from the git remote
if importlib.util.find_spec("flowood_core") is None:
    get_ipython().run_line_magic("pip", f"install -q 'flowood-core[text] @ git+{REPO}@{REF}'")
import flowood_core  # noqa: F401  fails here, and clearly, if the line above could not install it

# %% tags=["parameters"]
from typing import Optional

profile: str = "quick"
curve_epochs: Optional[int] = None  # None: the profile's; length of the training that shows over-fitting
n_figure: int = 300  # points per corpus in the scatter
keep: float = 0.95  # share of ID texts that the threshold keeps

# %% tags=["imports"]
import pandas as pd

from flowood_core import flow, runs, scores
from flowood_core.datasets import MissingData, corpora
from flowood_core.evidence import tables, text_readings, text_tables
from flowood_core.features import encoders
from flowood_core.notebook import figures, params, widgets
from flowood_core.outliers import text as text_outliers
from flowood_core.runs import grid

P = params.check(globals(), notebook="03_3_text")
sheet = figures.start("03_3_text", P)

# %%
wanted = [t for t in ("table_6", "table_6_variant", "table_6_pooling") if t in grid.tables(P.profile)]
finished, absent = runs.available(s for table in wanted for s in grid.rows(P.profile, table))
for name, why in absent.items():
    print(f"not run, {corpora.LABELS.get(name) or encoders.label_of(name)}: {why}")
if not finished:
    raise params.ParameterError(
        "expected runs on texts, or an encoder and texts to make them; there are none"
    )
first = finished[0].spec
row_labels, encoder_of = text_tables.labels(finished, first), text_tables.encoder_of(finished)
print(f"{len(finished)} runs, ID {corpora.LABELS[first.id]}, profile {P.profile}: {sheet.label}")

# %% [markdown]
r"""
What needs the encoder itself, and not only its finished runs, is left out below where it is not here.
"""

# %%
try:
    data = first.data()
except (encoders.MissingWeights, MissingData) as error:
    data = None
    print(f"{encoders.label_of(first.encoder)} cannot encode here: {str(error).splitlines()[0]}")

# %% [markdown]
r"""
> To generate synthetic text outliers, we employ a two-step process focusing on both sentence length and vocabulary complexity. … Sentences exceeding this length are removed … We replace the word with the first synonym that differs from the original word.

What the paper leaves open is decided in `DECISIONS.md`: the 20 are words per sentence (A26), a synonym is the first lemma of WordNet's first synset that differs (A27). No step is random, so an outlier is made once.
"""

# %%
figures.show_source(text_outliers.simplify)

# %%
mine = next(r for r in finished if r.spec.method == "text")
made = mine.metrics["outliers"]
words = "WordNet's synonyms" if "wordnet" in made["resources"] else "no synonyms, the length filter alone"
print(f"The outliers of these runs were made with {words}.")
lexicon = text_outliers.Lexicon.load(mine.spec.synonyms)
about = (
    "What the length filter did to the ID training texts; where all sentences are too long the shortest stays"
)
facts = pd.DataFrame([made["length_filter"]], index=["ID training texts"]).rename_axis("length filter")
sheet.save_table(facts.reset_index(), "text_length_filter", about)
figures.show_table(facts, about, "{:,.0f}", folded=True)

# %% [markdown]
r"""
## Table 11: three printed outliers
Rows 1 and 2 cannot come from the algorithm as described: row 1 keeps inflections that WordNet does not list and rewrites words that have no synonym ("so's" becomes "as was"), row 2 drops words from within sentences. Row 3 can, and ours is the same sentence by sentence; it has one more sentence of at most 20 words than is printed.
"""

# %%
examples = text_tables.table_11(lexicon)
made_with = "WordNet" if lexicon.synonyms else "the length filter alone"
about = f"Table 11: printed outliers, and ours with {made_with}"
sheet.save_table(examples, "table_11", about)
shown = examples.set_index("row")[["synthetic", "ours", "printed sentences in ours"]]
with pd.option_context("display.max_colwidth", None):
    figures.show_table(shown, about, folded=True)
figures.show_table(
    shown[["printed sentences in ours"]], "Table 11: how much of each printed outlier ours has"
)
if not lexicon.synonyms:
    print("No WordNet here, so words stay as they are: no row can be the printed one.")

# %% [markdown]
r"""
## Are the outliers simpler?
Table 9, the complexity of the corpora, is made in `02_1_complexity_bias` from whole corpora. Here are only the texts that the flow was trained on and the outliers made of them, in bits per byte.
"""

# %%
if data is not None:
    texts = list(data.train.corpus.texts)
    both = text_tables.outliers_and_originals(first.id, texts, made["complexity"]["text"])
    about = "C(X) in bits per byte of the ID training texts and of the outliers made of them, beside Table 9"
    sheet.save_table(both, "table_9_text", about)
    names = ["ID training texts", "outliers made of them"]
    figures.show_table(both[["paper", "ours"]].set_axis(names), about, "{:.2f}")
    figures.read(*text_readings.simpler(both))
else:
    sheet.keep("tables/table_9_text.csv", "C(X) of ID training texts and outliers", "The texts are not here.")

# %% [markdown]
r"""
## Table 6
> We utilize the likelihood-based scoring method and the performance is assessed using two key metrics: AUROC and AUPR.

Features are standardised on ID training texts; the flow has fully connected subnets. The paper scores by eq. (4); $-\log p_{\mathcal X}$ is the full density. The paper's encoder is ALBERT base v2; a row of another encoder is no reproduction, and its label says so. Above the flows stands what needs neither encoder nor flow, the length of the text; it is measured on every second ID test text, as in the section on length below.

One row is ours and no part of the paper: *two texts by turns*. Its outliers take the sentences of two ID texts by turns, as CutMix does with images, so they are long. Its threshold, epochs and width differ too; its label names them. It was made against the miss on Movie Reviews, so that column is no fair test of it.
"""

# %%
ours = text_tables.over_seeds(finished, first)
ways = text_tables.both_ways(finished, first)
sheet.save_table(ours, "table_6_long", "Every metric of every row: percent, 95 % interval, number of seeds")
about = "Table 6, AUROC in percent with 95 % interval, beside length alone"
figures.show_table(text_tables.deciding(ours, ways), f"{about}; {sheet.label}", best="highest")
figures.read(*text_readings.table_6(ours, ways))

# %% [markdown]
r"""
Behind it: all rows by every metric, the poolings that the paper may have meant (A28), and the printed cells beside ours. Which class AUPR counts as positive is not said, so both stand here; beside the paper it is OOD. A verdict is given for ALBERT alone.
"""

# %%
METRICS = {"auroc": "AUROC", "aupr_out": "AUPR, OOD positive", "aupr_in": "AUPR, ID positive"}
named = ours.replace({"ood": corpora.LABELS})
for metric, name in METRICS.items():
    table = tables.wide(named[named.metric == metric], ["encoder", "score", "training"], ["ood"])
    about = f"Table 6, {name} in percent with 95 % interval; {sheet.label}"
    figures.show_table(table, about, best="highest", folded=True)
    sheet.save_table(table, f"table_6_{metric}", about, index=True)

# %%
beside = text_tables.beside_paper(ours)
sheet.save_table(beside, "table_6", "Table 6 of the paper beside our runs, by encoder")
for encoder, part in beside.groupby("encoder", sort=False):
    shown = tables.beside(part.replace({"ood": corpora.LABELS}), ["metric", "training"], "ood")
    if (part.verdict == "not run").all():
        print(f"{encoder}: none of the paper's corpora was run")
    else:
        figures.show_table(shown, f"Table 6 beside ours by eq. (4): {encoder}", folded=True)

# %%
gain = text_tables.gains(ours).rename(corpora.LABELS)
about = "AUROC minus that without outliers on the mean of the tokens, percent points"
figures.show_table(gain, about, "{:+.1f}", folded=True)

# %% [markdown]
r"""
## Texts longer than ID: looking both ways
A score that only looks down calls a text OOD when it is less likely than ID, and misses one that is likelier. Long texts are such: a mean over many tokens lies near the centre of the features. Movie Reviews are the case in point. They are reviews of films, as the ID texts are, but longer. They also come in lower case with blanks before punctuation; MiniLM's tokenizer removes that difference from every text.

ID texts alone show it, so no OOD text is needed to choose: among them too the longer is the likelier, as the reading says. Hence two more scores, fitted on every second ID test text (training texts are over-fitted, hence likelier) and measured on the others. `typicality` is $\lvert\log p_{\mathcal X} + H\rvert$, $H$ the mean of $-\log p_{\mathcal X}$ over ID (Nalisnick et al. 2019). `given length` is $-\log p_{\mathcal X}$ minus a straight line, fitted in the logarithm of the number of tokens that the encoder sees. It corrects for length as eq. (5) corrects for complexity. They are no part of the paper's method.

Three more ways were tried on one seed and not kept, so no table has them: the first 256 tokens of every text, windows of 256 tokens with averaged scores, and feature vectors scaled to length one.
"""

# %%
about = "AUROC in percent of scores that look both ways, on half of the ID test texts; 95 % over seeds"
shown = ways.replace({"ood": corpora.LABELS})
table = tables.wide(shown, ["encoder", "training", "score"], ["ood"])
sheet.save_table(table, "text_both_ways", about, index=True)
encoder = encoder_of[first.run_id]
figures.show_table(table.loc[encoder].loc[["without outliers"]], f"{encoder}: {about}", best="highest")
figures.show_table(table, f"All rows: {about}", folded=True)

# %%
change = text_tables.changes(ways, encoder)
inside = text_tables.rank_correlations({"": finished[0]}, [first.id]).set_index("quantity")
figures.read(*text_readings.ways(change, inside.loc["n_tokens", "inside the corpora"]))

# %% [markdown]
r"""
## Over-fitting: 1,000 texts and a wide flow
The paper does not say for how many epochs it trained (A29). The same training in steps, with the likelihood of ID texts that it never saw:
"""

# %%
about = f"Likelihood of ID texts over training without outliers, nats; {encoder}"
if data is not None:
    shares = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1)
    curve = first.likelihood_curve(data, sorted({max(1, round(P.curve_epochs * s)) for s in shares}))
    sheet.save_table(curve, "text_overfit", about)
    fig, ax = figures.figure("single")
    for split, style in (("train", "o--"), ("test", "o-")):
        ax.plot(curve["epochs"], curve[split], style, ms=4, label=f"ID {split}", color=figures.BLUE)
    ax.set(xlabel="epochs", ylabel=r"mean $\log p_{\mathcal{X}}$ [nats]", xscale="log")
    ax.legend()
    sheet.save_figure(fig, "text_overfit", about)
    figures.read(*text_readings.over_fitting(curve, first.epochs))
else:
    sheet.keep("figures/text_overfit.png", about, "The encoder is not here.")

# %% [markdown]
r"""
## Length, complexity and likelihood
Each point is a test text. Its complexity here is that of this one text, compressed alone. A short text compresses badly when it stands alone, so this complexity falls with length. That is why the upper panels show the number of tokens itself. The right column is the row *two texts by turns*: its width, epochs and threshold differ as well, so the difference is not that of the outliers alone.
"""

# %%
changed = {r.spec.run_id for r in finished if row_labels[r.spec.run_id].startswith("with outliers (")}
ours_here = [r for r in finished if r.spec.encoder == first.encoder and r.spec.pooling == first.pooling]
variant = next((r for r in ours_here if r.spec.run_id in changed), mine)
pair = {"without outliers": finished[0], row_labels[variant.spec.run_id]: variant}
axes_of = {"n_tokens": "length [tokens]", "bits_per_byte": "complexity alone [bits/byte]"}
palette = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.PURPLE, figures.RED)
colours = dict(zip([first.id, *first.ood], palette))


# %%
def draw_texts(ax, run, quantity):
    sets = {n: [run.arrays[n][q][: P.n_figure] for q in (quantity, "log_px")] for n in colours}
    figures.draw_likelihoods(ax, sets, labels=corpora.LABELS, colours=colours)
    ax.set(xlabel=axes_of[quantity], ylabel=r"$\log p_{\mathcal{X}}$ [nats]", xscale="log")
    if quantity == "bits_per_byte":
        ax.set_xticks([3, 5, 10, 20], ["3", "5", "10", "20"])
        ax.minorticks_off()
    figures.legend_below(ax)


# %%
fig, axes = figures.figure("tall", rows=2, columns=2, height=7.0)
for column, (title, run) in zip(axes.T, pair.items()):
    for ax, quantity in zip(column, axes_of):
        draw_texts(ax, run, quantity)
    column[0].set_title(title.replace(" (", "\n(").replace("threshold", "\nthreshold"), fontsize=8)
about = (
    "Length and complexity of each text against its log-likelihood; what lies far below ID stands at the edge"
)
sheet.save_figure(fig, "text_complexity_likelihood", about)

# %%
bias = text_tables.rank_correlations(pair, list(colours))
about = "Rank correlation of length and complexity with the log-likelihood"
sheet.save_table(bias, "text_bias", about)
figures.show_table(bias.replace({"quantity": axes_of}).set_index(["training", "quantity"]), about, "{:+.2f}")
figures.read(*text_readings.correlations(bias))

# %% [markdown]
r"""
## Your own text
Its outlier, its score and the threshold that keeps the share `keep` of ID test texts. Where nobody can type, the cell shows one example.
"""

# %%
threshold = scores.Threshold.fit_quantile(variant.scores(first.id)["px"], P.keep)


def judge(text):
    texts = [text, text_outliers.simplify(text, lexicon, max_words=variant.spec.max_words)]
    s = scores.score_nll_px(flow.densities(trained, fitted.encode(texts))[1])
    verdict = ["OOD" if is_ood else "ID" for is_ood in threshold.decide(s)]
    told = {"text": texts, "score": s, "threshold": threshold.gamma, "verdict": verdict}
    frame = pd.DataFrame(told, index=["as given", "its outlier"])
    about = f"Score -log p_X in nats, higher is more OOD; {encoder}"
    figures.show_table(frame, about, {"score": "{:.1f}", "threshold": "{:.1f}"})


# %%
try:
    fitted, trained = variant.spec.data(), variant.flow()
except (encoders.MissingWeights, MissingData, runs.RunError) as error:
    print(f"No text of yours can be scored here: {str(error).splitlines()[0]}")
else:
    widgets.ask(judge, corpora.load(first.id, "test").texts[0][:600])

# %%
resources = made["resources"] if "/" not in made["resources"] else "WordNet, punkt_tab, tagger"
sheet.finish(runs=[r.spec.run_id for r in finished], resources=resources)

# %% [markdown]
r"""
## Summary
- The method carries over without a change in training: features instead of pixels, the same loop, objective and scores.
- On features the hidden threshold of eq. (3) decides: log p of standardised features lies hundreds of nats below 0, where the literal penalty has no gradient. The row *two texts by turns* moves it to where ID data lie.
- Mean pooling has a bias of its own: the longer a text, the nearer its vector to the mean, and the likelier. Outliers shorter than ID texts cannot correct that. Outliers joined from two texts push the other way, and a score that looks both ways finds some of the rest. Training acts on $\log p_{\mathcal X}$, so its effect shows in the rows of $-\log p$, not in those of eq. (4).
- Not reproduced here: rows of the paper's own encoder that say "not run" (ALBERT's weights come from a hub: `make reproduce PROFILE=paper`), and rows 1 and 2 of Table 11. Next: `04_your_own_flow`.
"""
