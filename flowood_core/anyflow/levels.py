"""Levels beside the flow on pixels: a flow on features, which see content, and one on statistics of the surface.

`FeatureLevel` is trained as everything else here: eq. (2) on ID, eq. (3) on outliers that are made as images and sent
through the frozen network, or through `features.statistics`. `join.Join` makes one score of the levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from flowood_core import train
from flowood_core.anyflow import correction, ranges
from flowood_core.anyflow.join import LEAST_SCORES
from flowood_core.features import statistics
from flowood_core.features.distances import Knn
from flowood_core.features.encoders import Standard
from flowood_core.features.images import ImageEncoder, unit
from flowood_core.flow import Flow, densities, vector_flow
from flowood_core.outliers import graded
from flowood_core.outliers.vectors import Pool

__all__ = ["LEVELS", "FeatureLevel", "fit_each", "levels_for", "names_of"]

PIXELS, STATISTICS, FEATURES = NAMES = ("pixels", statistics.NAME, "features")
SHORT = {"both": (PIXELS, FEATURES), "all": NAMES}
LEVELS = (*NAMES, "pixels+statistics", *SHORT)
"""What a detector's `level` may be, with one example of names joined by "+"; see `names_of`."""

FORMAT, WITHOUT_NEIGHBOURS = "flowood feature level 3", "flowood feature level 2"
STANDARD, FLOW, BANK = "standard.", "flow.", "neighbours.bank"
BUILDS = ("components", "blocks", "hidden", "neighbours", "seed")
DECIDES = ("d", "size", "unit", "precision", "sha256_of_weights", "shape", "version")
"""What two encoders have to agree in to give the same features; where the weights lie is nothing to them."""

LEAST = 25
IMAGES_PER_COMPONENT = 4
MOST_KEPT = 12_000  # ID features that a level keeps as neighbours: 31 MB of EfficientNet-Lite's


class FeatureLevel:
    """OOD score of images by unit features of a frozen network: their density, whitened on ID, and their neighbours.

    The density is a flow in the directions in which ID varies most, times a normal distribution in all others:
    what leaves the span of a few ID images is surprising, and a flow in that span alone cannot see it. This density is
    of one piece: it calls likely what lies between two kinds of ID images, where no ID image is near. So the distance
    to the k-th nearest ID image is added, in the density's unit:

        score(x) = -log p(x) + w d_k(x),   w = sd(-log p) / sd(d_k) over the ID images,

    d_k being `distances.Knn`'s, each ID image without itself. Both parts count alike, and no OOD image has a say.

    Args:
        encoder, size: see `features.images.ImageEncoder`; an encoder of your own with `encode`, `facts` and `d` may be
            given instead of a name.
        components: principal components of the ID features that the flow has; at most a quarter of the ID images,
            since a flow on more of them knows its training images by heart.
        blocks, hidden: of the flow.
        neighbours: k; 0 leaves the density alone.
        mle_steps: of eq. (2) alone, after which the threshold of eq. (3) is settled, see `correction.choose_tau`.
        steps, outlier_prob: of eq. (2) and (3), and the share of outliers in a batch.
        batch_size, lr: Adam's, to zero along a cosine.
        n_outliers: images made as outliers, each of which has to pass the network once.
        seed: of the flow and of both trainings.
    Raises:
        ValueError: neighbours below 0; an encoder by name as `ImageEncoder`.

    The normal distribution, and with it the shrunk covariance, was chosen with 150 to 4,000 CIFAR-10 images by the
    kinds of the simple battery made of held-out ID images. The other defaults were chosen before it, with
    EfficientNet-Lite0 on 5,400 CIFAR-10 images and 600 held out, by 21 kinds of synthetic images that no training
    sees: 128, 256, 512 components gave a mean AUROC of 63.3, 74.4, 75.9; three times the steps 0.8 more (at 256),
    outliers 0.4 to 1.4; shares of 0.3 and 0.5 and margins of 1 and 3 the same.

    That neighbours are added was chosen last, k = 5 as it was, by CIFAR-10 classes left out of the fit, two at a time
    (`benchmarks/left_out_classes.py`: 4,000 images, EfficientNet-Lite2 at 192 pixels): 80.6 on average, the density
    alone 80.0, neighbours alone 79.2; with 2 pairs of 5 the density alone is better.
    """

    def __init__(
        self,
        encoder: str | Any = "efficientnet_lite0",
        *,
        size: int = 128,
        components: int = 512,
        blocks: int = 4,
        hidden: int = 64,
        neighbours: int = 5,
        mle_steps: int = 300,
        steps: int = 200,
        outlier_prob: float = 0.3,
        batch_size: int = 128,
        lr: float = 1e-3,
        n_outliers: int = 1500,
        seed: int = 0,
    ):
        self.encoder = ImageEncoder(encoder, size=size) if isinstance(encoder, str) else encoder
        if neighbours < 0:
            raise ValueError(f"expected 0 neighbours or more, got {neighbours}; 0 is the density alone")
        self.components, self.blocks, self.hidden, self.seed = components, blocks, hidden, seed
        self.neighbours, self.knn, self.weight = neighbours, None, 0.0
        self.mle_steps, self.steps, self.outlier_prob = mle_steps, steps, outlier_prob
        self.batch_size, self.lr, self.n_outliers = batch_size, lr, n_outliers

    # --- fitting -----------------------------------------------------------------------------------------

    @classmethod
    def on_statistics(cls, shape: tuple[int, int, int], **how: Any) -> Self:
        """The level on `features.statistics.ImageStatistics` of images (c, h, w): no network, no weights, seconds.

        It knows nothing of content, so it has no neighbours.

        Args:
            how: parameters of the class, instead of those here.
        Raises:
            ValueError: images of another kind, see `ImageStatistics`.

        300 steps of each training, half of a batch outliers, and 6,000 outliers: chosen on the first 12,000 CIFAR-10
        training images, 1,000 others, and the simple battery made of 1,000 more (`benchmarks/statistics_level.py`).
        1,000 steps gained a point on weak contrast, and with 600 images lost 23 on grey, since so few are learnt by
        heart; 1,500 outliers instead of 6,000 cost 4 on grey then. With 600 images grey is at 80, with 12,000 at 98.
        """
        chosen = {"neighbours": 0, "mle_steps": 300, "steps": 300, "outlier_prob": 0.5, "n_outliers": 6000}
        return cls(statistics.ImageStatistics(shape), **chosen | how)

    def fit(
        self,
        x: Tensor,
        outliers: Callable[..., Tensor] | Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Self:
        """Encode, whiten, train.

        Args:
            x: ID images, uint8 (n, c, h, w).
            outliers: images (x, partner, *, rng) -> x_out, as `flowood_core.outliers` has them, or images made
                beforehand; None is eq. (2) alone.
            rng: of the outliers; None is seeded by `seed`.
        Raises:
            ValueError: fewer than 25 images.
        """
        if len(x) < LEAST:
            raise ValueError(f"expected at least {LEAST} ID images, got {len(x)}")
        rows = self.encoder.encode(x, label="ID images")
        pool = None
        if outliers is not None:
            made = outliers if isinstance(outliers, Tensor) else self.outliers_of(x, outliers, rng)
            pool = self.encoder.encode(made, label="outliers")
        return self.fit_features(rows, pool)

    def outliers_of(
        self, x: Tensor, make: Callable[..., Tensor], rng: torch.Generator | None = None
    ) -> Tensor:
        """`n_outliers` outliers of images drawn from x, each with another image as its partner; see `fit`."""
        rng = rng or torch.Generator(x.device).manual_seed(self.seed)
        index = torch.randperm(len(x), generator=rng, device=x.device)[: self.n_outliers]
        shift = torch.randint(1, len(x), (len(index),), generator=rng, device=x.device)
        return make(x[index], x[(index + shift) % len(x)], rng=rng)

    def fit_features(self, x: np.ndarray, outliers: np.ndarray | None = None) -> Self:
        """`fit` on features that are computed already: float32 (n, d) of ID images and of outliers.

        Raises:
            ValueError: no more ID features than neighbours.
        """
        if self.neighbours >= len(x):
            raise ValueError(
                f"expected more ID features than neighbours, got {len(x)} and {self.neighbours}; collect more "
                "images or lower neighbours"
            )
        self.n_flow = min(self.components, max(2, len(x) // IMAGES_PER_COMPONENT), x.shape[1])
        self.standard = _rounded(Standard.shrunk(x))
        rows = self._whitened(x)[:, : self.n_flow]
        self.flow = self._built(self.n_flow).initialise(rows[:512])
        name = STATISTICS if isinstance(self.encoder, statistics.ImageStatistics) else FEATURES
        train.fit(self.flow, rows, settings=self._settings(self.mle_steps), label=f"{name}: likelihood")
        if outliers is not None and self.steps:
            tau = correction.choose_tau(self.flow, rows).value
            settings = dataclasses.replace(
                self._settings(self.steps), tau=tau, outlier_prob=self.outlier_prob, seed=self.seed + 1
            )
            pool = Pool(self._whitened(outliers)[:, : self.n_flow])
            train.fit(self.flow, rows, pool, settings=settings, label=f"{name}: correction")
        if self.neighbours:
            kept = np.random.default_rng(self.seed).permutation(len(x))[:MOST_KEPT]
            # half precision is what a file holds: the level that is loaded scores to the same bit
            self.knn = Knn(unit(x[np.sort(kept)]).astype(np.float16).astype(np.float32), self.neighbours)
            own = dataclasses.replace(self.knn, k=self.neighbours + 1).score(self.knn.bank)
            self.weight = float(self.density_score(x).std() / own.std()) if own.std() else 0.0
        return self

    def _settings(self, steps: int) -> train.Settings:
        return train.Settings(
            steps=steps, batch_size=self.batch_size, lr=self.lr, schedule="cosine", seed=self.seed
        )

    def _built(self, d: int) -> Flow:
        return vector_flow(d, blocks=self.blocks, hidden=self.hidden, seed=self.seed)

    # --- scores ------------------------------------------------------------------------------------------

    def score(self, x: Tensor) -> np.ndarray:
        """-log p of the whitened features, and the neighbours in its unit; float64 (n,), higher = more OOD.

        Args:
            x: as in `fit`.
        """
        return self.score_features(self.encoder.encode(x))

    def score_features(self, x: np.ndarray) -> np.ndarray:
        """`score` of features that are computed already, float32 (n, d)."""
        found = self.density_score(x)
        return found if self.knn is None else found + self.weight * self.knn.score(x)

    def density_score(self, x: np.ndarray) -> np.ndarray:
        """-log p of the whitened features in nats, float64 (n,): `score_features` without neighbours."""
        if not len(x):
            return np.empty(0)
        rows = self._whitened(x)
        rest = rows[:, self.n_flow :].double()
        normal = 0.5 * (rest.square() + math.log(2 * math.pi)).sum(1).numpy()
        return normal - densities(self.flow, rows[:, : self.n_flow].contiguous())[1]

    def _whitened(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(self.standard(x))

    # --- files -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `from_state` needs: facts for a JSON file, and tensors for a file of tensors. No pickle, and not the
        network, which is named by its facts and the hash of its weights."""
        facts = {
            "format": FORMAT,
            "score": "-log p of whitened features and weight times distance of neighbours, nats; higher = more OOD",
            "encoder": self.encoder.facts(),
            "components": self.n_flow,
            "weight": self.weight,
            **{name: getattr(self, name) for name in BUILDS if name != "components"},
        }
        tensors = {
            f"{STANDARD}mean": torch.from_numpy(self.standard.mean),
            f"{STANDARD}directions": torch.from_numpy(self.standard.directions).float().contiguous(),
        }
        if self.knn is not None:
            tensors[BANK] = torch.from_numpy(self.knn.bank.astype(np.float16))
        tensors |= {
            f"{FLOW}{name}": t.detach().cpu().clone().contiguous()
            for name, t in self.flow.state_dict().items()
            if "w_perm" not in name  # permutations, drawn again from the seed
        }
        return facts, tensors

    @classmethod
    def from_state(
        cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, encoder: Any = None
    ) -> Self:
        """The level that `state` described; the density alone, where an earlier version had saved it.

        Args:
            facts, tensors: of `state`.
            encoder: None makes the one that the facts name; else yours, whose facts have to be the same.
        Raises:
            ValueError: another format, tensors that do not fit, or an encoder with other facts: other weights give
                other features.
            MissingWeights, BackboneError: the network's weights are not to be had; says how to get them.
        """
        if facts.get("format") == WITHOUT_NEIGHBOURS:
            facts = {**facts, "neighbours": 0, "weight": 0.0}
        elif facts.get("format") != FORMAT:
            raise ValueError(
                f"expected a level of format {FORMAT!r}, got {facts.get('format')!r}; fit it again"
            )
        made = cls(_encoder_of(facts["encoder"], encoder), **{name: facts[name] for name in BUILDS})
        made.standard = Standard(
            tensors[f"{STANDARD}mean"].numpy(), tensors[f"{STANDARD}directions"].double().numpy()
        )
        made.n_flow, made.weight = facts["components"], facts["weight"]
        if made.neighbours:
            made.knn = Knn(tensors[BANK].float().numpy(), made.neighbours)
        made.flow = made._built(made.n_flow).eval()
        state = {name.removeprefix(FLOW): t for name, t in tensors.items() if name.startswith(FLOW)}
        permutations = {name: t for name, t in made.flow.state_dict().items() if "w_perm" in name}
        try:
            made.flow.load_state_dict(state | permutations)
        except RuntimeError as error:
            raise ValueError(f"expected the tensors of this level, got others: {error}") from error
        return made


def names_of(level: str) -> tuple[str, ...]:
    """The levels of a detector, in the order pixels, statistics, features.

    Args:
        level: one of `NAMES`, several of them joined by "+" in any order, "both" (pixels and features), or "all".
    Raises:
        ValueError: another name, or one twice.

    >>> names_of("features+pixels"), names_of("all")
    (('pixels', 'features'), ('pixels', 'statistics', 'features'))
    """
    if isinstance(level, str) and level in SHORT:
        return SHORT[level]
    parts = level.split("+") if isinstance(level, str) else [level]
    for part in parts:
        if len(parts) == 1:
            ranges.one_of("level", part, LEVELS)
        else:
            ranges.one_of(f"each part of level={level!r}", part, NAMES)
    once = tuple(name for name in NAMES if name in parts)
    if len(once) != len(parts):
        raise ValueError(f"expected each name once in level, got {level!r}; say {'+'.join(once)!r}")
    return once


def levels_for(level: str, encoder: Any, x: Tensor, n_held: int, *, seed: int) -> dict[str, FeatureLevel]:
    """The levels beside the pixels that a detector asks for, by name, not fitted yet; none for "pixels".

    Args:
        level: see `names_of`.
        encoder: of the level on features, see `FeatureLevel`.
        x: the ID samples they will be fitted on. n_held: how many more are held out.
    Raises:
        ValueError: no 8-bit images, images that have no statistics, or too few held out to put several levels on one
            scale.
        MissingWeights, BackboneError: the network is not to be had; says how to get it.
    """
    names = names_of(level)
    if names == (PIXELS,):
        return {}
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(
            f"expected 8-bit images (n, c, h, w) for level={level!r}, got {x.dtype} {tuple(x.shape)}; use "
            "level='pixels', the samples themselves"
        )
    if len(x) < LEAST or (len(names) > 1 and n_held < LEAST_SCORES):
        raise ValueError(
            f"expected at least {LEAST} images to train on and {LEAST_SCORES} held out for level={level!r}, got "
            f"{len(x)} and {n_held}; collect more, or change holdout"
        )
    made = {
        STATISTICS: lambda: FeatureLevel.on_statistics(tuple(x.shape[1:]), seed=seed),
        FEATURES: lambda: FeatureLevel(encoder, seed=seed),
    }
    return {name: made[name]() for name in names if name != PIXELS}


def fit_each(levels: Mapping[str, FeatureLevel], x: Tensor, outliers: Any) -> None:
    """Fit the levels of `levels_for`, if there are any, to ID images x, uint8 (n, c, h, w).

    Args:
        outliers: as `Detector` takes them; None is eq. (2) alone. "auto" is for statistics what they were chosen with,
            `graded.ccm_graded`: outliers of one blur radius say nothing of colour and quantisation.
    """
    if not levels:
        return
    kind = "auto" if outliers is None else outliers
    _, method = correction.chosen_outliers(kind, "softplus", x, None, None)
    is_auto = isinstance(kind, str) and kind == "auto"
    of = {STATISTICS: graded.for_images(x)} if is_auto and STATISTICS in levels else {}
    for name, level in levels.items():
        level.fit(x, None if outliers is None else of.get(name, method))


def _encoder_of(facts: Mapping[str, Any], given: Any) -> Any:
    encoder = _encoder_again(facts) if given is None else given
    wrong = {name: of for name, of in encoder.facts().items() if name in DECIDES and of != facts.get(name)}
    if wrong:
        raise ValueError(
            f"expected the encoder that the level was fitted with, {dict(facts)}, got one with {wrong}; its features "
            "differ"
        )
    return encoder


def _rounded(standard: Standard) -> Standard:
    # what a file holds: the level that is loaded scores to the same bit
    return Standard(standard.mean, standard.directions.astype(np.float32).astype(np.float64))


def _encoder_again(facts: Mapping[str, Any]) -> Any:
    if facts["encoder"] == statistics.NAME:
        return statistics.ImageStatistics(tuple(facts["shape"]))
    return ImageEncoder(facts["encoder"], **{name: facts[name] for name in ("size", "unit", "precision")})
