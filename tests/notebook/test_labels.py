"""One table of printed names and colours, and what a sheet leaves of a table."""

import pandas as pd
import pytest

from flowood_core import datasets
from flowood_core.datasets import corpora, highdim
from flowood_core.features import map_flows
from flowood_core.notebook import figures, labels
from flowood_core.notebook.sheet import Sheet
from flowood_core.outliers.image import METHOD_LABELS


def test_the_rooms_that_may_not_import_the_table_say_the_same():
    methods = labels.names(labels.METHODS)
    assert METHOD_LABELS.items() >= methods.items() and labels.names(labels.MODELS) == map_flows.LABELS


def test_every_set_that_can_be_loaded_has_a_name_and_one_colour():
    named = (
        set(datasets.LABELS) | set(corpora.LABELS) | {n for n in highdim.LABELS if not n.startswith("mvtec")}
    )
    assert named <= set(labels.ALL)
    assert figures.colour_of("cifar10") == labels.BLUE and figures.colour_of("stranger") == "#777777"


@pytest.mark.parametrize(
    ("value", "text"),
    [("svhn", "SVHN"), ("cifar10_blurred", "blurred CIFAR-10"), ("chest_xray_bad", "Chest X-ray, bad"),
     ("ccm_gaussian", "CCM+Gaussian"), ("83.2 [80.1, 86.0]", "83.2 [80.1, 86.0]"), (3.5, 3.5)],
)  # fmt: skip
def test_an_id_has_a_printed_name_and_anything_else_stays(value, text):
    assert labels.text_of(value) == text


def test_a_table_is_shown_with_names_and_saved_with_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    sheet = Sheet("x", {"profile": "smoke"})
    frame = pd.DataFrame({"ood": ["svhn"], "value": [44.5], "measured": [object()]})
    sheet.table(frame, "auroc", "AUROC in percent")
    assert "SVHN" in shown[0].data and "AUROC in percent" in shown[0].data and "measured" not in shown[0].data
    saved = pd.read_csv(tmp_path / "smoke" / "tables" / "auroc.csv")
    assert saved.to_dict("list") == {"ood": ["svhn"], "value": [44.5]}
    assert sheet.captions == {"tables/auroc.csv": "AUROC in percent"}
    sheet.table(frame.set_index("ood"), "by_set", "the same")
    assert list(pd.read_csv(tmp_path / "smoke" / "tables" / "by_set.csv")) == ["ood", "value"]
