"""Laws of the house: who imports whom, what an import costs, and what the describing files agree on."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import flowood_core
from flowood_core.system import paths

ROOT = paths.repo_root()
PACKAGE = ROOT / "flowood_core"
ROWS = [  # a room imports from lower rows only; those that stand in none (grid, page, ...) are above them all
    {"paths", "params", "progress", "files"},
    {"engine"},
    {
        "complexity",
        "metrics",
        "scores",
        "objective",
        "outliers",
        "lipschitz",
        "subnets",
        "registry",
        "backbones",
        "inputs",
        "play",
    },
    {"download", "fingerprint"},
    {"archives"},
    {"prepare"},
    {"flow", "datasets", "encoders", "report", "step"},
    {"feature_flows", "highdim"},
    {"train", "corpora", "adapt"},
    {"features"},
    {"runs", "correction", "bias"},
]
TOP = len(ROWS)
LAZY = {("outliers", "complexity")}  # within one row, but inside a function only: the default of an argument
OUTSIDE = {  # libraries that only these rooms know
    "matplotlib": {"report"},
    "seaborn": {"report"},
    "FrEIA": {"flow"},
}
# spelled in parts: this file is held to its own law
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "ana" + "conda.org",
    "ana" + "conda.com",
    "pytorch.org/" + "whl",
]


def room(path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def row(name: str) -> int:
    return next((n for n, names in enumerate(ROWS) if name in names), TOP)


def imported(path, inside_functions: bool = True) -> set[str]:
    """Absolute dotted names that a file imports, anywhere in it; `from a import b` counts as a.b."""
    package = ["flowood_core", *path.relative_to(PACKAGE).parts[:-1]]
    found, waiting = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {room(path) for path in MODULES} - {"__init__"}
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())


def rooms_used(path, inside_functions: bool = True) -> set[str]:
    own = [name.split(".") for name in imported(path, inside_functions)]
    return {parts[1] for parts in own if parts[0] == "flowood_core" and parts[1:2]} & ROOMS - {room(path)}


def allowed(path, name: str) -> bool:
    """May this file import that room: from a lower row, within the top, or lazily where a pair is listed."""
    mine, its = row(room(path)), row(name)
    lazy = (room(path), name) in LAZY and name not in rooms_used(path, inside_functions=False)
    return its < mine or its == mine == TOP or (its == mine and lazy)


@each_module
def test_a_room_imports_only_from_lower_rows(path):
    wrong = {name for name in rooms_used(path) if not allowed(path, name)}
    assert not wrong, f"{room(path)} (row {row(room(path))}) imports {sorted(wrong)}"


def test_a_listed_lazy_import_stays_inside_a_function(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    line = "from flowood_core.complexity import image_complexity\n"
    for name, text, verdict in [
        ("outliers", "def f():\n    " + line, True),
        ("outliers", line, False),
        ("outliers", line + "def f():\n    " + line, False),
        ("outliers", "class C:\n    " + line, False),
        ("scores", "def f():\n    " + line, False),
        ("datasets", line, True),
        ("runs", line, True),
    ]:
        file = tmp_path / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        assert rooms_used(file) == {"complexity"} and allowed(file, "complexity") == verdict, (name, text)


def test_the_rooms_above_the_rows_do_not_import_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        graph.setdefault(room(path), set()).update(rooms_used(path))
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@each_module
def test_each_outside_library_is_known_to_its_rooms_only(path):
    libraries = {name.split(".")[0] for name in imported(path)}
    wrong = {name for name in libraries if name in OUTSIDE and room(path) not in OUTSIDE[name]}
    assert not wrong, (
        f"{room(path)} imports {sorted(wrong)}; only {[sorted(OUTSIDE[n]) for n in sorted(wrong)]} may"
    )


@each_module
def test_every_file_opens_with_a_sentence(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.name} has no docstring"


def test_importing_the_package_is_cheap():
    heavy = {"torch", "matplotlib", "numpy", "pandas"}
    code = f"import sys, flowood_core; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- paths


def test_paths_follow_the_environment_at_call_time(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWOOD_ROOT", str(tmp_path))
    monkeypatch.delenv("FLOWOOD_DATA", raising=False)
    monkeypatch.setenv("FLOWOOD_OUTPUTS", "elsewhere")
    assert paths.repo_root() == tmp_path.resolve()
    assert paths.data_root() == tmp_path.resolve() / "data"
    assert paths.profile_dir("quick") == tmp_path.resolve() / "elsewhere" / "quick"


def test_a_relative_data_root_does_not_depend_on_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWOOD_ROOT", raising=False)
    monkeypatch.setenv("FLOWOOD_DATA", "../prepared")
    before = paths.data_root()
    monkeypatch.chdir(tmp_path)
    assert paths.data_root() == before == ROOT.parent / "prepared"


def test_the_printed_numbers_stay_with_the_paper(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWOOD_DATA", str(tmp_path))
    assert (paths.paper_root() / "table_2.csv").is_file()
    monkeypatch.setenv("FLOWOOD_ROOT", str(tmp_path))  # no checkout: the copy in the installed package
    assert paths.paper_root() == PACKAGE / "_paper"


# ---- files that must agree


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_one(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == flowood_core.__version__ == citation["version"]


def test_the_conda_file_agrees_with_the_project(project):
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    python = next(d for d in dependencies if isinstance(d, str) and d.startswith("python="))
    assert SpecifierSet(project["requires-python"]).contains(python.split("=")[1])
    (editable,) = next(d["pip"] for d in dependencies if isinstance(d, dict))
    extras = set(re.fullmatch(r"-e \.\[(.*)\]", editable)[1].split(","))
    assert extras == {"lab", "text", "grid"} and extras <= set(project["optional-dependencies"])


def test_the_core_installs_beside_a_hosted_notebook(project):
    """Those runtimes pin an old ipykernel: a Jupyter package in the core could not be installed there."""
    core = {Requirement(line).name.lower() for line in project["dependencies"]}
    assert not core & {
        "jupyter",
        "jupyterlab",
        "jupytext",
        "papermill",
        "ipykernel",
        "nbconvert",
        "nbformat",
        "notebook",
    }
    capped = [line for line in project["dependencies"] if re.search(r"[<=~]=|<", line.replace(">=", ""))]
    assert not capped, "floors, no caps"


def test_the_lock_holds_every_dependency_by_hash_and_no_address(project):
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    wrong = [
        line
        for line in lock.splitlines()
        if re.search(r"--(extra-)?index|--find-links|://|file:|^-e|@ ", line)
    ]
    assert not wrong, wrong[:3]
    entries = re.split(r"\n(?=[a-z0-9])", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    locked: dict[str, list[str]] = {}
    for entry in entries:
        name, version = re.match(r"([a-z0-9._-]+)==([^\s;]+)", entry).groups()
        locked.setdefault(name, []).append(version)
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        versions = locked.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])
        assert versions and all(v in requirement.specifier for v in versions), (
            f"run `make lock`: {requirement}"
        )


def test_no_file_names_a_registry_or_this_machine():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: no list of the project's files")
    wrong = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        names = [*REGISTRIES, *([str(ROOT)] if len(ROOT.parts) > 2 else [])]
        wrong += [f"{name}: {word}" for word in names if word.encode() in content]
    assert not wrong, wrong
