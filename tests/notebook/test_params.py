"""Laws of the parameters: nothing misspelt, mistyped or missing gets past `params.check`."""

import ast
import copy
import importlib
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flowood_core.notebook import params
from flowood_core.system import paths, profiles

CELL = """from typing import Optional
profile: str = "quick"
seed: int = 0
epochs: Optional[int] = None  # None: the profile's value
lr: float = 1e-3
fast: bool = False
name: str = "a"
methods: list[str] = ["mle", "ccm"]
"""
NOTEBOOK = "99_of_these_tests"  # no preset of the package knows it
OF_THE_GRID = {
    "grid",
    "runs",
    "runs_by_id",
    "scored_later",
}  # sections of a preset that flowood_core.runs.grid reads and checks


def executed(*cells: str, injected: str | None = None) -> dict:
    """The namespace of a kernel that ran these cells, and then the one papermill puts in."""
    cells = (*cells, *(["# Parameters\n" + injected] if injected else []))
    namespace: dict = {"In": [""]}
    for source in cells:
        namespace["In"].append(source)
        exec(source, namespace)
    return namespace


def check(*cells: str, injected: str | None = None) -> params.Parameters:
    return params.check(executed(*(cells or (CELL,)), injected=injected), notebook=NOTEBOOK)


@pytest.fixture(autouse=True)
def presets(tmp_path, monkeypatch):
    """Presets of our own, empty at first: a function that writes one."""
    monkeypatch.setattr(profiles, "_folder", lambda: tmp_path)
    for profile in ("quick", "sample", "paper"):
        (tmp_path / f"{profile}.yaml").write_text("defaults: {}\n")
    return lambda profile, content: (tmp_path / f"{profile}.yaml").write_text(yaml.safe_dump(content))


# ---- values

COERCED = [  # what papermill or a cell hands over, and what the notebook gets
    ("seed = '7'", "seed", 7),
    ("seed = 7.0", "seed", 7),
    ("lr = '1e-3'", "lr", 0.001),
    ("lr = 1", "lr", 1.0),
    ("fast = 'false'", "fast", False),
    ("fast = 'true'", "fast", True),
    ("fast = True", "fast", True),
    ("epochs = 'None'", "epochs", None),
    ("epochs = 'null'", "epochs", None),
    ("epochs = '12'", "epochs", 12),
    ("name = 'None'", "name", "None"),  # text stays text where None is not allowed
    ("methods = '[\"ro\"]'", "methods", ["ro"]),
    ("methods = \"['ro']\"", "methods", ["ro"]),
]


@pytest.mark.parametrize(("injected", "name", "value"), COERCED)
def test_text_of_the_command_line_becomes_the_declared_type(injected, name, value):
    got = getattr(check(injected=injected), name)
    assert got == value and type(got) is type(value)


REFUSED = [  # value, and what the message has to say about it
    ("seed = 1.5", "`seed`: expected int, got 1.5 (float, from papermill)"),
    ("seed = True", "`seed`: expected int, got True (bool"),
    ("lr = False", "`lr`: expected float, got False (bool"),
    ("lr = 'fast'", "`lr`: expected float, got 'fast' (str"),
    ("fast = 'fals'", "`fast`: expected bool, got 'fals' (str"),
    ("epochs = 1.5", "`epochs`: expected Optional[int], got 1.5 (float"),
    ("epochs = True", "`epochs`: expected Optional[int], got True (bool"),
    ("name = 10", "-r name 010"),
    ("name = None", "`name`: expected str, got no value"),
    ("methods = 'ro'", "`methods`: expected list[str], got 'ro' (str"),
]


@pytest.mark.parametrize(("injected", "message"), REFUSED)
def test_a_wrong_type_is_an_error_that_teaches(injected, message):
    with pytest.raises(params.ParameterError) as error:
        check(injected=injected)
    assert message in str(error.value)
    assert ("Give " in str(error.value)) or ("Pass one" in str(error.value))


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(params.ParameterError) as error:
        check(injected="seed = 'x'\nlr = 'y'")
    assert "`seed`" in str(error.value) and "`lr`" in str(error.value)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(), lr=st.floats(allow_nan=False), fast=st.booleans(), name=st.text())
def test_right_values_pass_unchanged(seed, lr, fast, name):
    P = params.check(executed(CELL) | {"seed": seed, "lr": lr, "fast": fast, "name": name}, NOTEBOOK)
    assert (P.seed, P.lr, P.fast, P.name) == (seed, lr, fast, name)


@settings(deadline=None, max_examples=30)
@given(value=st.booleans() | st.floats().filter(lambda v: v != v or v % 1 != 0) | st.lists(st.integers()))
def test_nothing_but_whole_numbers_becomes_an_int(value):
    with pytest.raises(params.ParameterError, match="`seed`: expected int"):
        params.check(executed(CELL) | {"seed": value}, NOTEBOOK)


# ---- names


def test_a_misspelt_name_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(params.ParameterError) as error:
        check(injected="sede = 3")
    message = str(error.value)
    assert "`sede`; did you mean `seed`?" in message
    for line in (
        "profile: str = 'quick'",
        "seed: int = 0",
        "epochs: Optional[int] = None",
        "lr: float = 0.001",
    ):
        assert line in message


def test_only_the_cell_of_papermill_is_held_to_the_names():
    namespace = executed(CELL, "width = 3", "# Parameters of the figure\nheight = 2", injected="seed = 1")
    assert params.check(namespace, NOTEBOOK).seed == 1


def test_an_edited_parameters_cell_replaces_what_papermill_put_in():
    namespace = executed(CELL, "# Parameters\ndepth = 3", CELL.replace("lr: float = 1e-3", "rate: float = 2"))
    P = params.check(namespace, NOTEBOOK)
    assert P.rate == 2.0 and "lr" not in P.asdict() and "depth" not in P.asdict()


def test_annotated_names_of_other_cells_are_no_parameters():
    assert "width" not in check("width: float = 3", CELL, "height: float = 2").asdict()


def test_annotations_that_nobody_evaluated_are_read_from_the_cells():
    namespace = executed(CELL)  # as on Python 3.14, where a kernel's namespace holds no annotations
    del namespace["__annotations__"], namespace["Optional"]
    assert params.check(namespace, NOTEBOOK).epochs is None


def test_plain_python_works_from_annotations():
    namespace = {
        "__annotations__": {"profile": str, "seed": int, "epochs": int | None, "lr": "float"},
        "profile": "quick",
        "seed": "3",
        "epochs": None,
        "lr": 1,
    }
    P = params.check(namespace, NOTEBOOK)
    assert P.asdict() == {"profile": "quick", "seed": 3, "epochs": None, "lr": 1.0}
    with pytest.raises(params.ParameterError, match=r"`epochs`: expected int \| None, got 'x'"):
        params.check(namespace | {"epochs": "x"}, NOTEBOOK)


def test_a_script_can_check_its_own_globals(tmp_path, monkeypatch):
    source = (
        f"{CELL}\nfrom flowood_core.notebook import params\nP = params.check(globals(), notebook='script')\n"
    )
    (tmp_path / "a_script.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("a_script").P.lr == 0.001


@pytest.mark.parametrize("source", ["steps: int = seed * 3", "steps: int = len('abc')"])
def test_a_computed_parameter_is_an_error(source):
    with pytest.raises(params.ParameterError, match="parameter `steps`: expected a literal"):
        check(CELL + source)


@pytest.mark.parametrize("name", ["notebook", "asdict", "_hidden"])
def test_a_parameter_cannot_take_a_name_that_the_result_uses(name):
    with pytest.raises(params.ParameterError, match=f"`{name}` cannot name a parameter"):
        check(CELL + f"{name}: int = 1")


def test_a_notebook_without_profile_or_with_an_unknown_type_is_told():
    with pytest.raises(params.ParameterError, match="expected `profile: str"):
        check("seed: int = 0")
    with pytest.raises(params.ParameterError, match="its type `Sausage` is unknown"):
        params.check({"In": ['profile: str = "quick"\nx: Sausage = 1'], "profile": "quick", "x": 1}, NOTEBOOK)


# ---- profiles


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        params.ParameterError, match=r"`papr`; did you mean `paper`\?\nProfiles: quick, sample, paper"
    ):
        check(injected="profile = 'papr'")
    with pytest.raises(params.ParameterError, match="`None`"):
        check(CELL.replace('profile: str = "quick"', "profile: str"))


def test_a_preset_fills_only_what_is_none(presets):
    presets("paper", {"defaults": {"epochs": 5, "lr": 9.0, "elsewhere": 1}, NOTEBOOK: {"epochs": "200"}})
    P = check(injected="profile = 'paper'")
    assert (P.epochs, P.lr) == (200, 0.001)
    assert check(injected="profile = 'paper'\nepochs = 3").epochs == 3
    assert check(injected="profile = 'paper'\nepochs = 'None'").epochs == 200
    assert params.check(executed(CELL, injected="profile = 'paper'"), "another").epochs == 5
    assert check().epochs is None  # quick says nothing


def test_a_preset_gives_a_value_to_a_parameter_that_must_have_one(presets):
    cell = CELL + "n_images: int = None\n"
    with pytest.raises(params.ParameterError, match=r"`n_images`: expected int, got no value.*profile quick"):
        check(cell)
    presets("quick", {"defaults": {"n_images": 64}})
    assert check(cell).n_images == 64


def test_a_preset_is_checked_like_any_value(presets):
    presets("quick", {"defaults": {"epochs": 1.5}})
    with pytest.raises(params.ParameterError, match=r"from profile quick, defaults.*profiles/quick\.yaml"):
        check()


def test_a_preset_for_a_name_the_notebook_does_not_declare_is_an_error(presets):
    presets("quick", {NOTEBOOK: {"epoch": 3}})
    with pytest.raises(params.ParameterError, match=r"quick\.yaml.*`epoch`; did you mean `epochs`"):
        check()


def test_a_broken_preset_is_named(presets, tmp_path):
    presets("quick", {"defaults": 3})
    with pytest.raises(params.ParameterError, match=r"quick\.yaml: expected a mapping under `defaults:`"):
        check()
    (tmp_path / "quick.yaml").write_text("defaults: [")
    with pytest.raises(params.ParameterError, match=r"quick\.yaml is no YAML"):
        check()


def test_the_presets_in_the_package_name_only_notebooks_and_parameters_that_exist(monkeypatch):
    monkeypatch.undo()  # the presets of the package
    cells = {}
    for source in sorted((paths.repo_root() / "nbs_src").glob("*.py")):
        tagged = [c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", ())]
        cells[source.stem] = {name for cell in tagged for name in params.declared_in(cell.source)}
    for profile in profiles.profiles():
        sections = profiles.preset(profile)
        defaults = sections.pop("defaults", {})
        sections = {name: part for name, part in sections.items() if name not in OF_THE_GRID}
        assert set(sections) <= set(cells), f"profiles/{profile}.yaml: no such notebook"
        assert set(defaults) <= set().union(*cells.values()), (
            f"profiles/{profile}.yaml: no notebook declares it"
        )
        for notebook, part in sections.items():
            assert set(part) <= cells[notebook], f"profiles/{profile}.yaml, {notebook}: not declared there"


# ---- the result


def test_the_result_does_not_change():
    P = check()
    with pytest.raises(AttributeError, match=r"papermill -p seed"):
        P.seed = 3
    with pytest.raises(AttributeError):
        del P.seed
    P.asdict()["methods"].append("x")
    P.methods.append("y")
    assert P.asdict()["methods"] == ["mle", "ccm"]
    assert copy.deepcopy(P).asdict() == P.asdict()


def test_the_result_shows_every_value_and_where_it_came_from(presets):
    presets("quick", {"defaults": {"epochs": 2}})
    P = check(injected="seed = 1")
    lines = {line.split()[0]: line for line in repr(P).splitlines()}
    assert P.notebook == NOTEBOOK and NOTEBOOK in repr(P)
    assert lines["seed"].split() == ["seed", "1", "int", "papermill"]
    assert lines["epochs"].split() == ["epochs", "2", "Optional[int]", "profile", "quick,", "defaults"]
    assert list(P.asdict()) == ["profile", "seed", "epochs", "lr", "fast", "name", "methods"]


# ---- a real papermill run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs a tiny notebook through papermill and gives back the text it printed."""
    folder: Path = tmp_path_factory.mktemp("papermill")
    cells = [
        nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from flowood_core.notebook import params\n"
            f"P = params.check(globals(), notebook={NOTEBOOK!r})\n"
            "print(P.asdict())"
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "tiny.ipynb"
    )

    def execute(**given) -> dict:
        done = papermill.execute_notebook(
            folder / "tiny.ipynb", folder / "out.ipynb", given, progress_bar=False, cwd=paths.repo_root()
        )
        return ast.literal_eval(
            "".join(o["text"] for o in done.cells[-1].outputs if o.get("name") == "stdout")
        )

    return execute


def test_papermill_sets_values_of_the_declared_types(run):
    got = run(seed="7", fast="false", epochs="3", lr="1e-2")
    assert (got["seed"], got["fast"], got["epochs"], got["lr"]) == (7, False, 3, 0.01)


def test_papermill_with_a_misspelt_name_fails_and_lists_the_valid_ones(run):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run(sede=3)
    assert "did you mean `seed`?" in str(error.value) and "epochs: Optional[int] = None" in str(error.value)


def test_papermill_with_a_mistyped_value_fails_and_says_what_to_do(run):
    with pytest.raises(papermill.PapermillExecutionError, match=r"`seed`: expected int, got 1\.5 \(float"):
        run(seed=1.5)
