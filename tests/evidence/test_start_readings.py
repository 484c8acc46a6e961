"""Laws of the sentences of the start page and of the open choices: they follow the numbers, and say less of less."""

import numpy as np
import pandas as pd
import pytest

from flowood_core.evidence import complexity_term, decisions, readings
from flowood_core.intervals import Interval
from flowood_core.notebook.reading import sentences


def of(median: float) -> np.ndarray:
    return median + np.linspace(-1, 1, 101)


def test_a_set_is_called_likelier_by_its_median_before_and_after():
    before = {"cifar10": of(0.0), "svhn": of(0.5), "isun": of(-0.5)}
    after = {"cifar10": of(0.0), "svhn": of(-0.5), "isun": of(-9.0)}
    said = sentences(readings.bias_and_cure(before, after))
    assert "Likelier than CIFAR-10 by the median: SVHN without outliers, none with them." in said
    assert "half of the images of iSUN lie below 95 % of CIFAR-10. Of every other set" in said
    assert "at least half of the images of every set" in sentences(readings.bias_and_cure(before, before))


def rows(svhn: tuple[float, float]) -> pd.DataFrame:
    found = [("pz", method, ood, v, v - 2, v + 2) for method, values in (("MLE", (44.0, 70.0)), ("CCM+Gaussian", svhn))
             for ood, v in zip(("SVHN", "faces"), values, strict=True)]  # fmt: skip
    return pd.DataFrame(found, columns=["score", "method", "ood", "value", "low", "high"])


def test_what_outliers_raise_and_lower_is_named_and_who_is_misled():
    one = pd.DataFrame({"ood": ["SVHN"], "value": [80.0]})
    said = sentences(readings.what_it_does(rows((80.0, 45.0)), one))
    assert "raise SVHN (+36.0)" in said and "lower faces (-25.0)" in said
    assert "Misled: by SVHN without them, by faces with them" in said
    assert "seed" not in said
    two = pd.DataFrame({"ood": ["SVHN", "SVHN"], "value": [68.0, 94.0]})
    assert "SVHN 68.0–94.0" in sentences(readings.what_it_does(rows((80.0, 69.0)), two))


def effects(*given: tuple[str, str, str, float, float, int]) -> pd.DataFrame:
    found = [(c, s, o, Interval((lo + hi) / 2, lo, hi, (0.0,) * n)) for c, s, o, lo, hi, n in given]
    return pd.DataFrame(found, columns=["code", "score", "ood", "effect"]).assign(of="CCM+Gaussian")


def test_an_effect_is_sure_where_its_interval_excludes_zero_over_several_seeds():
    found = effects(
        ("A1", "pz", "svhn", -5, 5, 3), ("A1", "pz", "isun", -9, -1, 3), ("A1", "pz", "digits", 1, 2, 1)
    )
    assert decisions.sure(found)["ood"].tolist() == ["isun"]
    said = sentences(decisions.reading(found))
    assert "By eq. (4) 1 of 3 effects are sure. None on SVHN, digits." in said


@pytest.mark.parametrize(("low", "is_said"), [(3.0, True), (-3.0, False)])
def test_faces_are_said_to_hang_on_choices_only_where_all_three_are_sure(low, is_said):
    found = effects(*((c, "pz", "faces_rmfd", low, 40.0, 3) for c in ("A2", "A8", "A13")))
    assert ("hangs on choices" in sentences(decisions.reading(found))) == is_said


def test_the_nearest_reading_is_named_for_each_density_and_the_printed_range_is_the_papers():
    columns = ["reading", "error", "n_cells", "isun_lowest", "isun_highest"]
    ours = ("per dimension (eq. 5 as we read it)", 20.0, 20, 8.0, 98.0)
    tried = {
        "log p(z)": pd.DataFrame([("clipped", 7.3, 20, 8.0, 44.0), ours], columns=columns),
        "log p(x)": pd.DataFrame([("standardised", 7.5, 20, 20.0, 40.0), ours], columns=columns),
    }
    said = sentences(complexity_term.reading(tried))
    assert "with log p(z) “clipped”, off by 7.3 points; with log p(x) “standardised”, off by 7.5" in said
    assert "printed range, 21 to 47, by: “standardised” with log p(x)." in said
    none = {name: frame.iloc[:0] for name, frame in tried.items()}
    assert "No printed cell was run" in sentences(complexity_term.reading(none))
