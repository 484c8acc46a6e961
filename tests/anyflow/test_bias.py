"""Laws of the diagnosis: a planted bias is found, its opposite is told apart, and nothing is found in nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from flowood_core import bias_report, datasets, metrics
from flowood_core.anyflow import bias
from flowood_core.notebook import figures as report_room
from flowood_core.outliers import image


class Likes(nn.Module):
    """No trained flow: a density that prefers small (sign +1), large (-1) or any (0) spread of a row."""

    def __init__(self, sign):
        super().__init__()
        self.sign, self.p = sign, nn.Parameter(torch.zeros(()))

    def log_prob(self, x):
        return -self.sign * _spread(x) + torch.sin(1e4 * x.sum(1)) + self.p


def _spread(x):
    return x.std(1)


def noise(scale, n=150, seed=0):
    return scale * torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def report(sign, **options):
    sets = {"narrow": noise(0.3, seed=1), "wide": noise(3, seed=2)}
    return bias_report(Likes(sign), noise(1), sets, complexity=_spread, n_boot=100, **options)


def test_a_planted_bias_is_found_and_costs_the_simple_set():
    found = report(10)
    assert found.is_biased and found.slope.high < 0 and found.partial_r.high < 0
    assert found.verdict.startswith("This flow prefers simple inputs")
    assert "ranks narrow" in found.verdict
    assert (
        found.frame.loc["narrow", "side"] == "simpler" and found.frame.loc["wide", "side"] == "more complex"
    )
    assert found.frame.loc["narrow", "auroc"] < 5 < 95 < found.frame.loc["wide", "auroc"]
    assert found.frame.loc["narrow", "complexity_only"] > 95
    assert (
        found.split.loc["simpler than ID", "auroc"]
        < 30
        < 70
        < found.split.loc["more complex than ID", "auroc"]
    )
    assert found.split.n.sum() == 300


def test_the_opposite_and_nothing_are_told_apart():
    assert "prefers complex inputs" in report(-10).verdict
    none = report(0)
    assert not none.is_biased and none.verdict.startswith("No marked preference")


def test_the_numbers_are_those_of_metrics():
    found = report(10)
    parts = {n: p for n, p in found.samples.groupby("set")}
    value = metrics.auroc(-parts["ID"].log_px, -parts["wide"].log_px)
    assert found.frame.loc["wide", "auroc"] == pytest.approx(100 * value)
    groups = [parts[n] for n in ("ID", "narrow", "wide")]
    both = metrics.complexity_bias([p.complexity for p in groups], [p.log_px for p in groups])
    assert found.slope.value == pytest.approx(both.slope) and found.partial_r.value == pytest.approx(
        both.partial_r
    )
    assert found.slope.low < found.slope.value < found.slope.high


def test_eq5_helps_with_simple_and_harms_with_complex_images():
    photo = datasets.load("photo", "test").x[:60]

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(()))

        def log_prob(self, x):
            return 300 * torch.sin(1e4 * x.mean((1, 2, 3))) + self.p

    sets = {"blurred": image.gaussian_blur(photo), "aliased": datasets.load("aliased", "test").x[:60]}
    found = bias_report(Constant(), photo, sets, n_boot=100)
    assert list(found.frame.eq5) == ["helps", "harms"]
    assert "eq. (5) would help on blurred and would harm on aliased" in found.verdict


def test_duplicates_are_counted_and_said():
    found = bias_report(Likes(1), noise(1), {"own": noise(1)[:40]}, complexity=_spread, n_boot=20)
    assert found.duplicates == {"own": 40} and "caution" in str(found) and "40 of own" in str(found)
    assert "40 of own" in found._repr_html_(), "a notebook and the page to send on say it too"


def test_a_set_of_a_few_samples_is_called_that():
    found = bias_report(Likes(1), noise(1), {"rare": noise(2)[:3]}, complexity=_spread, n_boot=20)
    assert "fewer than 20 samples" in found.cautions[0] and "rare (3)" in str(found)


def test_it_can_be_shown_and_sent_on(tmp_path):
    found = report(10, label="planted")
    assert len(found.figure().axes) == 2
    assert "<table" in found._repr_html_() and "narrow" in str(found)
    shown = report_room.plt.get_fignums()
    page = found.save_html(tmp_path / "made" / "report.html", found).read_text("utf-8")
    assert report_room.plt.get_fignums() == shown, "a notebook would show the page's figures once more"
    assert page.count("data:image/png;base64,") == 2 and "http" not in page.split("base64,")[0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bias_report(Likes(1), noise(1), {}), ValueError, "at least one OOD set"),
        (lambda: bias_report(Likes(1), noise(1), noise(1)), TypeError, "OOD sets by name, .*got Tensor"),
        (
            lambda: bias_report(Likes(1), noise(1), {"a": noise(1)}),
            TypeError,
            "8-bit images .n, c, h, w. for C",
        ),
        (lambda: bias_report(Likes(1), noise(1), {"a": noise(1)[:, :3]}), ValueError, "a like the ID data"),
        (lambda: bias_report(Likes(1), noise(1)[:9], {"a": noise(1)}), ValueError, "at least 20"),
        (lambda: bias_report(Likes(1), noise(1), {"ID": noise(1)}), ValueError, "another name"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_paired_gain_has_no_spread_where_nothing_changes():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    gain = bias._gain(a, b, a, b, 50, np.random.default_rng(0))
    assert gain == (0, 0, 0)
