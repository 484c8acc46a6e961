"""Open choices: which one two specs differ in, and differences that are taken seed by seed."""

import numpy as np
import pytest

from flowood_core import metrics, runs
from flowood_core.evidence import decisions
from flowood_core.runs import grid


def spec(**fields) -> runs.Pixels:
    return runs.Pixels(**({"id": "photo", "method": "ccm_gaussian"} | fields))


@pytest.mark.parametrize(
    "fields, code, word",
    [
        ({"temperature": 3072.0}, "A1", "per dimension"),
        ({"tau": 3072 * np.log(256)}, "A1", "0..255"),
        ({"squeeze": 1}, "A7", "1 instead of 0"),
        ({"squeeze": 1, "hidden": 14}, "A7", "14 channels: as many"),
        ({"permute_soft": True}, "A8", "rotations"),
        ({"outlier_prob": 0.3333, "batch_size": 48, "epochs": 18}, "A13", "added"),
        ({"combine": "independent", "micro_batch": 4, "ood": ("digits",)}, "A14", "quarter"),
        ({"combine": "always_both"}, "A14", "both"),
    ],
)
def test_a_choice_is_known_by_the_field_it_changes(fields, code, word):
    found = decisions.describe(spec(**fields), spec(), 3072)
    assert found.code == code and word in found.text


def test_a_pool_of_real_outliers_is_named():
    base = spec(method="ro", ro_pool=("isun",))
    found = decisions.describe(spec(method="ro", ro_pool=("cifar100", "isun")), base, 3072)
    assert found == decisions.Choice("A18", "real outliers of CIFAR-100 and iSUN")


@pytest.mark.parametrize("fields", [{}, {"squeeze": 1, "permute_soft": True}, {"lr": 0.5}])
def test_specs_that_differ_in_no_choice_or_in_several_are_refused(fields):
    with pytest.raises(ValueError, match="one choice"):
        decisions.describe(spec(**fields), spec(), 3072)


@pytest.mark.parametrize("profile", ["quick", "sample", "paper", "smoke"])
def test_every_row_of_a_profile_has_its_base_and_one_choice(profile):
    bases = {(s.id, s.method, s.seed): s for s in grid.rows(profile, "table_2")}
    codes = [
        decisions.describe(s, bases[s.id, s.method, s.seed], 3072).code for s in grid.rows(profile, "choices")
    ]
    assert len(codes) == len(set(s.run_id for s in grid.rows(profile, "choices")))


def test_effects_are_the_differences_of_runs_and_what_is_missing_stays_out(outputs):
    assert len(decisions.effects("smoke")) == 0
    base = next(s for s in grid.rows("smoke", "table_2") if s.method == "ccm_gaussian")
    ours = runs.run_or_load(base)
    assert set(decisions.effects("smoke").code) == {"A2", "A4"}  # of the score, they need no other run
    (other,) = (runs.run_or_load(s) for s in grid.rows("smoke", "choices"))
    found = decisions.effects("smoke")
    assert list(dict.fromkeys(found.code)) == ["A2", "A4", "A14"]
    assert set(found[found.code == "A14"].score) == {"pz", "px"} and set(found[found.code == "A2"].score) == {
        "pz"
    }
    row = found[(found.code == "A14") & (found.ood == "digits") & (found.score == "pz")].iloc[0]
    auroc = [100 * run.metrics["ood"]["digits"]["pz"]["auroc"][0] for run in (ours, other)]
    assert row.difference == pytest.approx(auroc[1] - auroc[0]) and row.of == "CCM+Gaussian"
    assert row.bpd == pytest.approx(other.metrics["id"]["bpd"] - ours.metrics["id"]["bpd"])
    effect = (
        decisions.over_seeds(found).query("code == 'A14' and ood == 'digits' and score == 'pz'").effect.item()
    )
    assert effect.value == pytest.approx(row.difference) and effect.low <= effect.value <= effect.high
    score = found[(found.code == "A2") & (found.ood == "smooth")].iloc[0]
    px = metrics.auroc(ours.scores("photo")["px"], ours.scores("smooth")["px"])
    assert score.auroc == pytest.approx(100 * px) and score.bpd == 0


def test_the_curve_over_the_probability_starts_at_mle_and_passes_through_the_papers_row(outputs):
    assert (
        len(decisions.over_probability("smoke")) == 0
        and decisions.reading_of_probability(decisions.over_probability("smoke")) == []
    )
    bases = [s for s in grid.rows("smoke", "table_2") if s.method in ("mle", "ccm_gaussian")]
    made = {s.method: runs.run_or_load(s) for s in bases}
    (few,) = (runs.run_or_load(s) for s in grid.rows("smoke", "outlier_prob"))
    found = decisions.over_probability("smoke")
    assert list(dict.fromkeys(found.probability)) == [0.0, 0.2, 0.5]
    of = found[(found.score == "pz") & (found.ood == "digits")].set_index("probability")
    for probability, run in {0.0: made["mle"], 0.2: few, 0.5: made["ccm_gaussian"]}.items():
        assert of.value[probability] == pytest.approx(run.auroc("digits", "pz"))
        assert of.bpd[probability].value == pytest.approx(run.metrics["id"]["bpd"])
        assert of.low[probability] <= of.value[probability] <= of.high[probability]
    said = decisions.reading_of_probability(found)
    assert len(said) == 5 and all("0.5" in words for _, words, *_ in said[:2]) and said[3][0], "one seed"
