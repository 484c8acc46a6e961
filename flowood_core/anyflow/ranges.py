"""Parameters in their ranges, checked before the first step of work: NumPy's numbers are numbers, texts are none."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["checked", "nearest", "number", "one_of", "size", "whole"]


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number as int.

    >>> whole("steps", np.int64(3), 0)
    3
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool | np.bool_):
        raise ValueError(f"expected {name} as a whole number of {least} or more, got {_seen(value)}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"expected {name} {_within(least, most)}, got {value}")
    return int(value)


def number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None,
    most: float | None = None, below: float | None = None, hint: str = "",
) -> float:  # fmt: skip
    """A finite number as float, within [least, most] or (above, below).

    >>> number("lr", 1e-3, above=0)
    0.001
    """
    low = f"above {above:g}" if above is not None else f"of {least:g} or more" if least is not None else ""
    high = f"below {below:g}" if below is not None else f"up to {most:g}" if most is not None else ""
    wanted = " and ".join(filter(None, (low, high))) or "that is finite"
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        raise ValueError(f"expected {name} as a number {wanted}, got {_seen(value)}")
    inside = (
        np.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not inside:
        raise ValueError(f"expected {name} {wanted}, got {value}{hint}")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of the names, as it is.

    >>> one_of("fit", "corp", ["crop", "pad"])
    Traceback (most recent call last):
    ValueError: expected fit to be one of crop, pad, got 'corp' (str); did you mean 'crop'?
    """
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    found = nearest(value, choices)
    raise ValueError(
        f"expected {name} to be one of {', '.join(choices)}, got {_seen(value)}"
        + (f"; did you mean {found!r}?" if found else "")
    )


def nearest(value: Any, choices: Iterable[str]) -> str | None:
    """The name that is most like it, capitals aside; None where none is."""
    by_small = {name.lower(): name for name in choices}
    found = difflib.get_close_matches(str(value).lower().replace(" ", "_"), by_small, n=1, cutoff=0.6)
    return by_small[found[0]] if found else None


def size(value: Any, name: str = "size") -> tuple[int, int]:
    """(height, width) of one side or of two, 1 or more each.

    >>> size(32), size((16, 24))
    ((32, 32), (16, 24))
    """
    sides = [value, value] if isinstance(value, numbers.Number | str) or value is None else list(value)
    if len(sides) != 2:
        raise ValueError(f"expected {name} as one side or (height, width), got {len(sides)} values")
    height, width = (whole(name, side, 1, 65_535) for side in sides)
    return height, width


CHECKS = {
    "mle_steps": lambda n, v: whole(n, v, 0),
    "steps": lambda n, v: whole(n, v, 0),
    "warmup": lambda n, v: whole(n, v, 0),
    "batch_size": lambda n, v: whole(n, v, 1),
    "blocks": lambda n, v: whole(n, v, 2),
    "hidden": lambda n, v: whole(n, v, 1),
    "seed": lambda n, v: whole(n, v, 0, 2**63 - 1),
    "limit": lambda n, v: None if v is None else whole(n, v, 1),
    "n_boot": lambda n, v: whole(n, v, 1),
    "lr": lambda n, v: number(n, v, above=0),
    "margin": lambda n, v: number(n, v, least=0),
    "tau": lambda n, v: None if v is None else number(n, v),
    "outlier_prob": lambda n, v: number(n, v, above=0, below=1),
    "holdout": lambda n, v: number(n, v, above=0, below=1),
    "keep": lambda n, v: number(n, v, above=0, most=1, hint=_as_share(v)),
    "schedule": lambda n, v: one_of(n, v, ("constant", "cosine")),
}
"""Parameter of this wing: its range, stated once."""


def checked(**values: Any) -> dict[str, Any]:
    """The values as plain Python, each within its range of `CHECKS`.

    Raises:
        ValueError: names the first that is not, and its range.

    >>> checked(keep=0.9, steps=np.int32(5))
    {'keep': 0.9, 'steps': 5}
    """
    return {name: CHECKS[name](name, value) for name, value in values.items()}


def _as_share(value: float) -> str:
    return f"; {value} percent is {value / 100:g}" if 1 < value <= 100 else ""


def _within(least: int, most: int | None) -> str:
    return f"of {least} or more" if most is None else f"from {least} to {most}"


def _seen(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
