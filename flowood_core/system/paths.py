"""Where things lie. Every folder is spelled once, here, and looked up when asked for.

A relative path in FLOWOOD_DATA or FLOWOOD_OUTPUTS counts from the root of the repository, not from the
working folder: Jupyter starts kernels in ``notebooks/``, papermill and Snakemake in the root, and one setting
must serve all.
"""

import os
import tomllib
from pathlib import Path

__all__ = ["data_root", "data_roots", "is_offline", "outputs_root", "paper_root", "profile_dir", "repo_root"]

PACKAGE = Path(__file__).resolve().parent.parent
PROJECT = "flowood-core"


def repo_root() -> Path:
    """Root of the repository.

    FLOWOOD_ROOT, else the folder above the package when that is a checkout, else the nearest folder at or
    above the working folder that is one, else the working folder (an installed package without a checkout).
    """
    if value := os.environ.get("FLOWOOD_ROOT"):
        return Path(value).expanduser().resolve()
    cwd = Path.cwd()
    return next((p for p in (PACKAGE.parent, cwd, *cwd.parents) if _is_checkout(p)), cwd)


def data_root() -> Path:
    """Root of the prepared data: FLOWOOD_DATA, else ``data/``."""
    return _from_env("FLOWOOD_DATA", "data")


def data_roots() -> tuple[Path, ...]:
    """Where prepared data is looked for; the last of them is where a download goes.

    The data root alone, and behind it ``data/`` of the repository where the data root is read-only: a lab's
    common folder that lacks a set.
    """
    root, own = data_root(), repo_root() / "data"
    return (root,) if root == own.resolve() or _takes_files(root) else (root, own)


def is_offline() -> bool:
    """Whether FLOWOOD_OFFLINE forbids downloads; unset, empty and "0" mean that it does not."""
    return os.environ.get("FLOWOOD_OFFLINE", "") not in ("", "0")


def outputs_root() -> Path:
    """Root of everything a run leaves: FLOWOOD_OUTPUTS, else ``outputs/``."""
    return _from_env("FLOWOOD_OUTPUTS", "outputs")


def profile_dir(profile: str) -> Path:
    """Folder of one profile's runs, tables, figures and report."""
    return outputs_root() / profile


def paper_root() -> Path:
    """The paper's printed numbers: ``data/paper`` of the checkout, else the copy in the package.

    FLOWOOD_DATA does not move it: a root of prepared data holds no printed numbers.
    """
    in_checkout = repo_root() / "data" / "paper"
    return in_checkout if in_checkout.is_dir() else PACKAGE / "_paper"


def _from_env(variable: str, default: str) -> Path:
    return (repo_root() / Path(os.environ.get(variable) or default).expanduser()).resolve()


def _takes_files(folder: Path) -> bool:
    """Writable, or could be made. No write bit means no, though the superuser might write all the same."""
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    return os.access(nearest, os.W_OK) and bool(nearest.stat().st_mode & 0o222)


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    return project.get("name") == PROJECT
