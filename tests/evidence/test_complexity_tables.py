"""Laws of Tables 1, 7 and 9 and of their readings, on numbers whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from flowood_core.complexity import text_complexity
from flowood_core.evidence import complexity_tables, readings, tables
from flowood_core.notebook.reading import sentences

PRINTED = tables.printed("table_7").set_index("set")


def spread_about(mean: float, n: int = 400) -> np.ndarray:
    return mean + np.random.default_rng(0).normal(size=n) - np.random.default_rng(0).normal(size=n).mean()


def test_a_mean_within_two_standard_errors_is_reproduced_and_another_is_not():
    near, far = PRINTED["mean"]["cifar10"], PRINTED["mean"]["isun"] + 1
    table, others = complexity_tables.table_7(
        {"cifar10": spread_about(near), "isun": spread_about(far), "own": spread_about(3)}, ["lsun"]
    )
    verdict = table.set_index("set")["verdict"]
    assert (verdict["cifar10"], verdict["isun"], verdict["lsun"]) == (
        "reproduced",
        "not",
        "not available here",
    )
    assert verdict["svhn"] == "not run" and others["set"].tolist() == ["own"]


def test_table_9_is_of_the_stored_order_and_allows_a_unit_of_the_last_digit():
    texts = ["the cat sat on the mat"] * 50
    table = complexity_tables.table_9({"ag_news": texts, "sst2": None}, (2.64, 1000)).set_index("set")
    assert table["ours"]["ag_news"] == text_complexity(texts) and table["verdict"]["ag_news"] == "not"
    assert table["verdict"]["sst2"] == "not available here"
    assert table["verdict"]["imdb_synthesized"] == "reproduced"  # printed: 2.63


def test_order_matters_where_neighbours_are_alike():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(3000)]
    articles = [
        " ".join(words[40 * a + i % 40] for i in range(k, k + 60)) for a in range(60) for k in range(5)
    ]
    alike = [" ".join(rng.choice(words[:50], 60)) for _ in range(300)]
    order = complexity_tables.order_of_texts({"articles": articles, "alike": alike}, n=100).set_index(
        "corpus"
    )
    torn = order["shuffled"] - order["as stored"]
    assert torn["articles"] > 10 * abs(torn["alike"])


def square(rows):
    columns = ["id", "ood", "value", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return pd.concat([frame.assign(score=s) for s in ("pz", "px", "comp_only")])


def test_table_1_has_every_set_as_row_and_column():
    ours = square([("cifar10", "svhn", 44.5, 26.0, 62.0), ("cifar10", "isun", 71.0, 65.0, 77.0),
                   ("isun", "cifar10", 68.0, 62.0, 73.0), ("isun", "svhn", 64.0, 58.0, 71.0)])  # fmt: skip
    table = complexity_tables.table_1_square(ours, {"svhn": 5.0, "cifar10": 6.7, "isun": 8.1})
    mine = table.loc["ours, eq. (4)"]
    assert list(mine.index) == list(mine.columns) == ["svhn", "cifar10", "isun"]
    assert mine.loc["cifar10", "svhn"] == "44.5 [26.0, 62.0]" and mine.loc["svhn", "isun"] == "not run"
    assert all(mine.loc[n, n] == "–" for n in mine.index)


def test_the_bias_is_read_by_its_two_sides():
    cells = pd.DataFrame(
        {"id": ["cifar10", "cifar10"], "ood": ["svhn", "isun"], "gap": [-1.7, 1.4], "value": [44.0, 71.0]}
    ).assign(high=np.nan)
    ours = cells.assign(high=[48.0, 75.0])
    table = complexity_tables.sides(
        {"paper": cells, "pz": ours, "px": ours.assign(value=[60.0, 55.0], high=70.0)}
    )
    assert table[["simpler_high", "harder_low", "below_chance"]].iloc[0].tolist() == [44.0, 71.0, 1]
    said = sentences(readings.bias(table))
    assert "ours keep that order by eq. (4), and do not by the full density" in said
    assert "surely so in 1 of our 2" in said


def test_an_interval_that_holds_50_is_not_worse_than_a_coin():
    cells = pd.DataFrame({"id": ["cifar10"], "ood": ["svhn"], "gap": [-1.7], "value": [44.5], "high": [62.7]})
    assert complexity_tables.sides({"pz": cells})["below_chance"].tolist() == [0]


@pytest.mark.parametrize(("isun", "is_said"), [(8.1, True), (7.0, False)])
def test_isun_is_called_far_only_where_it_is(isun, is_said):
    C = {"svhn": np.full(9, 5.0), "cifar10": np.full(9, 6.7), "isun": np.full(9, isun)}
    said = sentences(readings.complexity_of_sets(C, {n: n for n in C}, 1.0))
    assert ("iSUN alone lies far above" in said) == is_said and "svhn < cifar10 < isun" in said
