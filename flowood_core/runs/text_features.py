"""From corpora to what a text run trains and tests on: standardised features of texts and of their outliers.

Outliers do not depend on the flow, so they are made and encoded once; in training a replaced sample draws one
of them, or a mixture of two ID samples where a run asks for more kinds than the paper's.
"""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core.complexity import text_complexity
from flowood_core.datasets import MissingData, corpora
from flowood_core.features import encoders
from flowood_core.outliers import text
from flowood_core.runs.spec import Spec

__all__ = ["KINDS", "FeatureSet", "TextData", "text_data"]

KINDS = {
    "text": "the paper's: sentences of at most 20 words, simpler synonyms (section 2.2.2)",
    "sentence": "a single sentence of the paper's outlier: as little as a text can say",
    "joined": "sentences of two texts by turns: CutMix for texts",
    "mixup": "a random convex combination of two ID feature vectors, as MixUp of images",
    "cutmix": "some features of one ID vector, the rest of another, as CutMix of images",
}
FROM_TEXTS = ("text", "sentence", "joined")  # the others are made of features, anew in every step
SEED_SENTENCE, SEED_JOINED = 11, 12


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of one split of a corpus: like `datasets.ImageSet`, with x float32 (n, d)."""

    corpus: corpora.Corpus
    x: Tensor
    n_tokens: np.ndarray
    n_truncated: int

    def facts(self) -> dict[str, object]:
        return self.corpus.facts() | {"shape": list(self.x.shape[1:]), "truncated": self.n_truncated}

    def complexity(self) -> float:
        """C(X) by gzip, in bits per byte: all texts as one."""
        return text_complexity(list(self.corpus.texts))

    def bits_per_byte(self) -> np.ndarray:
        """Each text compressed alone: dearer than within its corpus, and dearest for short ones (A6)."""
        encoded = [one.encode() for one in self.corpus.texts]
        return np.array([8 * len(gzip.compress(b, 9, mtime=0)) / len(b) for b in encoded])


@dataclasses.dataclass(frozen=True)
class TextData:
    """What a text run needs; everything is on the scale of the ID training features.

    Attributes:
        encode: texts -> features on that scale, for texts that come later.
        pools: per kind made from texts, features of the outliers of the ID training texts, in their order.
    """

    train: FeatureSet
    test: dict[str, FeatureSet]
    absent: list[str]
    pools: dict[str, Tensor]
    encode: Callable[[Sequence[str]], Tensor]
    encoder_facts: dict[str, Any]
    outlier_facts: dict[str, Any]

    def outliers(self, kinds: Sequence[str]) -> Callable[..., Tensor]:
        """(x, partner, *, rng) -> x_out for `train.fit`: each sample draws one of the kinds, then an outlier of it."""

        def method(x: Tensor, partner: Tensor, *, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(kinds), (len(x),), generator=rng, device=x.device)
            made = torch.stack([self._of_kind(kind, x, partner, rng) for kind in kinds])
            return made[which, torch.arange(len(x), device=x.device)]

        return method

    def _of_kind(self, kind: str, x: Tensor, partner: Tensor, rng: torch.Generator) -> Tensor:
        if kind in self.pools:
            pool = self.pools[kind].to(x.device)
            return pool[torch.randint(len(pool), (len(x),), generator=rng, device=x.device)]
        if kind == "mixup":
            share = 0.25 + 0.5 * torch.rand((len(x), 1), generator=rng, device=x.device)
            return share * x + (1 - share) * partner
        return torch.where(torch.rand(x.shape, generator=rng, device=x.device) < 0.5, x, partner)

    def seen(self) -> dict[str, int]:
        """Per test set, how many of its texts are letter for letter among those trained on."""
        trained = set(self.train.corpus.texts)
        return {name: sum(one in trained for one in s.corpus.texts) for name, s in self.test.items()}

    def facts(self) -> list[dict[str, object]]:
        return [self.train.facts(), *[s.facts() for s in self.test.values()]]

    def complexity(self) -> dict[str, float]:
        """C(X) of every test set (Table 9)."""
        return {name: s.complexity() for name, s in self.test.items()}


def text_data(spec: Spec) -> TextData:
    """Load, simplify, encode and standardise; what was done before is read from the caches.

    Samples are seeded draws, the same for every seed of a run, so that features are computed once.

    Raises:
        ValueError: an unknown kind of outlier.
        datasets.MissingData: the ID corpus is not here. Another that is not is named in `TextData.absent`.
    """
    if unknown := [kind for kind in spec.kinds if kind not in KINDS]:
        raise ValueError(f"expected kinds of outliers out of {', '.join(KINDS)}, got {', '.join(unknown)}")
    corpus = corpora.load(spec.id, "train").drawn(spec.n_train, 0)
    tests, absent = _tests(spec)
    lexicon = text.Lexicon.load(spec.synonyms)
    made = _outlier_texts(list(corpus.texts), lexicon, spec.max_words, spec.kinds)
    encoder = encoders.named(spec.encoder, pooling=spec.pooling, max_length=spec.max_length, seed=spec.seed)
    encoder = encoder.fit(corpus.texts)
    raw = encoder.encode(corpus.texts, label=f"{spec.id} train")
    scale = encoders.Standard.fit(raw.x, components=spec.components)

    def on_scale(found: encoders.Features) -> Tensor:
        return torch.from_numpy(scale(found.x))

    def feature_set(of: corpora.Corpus, found: encoders.Features) -> FeatureSet:
        return FeatureSet(of, on_scale(found), found.n_tokens, found.n_truncated)

    return TextData(
        feature_set(corpus, raw),
        {name: feature_set(of, encoder.encode(of.texts, label=name)) for name, of in tests.items()},
        absent,
        {kind: on_scale(encoder.encode(texts, label=f"{kind} outliers")) for kind, texts in made.items()},
        lambda texts: on_scale(encoder.encode(texts)),
        encoder.facts() | {"components": spec.components},
        {
            "kinds": list(spec.kinds),
            "resources": lexicon.facts(),
            "max_words": spec.max_words,
            "length_filter": text.length_facts(corpus.texts, lexicon, max_words=spec.max_words),
            "complexity": {kind: text_complexity(texts) for kind, texts in made.items()},
            "sha256": hashlib.sha256(json.dumps(made).encode()).hexdigest(),
        },
    )


def _tests(spec: Spec) -> tuple[dict[str, corpora.Corpus], list[str]]:
    tests, absent = {spec.id: corpora.load(spec.id, "test").drawn(spec.n_test, 0)}, []
    for name in spec.tested:
        try:
            tests[name] = corpora.load(name, "test").drawn(spec.n_test, 0)
        except MissingData:
            absent.append(name)
    return tests, absent


def _outlier_texts(
    texts: list[str], lexicon: text.Lexicon, max_words: int, kinds: Sequence[str]
) -> dict[str, list[str]]:
    # "text" is always made: it is what fits scores and thresholds
    made = {"text": text.simplify_all(texts, lexicon, max_words=max_words)}
    if "sentence" in kinds:
        made["sentence"] = [_one_sentence(one, lexicon, i) for i, one in enumerate(made["text"])]
    if "joined" in kinds:
        partners = np.random.default_rng(SEED_JOINED).permutation(len(texts))
        made["joined"] = [_joined(one, texts[k], lexicon) for one, k in zip(texts, partners, strict=True)]
    return made


def _one_sentence(whole: str, lexicon: text.Lexicon, i: int) -> str:
    found = text.sentences(whole, lexicon) or [whole]
    return found[int(np.random.default_rng([SEED_SENTENCE, i]).integers(len(found)))]


def _joined(one: str, other: str, lexicon: text.Lexicon) -> str:
    first, second = (text.sentences(whole, lexicon) or [whole] for whole in (one, other))
    turns = [s for k in range(max(len(first), len(second))) for s in (*first[k : k + 1], *second[k : k + 1])]
    return " ".join(turns)
