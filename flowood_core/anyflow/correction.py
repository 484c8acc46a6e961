"""The correction in one call: anyone's flow, own data, synthetic outliers, eq. (2) and (3).

`correct` checks the flow at the door, settles the threshold that eq. (3) hides, says what it chose, and trains by
`train.fit`, like everything else here.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowood_core import train
from flowood_core.anyflow import adapt, inputs, protocols, ranges
from flowood_core.flow import Flow
from flowood_core.outliers import graded, image, simplify, vectors

__all__ = [
    "OBJECTIVES", "OUTLIERS", "Correction", "Tau", "check_outliers", "choose_tau", "chosen_outliers", "correct",
]  # fmt: skip

OUTLIERS: dict[str, Callable[..., Tensor]] = {
    "gaussian": image.gaussian,
    "ccm": image.ccm,
    "ccm_gaussian": image.ccm_gaussian,
    "ccm_simplify": simplify.ccm_simplify,
    "ccm_graded": graded.ccm_graded,
    "rows": vectors.rows,
}
"""Outliers by name; "auto" is ccm_gaussian on images and rows on everything else, "text" needs texts.

ccm_graded is no default: on a small flow and embedded sets it finds smooth crops better, and digits and aliased crops
worse, for 0.3 bits per dimension more (`benchmarks/results/auto_outliers.csv`).
Choose it where the simplest pictures count.
"""

OBJECTIVES = {"softplus": 1.0, "hinge": 0.0, "mle": None}
"""Objective: its temperature in nats; "mle" is eq. (2) alone."""


CHECKED = {
    "dense": "log-determinant checked against autograd's Jacobian",
    "estimated": "log-determinant checked against an estimate from autograd's Jacobian",
    "not visible": "log-determinant not checked, the flow shows log_prob only",
    "on features": "log-determinant not checked, the density is one on features of x",
    "not checked": "log-determinant not checked, autograd could not give the Jacobian",
}
"""What `adapt.check_flow` did at the door, in words."""


@dataclasses.dataclass(frozen=True)
class Tau:
    """The hidden threshold of eq. (3), in nats, and where it came from."""

    value: float
    why: str


@dataclasses.dataclass(frozen=True)
class Correction:
    """What `correct` did, kept as `.correction` of the flow it returns.

    Attributes:
        outliers, objective: by name; "callable" for your own function.
        tau: the threshold and why.
        check: result of `adapt.check_flow`.
        history: of the training, see `train.History`.
        n_id, steps, seconds: what it took.
        how: what was done to the flow that came, in words; "" for nothing.
    """

    outliers: str
    objective: str
    tau: Tau
    check: dict[str, Any]
    history: train.History
    n_id: int
    steps: int
    seconds: float
    how: str = ""

    def __str__(self) -> str:
        last, checked = self.history.rows[-1], CHECKED[self.check["determinant"]]
        checked = "; ".join(filter(None, (checked, self.how)))
        if self.objective == "mle":
            return (
                f"{self.steps} steps of maximum likelihood on {self.n_id} ID samples in {self.seconds:.0f} s: log p is "
                f"{last['log_px_id']:.1f} nats at the end; {checked}"
            )
        return (
            f"{self.steps} steps on {self.n_id} ID samples with outliers {self.outliers!r}, objective "
            f"{self.objective!r}: {self.tau.why}; at the end log p is {last['log_px_id']:.1f} nats on ID and "
            f"{last['log_px_out']:.1f} on outliers; {checked}"
        )


def correct(
    flow: Any,
    id_data: Any,
    outliers: str | Tensor | Callable[..., Tensor] = "auto",
    objective: str = "softplus",
    *,
    tau: float | None = None,
    margin: float = 3.0,
    warmup: int = 0,
    steps: int = 1000,
    batch_size: int = 64,
    lr: float = 1e-3,
    schedule: str = "cosine",
    outlier_prob: float = 0.5,
    seed: int = 0,
    encoder: Any = None,
    limit: int | None = None,
    least: int = inputs.LEAST,
    inplace: bool = False,
    quiet: bool = False,
) -> Flow | adapt.Adapted:
    """Train a flow so that outliers made from its own ID data become unlikely: section 2 of the paper, for any flow.

    Args:
        flow: of FrEIA, zuko, nflows, normflows, or your own; see `adapt.as_flow`. Trained or new. Gradients are
            switched on here, whatever the caller has switched off.
        id_data: in-distribution samples; see `inputs.to_tensor`. uint8 images reach the flow as floats in [0, 1].
        outliers: "auto"; a name of `OUTLIERS`; "text" for texts with an encoder (shorter and simpler texts, section
            2.2.2); a tensor, array or frame of samples like the ID ones, from which outliers are drawn; or your own
            `(x, partner, *, rng) -> x_out`, where partner holds one other ID sample for each.
        objective: "softplus" is eq. (3); "hinge" its limit without a transition; "mle" no outliers at all.
        tau: threshold of eq. (3) in nats; None: 0 for images, which is the paper, else from the ID log-density,
            see `choose_tau`.
        margin: standard deviations between the mean ID log-density and that threshold.
        warmup: steps of maximum likelihood before the threshold is chosen; give some where the flow is new and
            the data no images.
        steps, batch_size, lr, schedule, outlier_prob, seed: as in `train.Settings`.
        encoder: for texts, see `inputs.to_tensor`.
        limit: use at most so many ID samples.
        least: refuse fewer ID samples.
        inplace: train the flow that was given; otherwise a copy, so that before and after can be compared.
        quiet: do not print what was chosen.
    Returns:
        The trained flow, with `log_prob`, and a `Correction` as `.correction`.
    Raises:
        FlowError: the flow is no density; see `adapt.check_flow`.
        TypeError: outliers that cannot be called as above.
        ValueError: too few samples, nan rows, an unknown name, a parameter out of its range, outliers that do not fit
            the data; all before the first step.

    >>> from flowood_core.flow import vector_flow
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> better = correct(vector_flow(2, blocks=2, hidden=8), x, steps=5, quiet=True)
    >>> better.log_prob(x[:3]).shape, better.correction.outliers
    (torch.Size([3]), 'rows')
    """
    ranges.one_of("objective", objective, OBJECTIVES)
    how = ranges.checked(
        batch_size=batch_size, lr=lr, schedule=schedule, outlier_prob=outlier_prob, seed=seed
    )
    more = ranges.checked(tau=tau, margin=margin, warmup=warmup, limit=limit)
    steps = ranges.whole("steps", steps, 1)
    _check_name(outliers)
    with protocols.bound_to_train():
        return _corrected(
            flow, id_data, outliers, objective, how, more, steps, encoder, least, inplace, quiet
        )


def _corrected(
    flow: Any, id_data: Any, outliers: Any, objective: str, how: dict[str, Any], more: dict[str, Any], steps: int,
    encoder: Any, least: int, inplace: bool, quiet: bool,
) -> Flow | adapt.Adapted:  # fmt: skip
    began = time.monotonic()
    texts = inputs.texts_of(id_data, "ID data") if encoder is not None else None
    id_data = id_data if texts is None else texts  # an iterator gives its texts once
    x = inputs.to_tensor(id_data, limit=more["limit"], encoder=encoder, name="ID data")
    x = inputs.check_samples(x.clone() if x.is_inference() else x, least)
    flow, taken = protocols.bare(flow)
    flow, check = adapt.admitted(flow if inplace else _copied(flow), x)
    if not any(p.requires_grad for p in flow.parameters()):
        raise ValueError("expected a flow with trainable parameters, got none; are all of them frozen?")
    x = adapt.fitting(flow, x)
    name, method = chosen_outliers(outliers, objective, x, id_data, encoder)
    if method is not None:
        _try(method, name, x)

    settings = train.Settings(
        steps=steps, temperature=1.0 if objective == "mle" else OBJECTIVES[objective], **how
    )  # fmt: skip
    if more["warmup"]:
        train.fit(
            flow, x, None, settings=dataclasses.replace(settings, steps=more["warmup"]), label="warm-up"
        )
    chosen = choose_tau(flow, x, tau=more["tau"], margin=more["margin"])
    if not quiet and method is not None:
        print(chosen.why)
    settings = dataclasses.replace(settings, tau=chosen.value)
    label = "maximum likelihood" if method is None else f"correcting: {name}"
    history = train.fit(flow, x, method, settings=settings, label=label)
    seconds = time.monotonic() - began
    flow.correction = Correction(name, objective, chosen, check, history, len(x), steps, seconds, taken)
    end = history.rows[-1]["log_px_id"]
    if not quiet and method is not None and end < chosen.value:
        print(
            f"caution: the ID log-density ends at {end:.1f} nats, below tau = {chosen.value:.1f}, where eq. (3) hardly "
            "acts; give tau below the ID log-density, or train longer"
        )
    return flow


def choose_tau(flow: Any, x: Tensor, *, tau: float | None = None, margin: float = 3.0, n: int = 1000) -> Tau:
    """The threshold of eq. (3) in nats: given, 0 for pixels, else the ID log-density minus a margin (A1).

    Softplus is a hinge at density 1 *in the units of x*. Pixels in [0, 1] put that far below any trained flow's ID
    density and the paper needs no threshold; a feature in metres instead of millimetres moves log p by d log 1000, and
    the hinge with it. tau = mean - margin * sd of log p over ID samples moves along: the training is then the
    same in any unit.

    Args:
        flow: with `log_prob`, trained on ID already.
        x: ID samples; uint8 means pixels.
        tau: given by you, then nothing is chosen.
        margin: standard deviations of the ID log-density.
        n: samples looked at.
    """
    if tau is not None:
        return Tau(float(tau), f"tau = {tau:g} nats, as given")
    if x.dtype == torch.uint8:
        return Tau(0.0, "tau = 0 nats: eq. (3) as printed, pixels in [0, 1]")
    if not margin >= 0:
        raise ValueError(f"expected a margin of 0 or more standard deviations, got {margin}")
    log_px = adapt.log_px_of(flow, inputs.sample_of(x, n))
    mean, sd = float(log_px.mean()), float(log_px.std())
    return Tau(
        mean - margin * sd,
        f"tau = {mean - margin * sd:.1f} nats: mean log p of {len(log_px)} ID samples, {mean:.1f}, minus {margin:g} "
        f"standard deviations of {sd:.1f} (the units of these data are arbitrary)",
    )


def check_outliers(outliers: Any, x: Tensor) -> None:
    """Refuse outliers that do not suit the data, by making a few: before anything is trained.

    Raises:
        TypeError, ValueError: as `correct`.
    """
    _check_name(outliers)
    name, method = chosen_outliers(outliers, "softplus", x, None, None)
    _try(method, name, x)  # type: ignore[arg-type]


def chosen_outliers(
    outliers: Any, objective: str, x: Tensor, id_data: Any, encoder: Any
) -> tuple[str, Callable[..., Tensor] | None]:
    """(name, function) of the outliers asked for, see `correct`; ("none", None) for maximum likelihood.

    Args:
        x: ID samples, as they are trained on. id_data: as they were given, for texts.
    """
    if objective == "mle":
        return "none", None
    is_image = x.dtype == torch.uint8
    if _is_data(outliers):
        return "pool", vectors.Pool(_pooled(outliers, x))
    if callable(outliers):
        return getattr(outliers, "__name__", "callable"), outliers
    if outliers == "auto":
        outliers = "ccm_gaussian" if is_image else "text" if encoder is not None else "rows"
    if outliers == "text":
        return "text", vectors.Pool(_texts(id_data, encoder))
    if is_image == (outliers == "rows"):
        want = "rows of floats" if is_image else "8-bit images"
        raise ValueError(
            f"expected {want} for outliers={outliers!r}, got {x.dtype} shaped {tuple(x.shape)}; "
            + (
                "choose ccm_gaussian"
                if is_image
                else "give images as uint8 0..255, or choose outliers='rows', or your own function"
            )
        )
    if outliers == "ccm_graded":
        return outliers, graded.for_images(inputs.sample_of(x, 24))
    return outliers, OUTLIERS[outliers]


def _is_data(outliers: Any) -> bool:
    return isinstance(outliers, Tensor | np.ndarray) or hasattr(outliers, "iloc")


def _pooled(outliers: Any, x: Tensor) -> Tensor:
    """Outliers made beforehand, as samples like x."""
    given = str(getattr(outliers, "dtype", "floats")).removeprefix("torch.")  # a frame has many types
    if (given == "uint8") != (x.dtype == torch.uint8):
        raise ValueError(
            f"expected outliers like the ID samples, {x.dtype}, got {given}; prepare both in the same way"
        )
    made = inputs.to_tensor(outliers, name="the outliers")
    return made if x.dtype == torch.uint8 else made.to(x.dtype)


def _check_name(outliers: Any) -> None:
    if _is_data(outliers) or callable(outliers):
        return
    names = ("auto", "text", *OUTLIERS)
    if outliers in names:
        return
    near = ranges.nearest(outliers, names)
    raise ValueError(
        f"expected outliers to be one of {', '.join(names)}, a tensor, an array, a frame, or a function "
        "(x, partner, *, rng) -> x_out, "
        f"got {outliers!r}" + (f"; did you mean {near!r}?" if near else "")
    )


def _copied(flow: Any) -> Any:
    try:
        return copy.deepcopy(flow)
    except Exception as error:
        raise TypeError(
            f"expected a flow that can be copied, got {type(flow).__name__}, whose copy fails: {error}; give "
            "inplace=True to train it itself, or a flow made anew"
        ) from error


def _try(method: Callable[..., Tensor], name: str, x: Tensor) -> None:
    """Make a few outliers before anything is trained: a mistake in one's own function is best met here."""
    few = x[:4]
    try:
        out = method(few.clone(), few.roll(1, 0), rng=torch.Generator(x.device).manual_seed(0))
    except TypeError as error:
        raise TypeError(
            f"expected outliers to be a function (x, partner, *, rng) -> x_out, got {name!r}, which says: {error}"
        ) from error
    got = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
    if not isinstance(out, Tensor) or out.shape != few.shape or out.dtype != few.dtype:
        raise ValueError(
            f"expected one outlier per sample, {tuple(few.shape)} of {few.dtype}, got {got} from {name!r}; return "
            "outliers of the size and type of x"
        )


def _texts(id_data: Any, encoder: Any) -> Tensor:
    from flowood_core.outliers import text

    texts = None if encoder is None else inputs.texts_of(id_data, "ID data")
    if texts is None:
        raise ValueError(
            "expected a list of texts and encoder=... for outliers='text', got vectors; give the texts"
        )
    lexicon = text.Lexicon.load("auto")
    made = [
        t for t in text.simplify_all(texts, lexicon) if t.strip()
    ]  # a text of long sentences is left empty
    return inputs.embed(made, encoder)
