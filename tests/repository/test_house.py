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
# A file's row is its folder; what lies at the root, outliers/ and train/ are the paper. A folder imports from lower
# rows only, its own files in no circle. Folders of one row do not know each other.
ROWS = [
    {"system"},
    {"engine", "notebook"},
    {"paper"},
    {"features", "datasets"},
    {"runs", "anyflow"},
    {"evidence"},
]
PAPER = {"outliers", "train"}
NOT_BY = {"paper": {"notebook"}}  # of a lower row, and yet not for them
OUTSIDE = {  # libraries that only these rooms know
    "matplotlib": {"notebook/figures.py", "notebook/bias_figures.py"},
    "seaborn": {"notebook/figures.py", "notebook/bias_figures.py"},
    "FrEIA": {"flow.py"},
}
# spelled in parts: this file is held to its own law
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "ana" + "conda.org",
    "ana" + "conda.com",
    "pytorch.org/" + "whl",
]


def wing(parts: tuple[str, ...]) -> str:
    """The folder of a file or module below the package, by its parts; "paper" for the root."""
    return parts[0] if len(parts) > 1 and parts[0] not in PAPER else "paper"


def row(name: str) -> int:
    (found,) = [n for n, names in enumerate(ROWS) if name in names]
    return found


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
DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # they open every folder, lazily
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())


def used(path) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports, each by its parts below the package."""
    found = set()
    for name in imported(path):
        parts = tuple(name.split("."))[1:] if name.startswith("flowood_core.") else ()
        while parts and not (_is_folder(parts) or PACKAGE.joinpath(*parts).with_suffix(".py").is_file()):
            parts = parts[:-1]
        if parts:
            found.add((*parts, "__init__") if _is_folder(parts) else parts)
    return found


def _is_folder(parts: tuple[str, ...]) -> bool:
    return PACKAGE.joinpath(*parts).is_dir()


def may(mine: str, its: str) -> bool:
    return (mine == its or row(its) < row(mine)) and its not in NOT_BY.get(mine, ())


@pytest.mark.parametrize("path", sorted({*MODULES} - DOORS), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_folder_imports_only_from_lower_rows(path):
    mine = wing(path.relative_to(PACKAGE).with_suffix("").parts)
    wrong = {".".join(parts) for parts in used(path) if not may(mine, wing(parts))}
    assert not wrong, f"{mine} (row {row(mine)}) imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("mine", "its", "verdict"),
    [
        ("paper", "engine", True),
        ("paper", "notebook", False),
        ("paper", "features", False),
        ("engine", "notebook", False),
        ("runs", "anyflow", False),
        ("runs", "runs", True),
        ("evidence", "runs", True),
        ("datasets", "paper", True),
    ],
)
def test_the_law_tells_right_from_wrong(mine, its, verdict):
    assert may(mine, its) == verdict


def test_no_two_files_import_each_other_in_a_circle():
    graph = {p.relative_to(PACKAGE).with_suffix("").parts: used(p) for p in MODULES if p not in DOORS}
    inits = {parts for parts in graph if parts[-1] == "__init__"}
    # a folder's __init__ names its own files; they import each other, never their own front page
    graph = {parts: needs - {(*parts[:-1], "__init__")} for parts, needs in graph.items()}
    assert inits
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@each_module
def test_each_outside_library_is_known_to_its_rooms_only(path):
    libraries = {name.split(".")[0] for name in imported(path)}
    here = path.relative_to(PACKAGE).as_posix()
    wrong = {name for name in libraries if name in OUTSIDE and here not in OUTSIDE[name]}
    assert not wrong, (
        f"{here} imports {sorted(wrong)}; only {[sorted(OUTSIDE[n]) for n in sorted(wrong)]} may"
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


def test_no_two_test_files_have_one_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest cannot collect them together"
