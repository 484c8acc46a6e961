"""What the parts of a claim make of it: one word, and how many parts say so.

A part holds where its interval lies above zero, is against the claim where it lies below, and is open else. An effect
without an interval, a fact about data, is judged by its sign.

    holds            every part holds (where the paper says "in some": one)
    holds partly     some part holds
    does not hold    none holds, and one is against
    cannot tell      none holds, and all are open
    not run          nothing of it was measured
    other setting    measured with another backbone or encoder than the paper's only: no verdict on the claim
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flowood_core.intervals import Interval

__all__ = ["WORDS", "Part", "Parts", "Verdict", "judge"]

WORDS = ("holds", "holds partly", "does not hold", "cannot tell", "not run", "other setting")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a claim: a set, a pair of sets, a reading.

    Attributes:
        name: as a table prints it.
        effect: positive as claimed.
        apart: why it does not count for the verdict: "by log p_X", "sets that are not the paper's"; "" where it does.
        setting: what differs from the paper's set-up: "other backbone", "other encoder"; "" where nothing does.
    """

    name: str
    effect: Interval
    apart: str = ""
    setting: str = ""

    @property
    def sign(self) -> int:
        """+1 holds, -1 against, 0 open."""
        low, high = self.effect.low, self.effect.high
        if not np.isfinite(low):
            low = high = self.effect.value
        return int(low > 0) - int(high < 0)

    def __str__(self) -> str:
        return f"{self.name} {_shown(self.effect)}".strip()


Parts = list[Part]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the measurements say about a claim.

    Attributes:
        word: one of `WORDS`.
        holds, against, n: parts that hold, that are against, and all that count.
        worst, best: of the parts that count, by their effects.
        apart: for each group that does not count, in how many of its parts it holds.
        seeds: how many each part has, "3", "1–3"; "–" for facts about data.
        setting: what differs from the paper's set-up, "" where nothing does.
    """

    word: str
    holds: int = 0
    against: int = 0
    n: int = 0
    worst: str = ""
    best: str = ""
    apart: str = ""
    seeds: str = ""
    setting: str = ""

    @property
    def parts(self) -> str:
        """ "holds in 2 of 5 parts, 1 against" """
        if not self.n:
            return ""
        against = f", {self.against} against" if self.against else ""
        return f"holds in {self.holds} of {self.n} {'part' if self.n == 1 else 'parts'}{against}"

    @property
    def effects(self) -> str:
        """One line: how many parts, the best and the worst, and what is counted apart."""
        ends = f"best: {self.best}; worst: {self.worst}" if self.n > 1 else self.best
        return "; ".join(piece for piece in (self.parts, ends, self.apart) if piece)


def judge(parts: Sequence[Part], needs: str = "all") -> Verdict:
    """The verdict on a claim; see the top of the file.

    Args:
        needs: "all" parts, or "some", where the paper says that it holds on some sets.
    """
    counted = [p for p in parts if not p.apart]
    if not counted:
        return Verdict("not run", apart=_apart(parts))
    signs = [p.sign for p in counted]
    holds, against, n = signs.count(1), signs.count(-1), len(signs)
    ranked = sorted(counted, key=lambda p: p.effect.value)
    settings = sorted({p.setting for p in counted})
    return Verdict(
        _word(holds, against, n, needs) if "" in settings else "other setting",
        holds,
        against,
        n,
        worst=str(ranked[0]),
        best=str(ranked[-1]),
        apart=_apart(parts),
        seeds=_seeds(counted),
        setting=", ".join(s for s in settings if s),
    )


def _word(holds: int, against: int, n: int, needs: str) -> str:
    if holds == n or (needs == "some" and holds):
        return "holds"
    if holds:
        return "holds partly"
    return "does not hold" if against else "cannot tell"


def _apart(parts: Sequence[Part]) -> str:
    groups: dict[str, list[int]] = {}
    for p in parts:
        if p.apart:
            groups.setdefault(p.apart, []).append(p.sign)
    return "; ".join(f"{name}: {signs.count(1)} of {len(signs)}" for name, signs in groups.items())


def _seeds(parts: Sequence[Part]) -> str:
    n = sorted({len(p.effect.seeds) if p.effect.kind != "nothing" else 0 for p in parts})
    if n == [0]:
        return "–"
    return f"{n[0]}" if len(n) == 1 else f"{n[0]}–{n[-1]}"


def _shown(e: Interval) -> str:
    return f"{e:+.1f}" if abs(e.value) >= 2 else f"{e:+.2f}"
