"""Laws of Table 4 and Hypothesis 1 in numbers."""

import numpy as np
import pandas as pd
import pytest

from flowood_core.evidence import lipschitz_tables


def local(seed, trend):
    rng = np.random.default_rng(seed)
    parts = []
    for k, name in enumerate(("cifar10", "svhn")):
        c = k * 4 + rng.uniform(size=40)
        f = np.exp(trend * c + 10 * k + 0.05 * rng.normal(size=40))
        parts.append(pd.DataFrame({"set": name, "C": c, "f": f, "inverse of f": 1 / f}))
    return pd.concat(parts, ignore_index=True)


def test_sets_that_differ_do_not_hide_what_happens_inside_them():
    found = lipschitz_tables.inside_sets({("cifar10", "MLE", s): local(s, -1) for s in (0, 1)})
    f = found.query("side == 'f' and `set` == 'all sets'").iloc[0]
    assert f["value"] < -0.9 and f["high"] < 0 < f["pooled"], "pooled, the sets' order decides"
    inverse = found.query("side == 'inverse of f' and `set` == 'all sets'").iloc[0]
    assert inverse["value"] == pytest.approx(-f["value"]) and f["n_seeds"] == 2 and f["n"] == 40


def test_eq_1_asks_more_of_a_flow_with_a_smaller_constant():
    rows = {"set": ["svhn"] * 2, "C": [5.0, 5.0], "radius": [55.0, 55.0], "spread": [300.0, 300.0]}
    small, large = (
        lipschitz_tables.eq_1_by_set(pd.DataFrame(rows | {"f": [c, c]}), 3072).iloc[0] for c in (10.0, 20.0)
    )
    assert small["left side"] == pytest.approx(4 * large["left side"])
    assert small["C_1, M(x)"] == pytest.approx(300 / np.exp(5)) and 0 < small["P(ball)"] < 0.5
    (left, *words), *_ = lipschitz_tables.reading_of_eq_1(pd.DataFrame([small, large]))
    slack = small["left side"] / small["M(x)"]
    assert left == (slack <= 1)
    # L that many times smaller makes the left side M(x) itself
    spare = 1 / np.sqrt(slack)
    assert (
        spare**2 * small["left side"] == pytest.approx(small["M(x)"])
        and f"{spare:.2g} times smaller" in words[0]
    )


def frame():
    rows = [("isun", m, s, q, v) for q in lipschitz_tables.READINGS for s in (0, 1)
            for m, v in (("MLE", 10.0), ("CCM+Gaussian", 20.0 if s else 5.0))]  # fmt: skip
    made = pd.DataFrame(rows, columns=["id", "method", "seed", "quantity", "max"])
    return made.assign(median=made["max"], q95=made["max"])


def test_rises_are_counted_run_by_run_and_seeds_that_differ_say_so():
    assert (lipschitz_tables.rises(frame())[["max", "runs"]] == [1, 2]).all().all()
    table = lipschitz_tables.table_4(frame()).set_index(["id", "reading"])
    assert table.loc[("isun", "spectral"), "verdict"] == "differs between seeds"
    assert table.loc[("cifar10", "spectral"), "verdict"] == "not run"
    assert lipschitz_tables.ratio(frame()).loc[("isun", "spectral"), "max"] == pytest.approx(1.25)
