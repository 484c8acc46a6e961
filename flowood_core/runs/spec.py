"""What every run has, whatever it trains on: identity, sizes, blocks, training and eq. (3)."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pydantic
from torch import Tensor, nn

from flowood_core import train
from flowood_core.system import paths, profiles

__all__ = ["FORMAT", "Data", "Outliers", "Spec", "Training"]

FORMAT = 1

Outliers = Callable[..., Tensor]
"""(x, partner, *, rng) -> x_out, all shaped alike; see `flowood_core.outliers`."""


class Data(Protocol):
    """What a run trains and tests on. `train` and each of `test` have x, `facts()` and a length."""

    train: Any
    test: Mapping[str, Any]
    absent: list[str]

    def seen(self) -> dict[str, int]:
        """Per test set, how many of its samples are among those trained on, byte for byte."""

    def facts(self) -> list[dict[str, object]]:
        """Counts, sources and hashes of every set."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What `train.fit_together` gets.

    Attributes:
        flow: what is trained: `trained` itself, or what looks its features up.
        trained: the flow whose weights are the result.
        facts: what the run records of it.
    """

    flow: nn.Module
    trained: nn.Module
    x: Tensor
    outliers: Outliers | None
    settings: train.Settings
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Spec(pydantic.BaseModel):
    """One row of the grid. Defaults are the paper's (section 3.1); `kinds` has the classes with their own fields.

    Anything that changes a result is a field; the id of the run is made of them all. A misspelt field is refused.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    levels: ClassVar[int] = 1  # 256 where x are bytes: the unit of bits per dimension

    profile: str = "quick"
    id: str
    method: str
    seed: pydantic.NonNegativeInt = 0
    ood: tuple[str, ...] = ()
    n_train: pydantic.PositiveInt | None = None
    n_test: pydantic.PositiveInt | None = None

    blocks: int = 8
    hidden: int = 64
    data_init: bool = False

    epochs: pydantic.PositiveFloat = 500
    batch_size: pydantic.PositiveInt = 128
    lr: pydantic.PositiveFloat = 1e-3
    weight_decay: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float = 1.0
    bf16: bool = False
    micro_batch: pydantic.PositiveInt | None = None

    outlier_prob: float = pydantic.Field(0.5, ge=0, le=1)
    tau: float = 0.0
    temperature: float = pydantic.Field(1.0, ge=0)

    @property
    def run_id(self) -> str:
        """Readable part and a hash of the fields: the same spec has the same id on any machine.

        Fields at their default stay out, so that a field added later leaves the ids of finished runs alone;
        a default that is changed later is noticed when a run is read, by its whole spec.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
        return f"{self.id}-{self.method}-s{self.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        return paths.profile_dir(self.profile) / "runs" / self.run_id

    @property
    def later(self) -> tuple[str, ...]:
        """Test sets that its profile names under ``scored_later:``, beyond `ood`.

        They came to hand when runs were made. A field would change the ids of those runs, so they are none: nothing
        trains on them, and a finished run is scored on them from its weights.
        """
        if self.profile not in profiles.profiles():
            return ()
        named = profiles.preset(self.profile).get("scored_later", {}).get(self.id, [])
        return tuple(name for name in named if name not in (self.id, *self.ood))

    @property
    def tested(self) -> tuple[str, ...]:
        """Every test set but the ID set's own."""
        return (*self.ood, *self.later)

    def unscored(self, metrics: Mapping[str, Any]) -> tuple[str, ...]:
        """Test sets that a finished run has no scores of: not here when it was made, or named since."""
        named = dict.fromkeys((*metrics.get("absent", ()), *self.later))
        return tuple(name for name in named if name not in metrics.get("ood", {}))

    def settings(self, n: int) -> train.Settings:
        """How it trains on n samples, in steps."""
        shared = {f.name for f in dataclasses.fields(train.Settings)} & set(Spec.model_fields)
        steps = train.Settings.epochs_to_steps(self.epochs, n, self.batch_size)
        return train.Settings(steps=steps, **{name: getattr(self, name) for name in shared})

    # --- what a kind of run says of itself

    def data(self) -> Data:
        """What it trains and tests on. A test set that is not here is named in `absent`.

        Raises:
            datasets.MissingData: the ID set, or real outliers, are not here.
        """
        raise NotImplementedError

    def test_set(self, name: str) -> Any:
        """One test set as `data` holds it, for a set that arrives when the run is done."""
        raise NotImplementedError

    def known(self, of: Any) -> dict[str, np.ndarray]:
        """What is known of the samples of a set without a flow, one value each, kept beside their scores."""
        return {}

    def flow(self, shape: tuple[int, ...]) -> nn.Module:
        """The untrained flow for samples of that shape, seeded."""
        raise NotImplementedError

    def outliers(self, data: Data, device: Any) -> Outliers | None:
        """Its outliers; None is maximum likelihood."""
        raise NotImplementedError

    def ready(
        self, flow: nn.Module, x: Tensor, outliers: Outliers | None, settings: train.Settings
    ) -> Training:
        """The last step before training; pure in the spec, so that a killed run continues."""
        raise NotImplementedError

    def measure(self, flow: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
        """log_pz and log_px in nats, and what else the kind measures, one value a sample."""
        raise NotImplementedError

    def fitting(self, data: Data) -> dict[str, Tensor]:
        """Training samples ("train") and outliers of them ("synthetic"), on which scores and thresholds are fitted."""
        raise NotImplementedError

    def facts(self, data: Data, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """What only this kind records in metrics.json."""
        raise NotImplementedError

    def together_key(self) -> tuple[Any, ...] | None:
        """Runs of the same key share samples and flow and may train side by side; None trains alone."""
        return None
