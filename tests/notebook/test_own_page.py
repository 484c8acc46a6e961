"""Laws of the page one sends on: what is looked at first, what is advised, and that it is one file."""

import functools
import re

import numpy as np
import pandas as pd
import pytest

from flowood_core import Detector, datasets
from flowood_core.anyflow import explaining
from flowood_core.notebook import figures, own_page

RNG = np.random.default_rng(0)


def judged(n=30, gamma=10.0, **more):
    files = pd.DataFrame(
        {"image": [f"f<{k}>.png" for k in range(n)], "set": ["a"] * (n - n // 2) + ["b"] * (n // 2),
         "ood_score": np.arange(n, dtype=float), "complexity": RNG.uniform(2, 8, n)}
    )  # fmt: skip
    picture = lambda name: np.full((3, 8, 8), int(re.search(r"\d+", name)[0]), np.uint8)  # noqa: E731
    return own_page.Judged(files, gamma, 0.95, more.pop("n_train", 900), picture, **more)


def sets(**columns):
    base = {"n": [15, 15], "gap": [-1.0, 1.0], "auroc": [80.0, 60.0], "auroc_low": [75.0, 55.0],
            "auroc_high": [85.0, 65.0], "complexity_only": [50.0, 40.0], "eq5": ["no difference"] * 2}  # fmt: skip
    return pd.DataFrame(base | columns, index=["a", "b"])


def samples(n=60):
    c = RNG.uniform(2, 8, 2 * n)
    far = np.where(np.arange(2 * n) % 3 == 0, -1e6, 0.0)  # a third of "a" lies far below
    return pd.DataFrame(
        {"set": ["ID"] * n + ["a"] * n, "complexity": c,
         "log_px": 1000 - 100 * c + RNG.normal(0, 10, 2 * n) + far * (np.arange(2 * n) >= n)}
    )  # fmt: skip


def test_the_most_suspicious_come_first_and_the_borderline_lie_on_both_sides():
    j = judged()
    assert list(own_page.most_suspicious(j, 3).ood_score) == [29, 28, 27]
    assert list(own_page.borderline(j, 5).ood_score) == [12, 11, 10, 9, 8]


def test_the_verdict_counts_what_reaches_the_threshold():
    said = own_page.verdict(judged(), sets())
    assert "20 of 30 pictures" in said and "“a” from your images with an AUROC of 80 %, “b” with 60 %" in said


@pytest.mark.parametrize(
    ("columns", "n_train", "wanted", "unwanted"),
    [
        ({"complexity_only": [95.0, 90.0]}, 900, "use complexity alone, without a flow", "eq. (5)"),
        ({"eq5": ["helps", "no difference"]}, 900, "eq. (5): it helps on “a”", "without a flow"),
        ({}, 900, "score with the flow’s likelihood", "collect"),
        ({}, 80, "collect more than these 80", "nearer"),
        (
            {"auroc_low": [75.0, 40.0], "auroc_high": [85.0, 48.0]},
            900,
            "“b”, nearer to your training images than held-out ones",
            "collect",
        ),
        ({"auroc_low": [75.0, 45.0]}, 900, "on “b”, which it cannot tell", "nearer"),
    ],
)
def test_the_advice_follows_from_the_diagnosis(columns, n_train, wanted, unwanted):
    said = own_page.advice(judged(n_train=n_train), sets(**columns))
    assert wanted.lower() in said.lower() and unwanted.lower() not in said.lower()
    assert said[0].isupper() and said.endswith(".")


def test_the_line_stays_in_the_frame_and_colours_differ():
    found = samples()
    fig = own_page.draw_overview(found, sets().loc[["a"]])
    ax = fig.axes[0]
    low, high = ax.get_ylim()
    (line,) = [x for x in ax.lines if "line" in x.get_label()]
    assert low < line.get_ydata().min() and line.get_ydata().max() < high, (
        "a third far below does not tilt it"
    )
    assert np.polyfit(*line.get_data(), 1)[0] == pytest.approx(-100, abs=15)
    shades = {tuple(c.get_facecolor()[0][:3]) for c in ax.collections if c.get_label() in ("ID", "a")}
    assert len(shades) == 2
    figures.plt.close(fig)


def test_the_page_is_one_file_with_pictures_heat_maps_a_table_and_what_could_not_be_read(tmp_path):
    j = judged(heat=lambda name: np.zeros((3, 8, 8), np.uint8), unreadable=["torn.png: broken"])
    stages = {"before": ("is biased", samples(), sets()), "after": ("is less biased", samples(), sets())}
    text = own_page.write(tmp_path / "new" / "page.html", j, stages, "my data").read_text("utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert addresses and all(a.startswith("data:image/png;base64,") for a in addresses)
    assert len(re.findall(r'alt="heat map of', text)) == 20 and text.count('data-value="') == 30
    assert "torn.png: broken" in text and "f&lt;29&gt;.png" in text and "f<29>" not in text
    assert "is biased" in text and "is less biased" in text and "95.0%" in text
    assert own_page.HEAT in text and text.count('media="(max-width: 40rem)"') == 2


def test_without_heat_maps_the_page_says_so(tmp_path):
    text = own_page.write(tmp_path / "page.html", judged(), {"": ("", samples(), sets())}).read_text("utf-8")
    assert own_page.NO_HEAT in text and "heat map of" not in text


def test_heat_maps_of_a_detector_share_the_colours_of_held_out_pictures():
    small = {"mle_steps": 2, "steps": 0, "blocks": 2, "hidden": 8}
    x = datasets.load("photo", "train").x[:60]
    detector = Detector(**small).fit(x)
    dark = figures.heat_over(x[:1], np.full((1, 32, 32), -1e9), ends=(0, 1))[0]
    maps = functools.partial(explaining.by_place, detector)
    heat = own_page.heat_of(maps, lambda name: x[int(name)], x[:20])
    assert heat("0").shape == (3, 32, 32) and heat("0").dtype == np.uint8 and (heat("0") != dark).any()
    assert own_page.heat_of(lambda x: None, lambda name: x[0], x[:20]) is None


def test_nothing_to_show_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected pictures and a diagnosis, got 0 and 0"):
        own_page.write(tmp_path / "page.html", judged(0), {})
