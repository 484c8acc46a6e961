"""Laws of Fig. 6: equal seeds per point, no selected maximum, and readings that follow the numbers."""

import types

import pandas as pd

from flowood_core.evidence import benchmark_readings, blur_tables
from flowood_core.notebook.reading import sentences


def run(id_, radius, seed, bpd=6.0):
    return types.SimpleNamespace(
        spec=types.SimpleNamespace(id=id_, blur_radius=radius, seed=seed), metrics={"id": {"bpd": bpd}}
    )


def test_a_radius_that_one_seed_lacks_is_no_point_of_the_curve():
    every = [run("cifar10", r, s) for r in (0.5, 1, 2) for s in (0, 1) if (r, s) != (2, 1)]
    every.append(run("cifar100", 2, 0))
    kept = {(r.spec.id, r.spec.blur_radius) for r in blur_tables.of_every_seed(every)}
    assert kept == {("cifar10", 0.5), ("cifar10", 1), ("cifar100", 2)}


def against(ends: float, half: float):
    rows = [("cifar10", "svhn", s, other, value, value - 5, value + 5, n)
            for s in ("pz", "px") for other, value, n in ((0.0, ends, 2), (0.5, half, 2), (8.0, ends, 1))]  # fmt: skip
    return pd.DataFrame(rows, columns=["id", "ood", "score", "other", "value", "low", "high", "n_seeds"])


def test_the_reading_counts_the_ends_and_keeps_single_seeds_apart():
    said = sentences(benchmark_readings.blur(against(20.0, -3.0), 1.0))
    assert said.count("better than an end of the curve in 2 of 2 comparisons") == 2
    assert (
        "Over several seeds 2 of 2 are sure" in said and "With one seed 2 of 2 are sure of that flow" in said
    )
    said = sentences(benchmark_readings.blur(against(-1.0, -3.0), 1.0))
    assert "in 0 of 2 comparisons" in said and "0 of 2 are sure" in said


def test_what_a_radius_costs_is_compared_within_an_id_set_and_seed():
    costs = [("cifar10", 1.0, 6.18), ("cifar10", 2.0, 6.3), ("cifar100", 1.0, 6.44), ("cifar100", 2.0, 6.5)]
    runs = [run(i, r, 0, bpd) for i, r, bpd in costs]
    said = sentences(benchmark_readings.blur_cost(blur_tables.cost(runs)))
    assert "radius 1 is the cheapest" in said and "radius 2 the costliest" in said
    runs[0].metrics["id"]["bpd"] = 7.0
    assert "Cheapest radius by ID set and seed" in sentences(
        benchmark_readings.blur_cost(blur_tables.cost(runs))
    )
