"""Runs on texts, section 3.3: a flow on the feature vectors of a frozen encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
from torch import Tensor

from flowood_core import train
from flowood_core.datasets import MissingData
from flowood_core.flow import Flow, densities, vector_flow
from flowood_core.runs import text_features
from flowood_core.runs.spec import Outliers, Spec, Training
from flowood_core.runs.text_features import FeatureSet, TextData

__all__ = ["Texts"]


class Texts(Spec):
    """A flow on features of texts.

    Args:
        encoder, pooling, max_length: see `encoders.named`. components: principal ones kept, whitened; None: all.
        layers: of the subnets. permute_soft: as on pixels.
        max_words, synonyms: of the outliers (section 2.2.2). kinds: of outliers, see `text_features.KINDS`.
    """

    method: Literal["mle", "text"]
    encoder: str
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    max_length: pydantic.PositiveInt = 512
    components: pydantic.PositiveInt | None = None
    layers: pydantic.PositiveInt = 3
    permute_soft: bool = False
    max_words: pydantic.PositiveInt = 20
    synonyms: Literal["wordnet", "none", "auto"] = "wordnet"
    kinds: tuple[str, ...] = ("text",)

    def data(self) -> TextData:
        """Read from the caches when it can; also encodes texts that come later."""
        return text_features.text_data(self)

    def test_set(self, name: str) -> FeatureSet:
        found = text_features.text_data(self.model_copy(update={"ood": (name,)}))
        if name not in found.test:
            raise MissingData(f"expected the texts of {name!r}, which are not here; see data/README.md")
        return found.test[name]

    def known(self, of: FeatureSet) -> dict[str, np.ndarray]:
        """Length in tokens, and bits per byte of each text compressed alone."""
        return {"n_tokens": of.n_tokens, "bits_per_byte": of.bits_per_byte()}

    def flow(self, shape: tuple[int, ...]) -> Flow:
        (d,) = shape
        return vector_flow(
            d,
            blocks=self.blocks,
            hidden=self.hidden,
            layers=self.layers,
            permute_soft=self.permute_soft,
            seed=self.seed,
        )

    def outliers(self, data: TextData, device: Any) -> Outliers | None:
        return None if self.method == "mle" else data.outliers(self.kinds)

    def ready(self, flow: Flow, x: Tensor, outliers: Outliers | None, settings: train.Settings) -> Training:
        if self.data_init:
            flow.initialise(x[:512])
        return Training(flow, flow, x, outliers, settings)

    def measure(self, flow: Flow, x: Tensor) -> dict[str, np.ndarray]:
        log_pz, log_px = densities(flow, x)
        return {"log_pz": log_pz, "log_px": log_px}

    def fitting(self, data: TextData) -> dict[str, Tensor]:
        return {"train": data.train.x, "synthetic": data.pools["text"]}

    def facts(self, data: TextData, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        return {
            "text_complexity": data.complexity(),
            "encoder": data.encoder_facts,
            "outliers": data.outlier_facts,
            "test_texts_seen_in_training": data.seen(),
        }

    def likelihood_curve(self, data: TextData, epochs: Sequence[int]) -> pd.DataFrame:
        """Over-fitting seen: mean log p_X [nats] of ID texts after so many epochs of maximum likelihood (A29).

        Args:
            data: of this spec.
            epochs: increasing; one training that stops at each, at the learning rate it begins with.
        Returns:
            Columns epochs, train (texts trained on), test (texts unseen).
        """
        x, state, rows = data.train.x, {}, []
        steady = self.model_copy(update={"schedule": "constant"})
        flow = self.ready(self.flow(tuple(x.shape[1:])), x, None, steady.settings(len(x))).trained
        for n in epochs:
            so_far = steady.model_copy(update={"epochs": float(n)}).settings(len(x))
            train.fit(
                flow, x, settings=so_far, state=state or None, on_checkpoint=state.update, label=f"{n} epochs"
            )
            rows.append([n, *(densities(flow, s.x)[1].mean() for s in (data.train, data.test[self.id]))])
        return pd.DataFrame(rows, columns=["epochs", "train", "test"])
