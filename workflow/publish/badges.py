"""The project's home, stamped where it has to be spelled: `make badges` takes it from the git remote.

``[project.urls] Repository`` in pyproject.toml is the one place that names it; bootstrap cells and Colab badges of
nbs_src/*.py and README.md are made from there, and the notebooks from those by `make notebooks`.
"""

import argparse
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["BadgeError", "badge", "home_of", "ref_of", "stamp"]

BOOTSTRAP = re.compile(r'^REPO, REF = "[^"]*", "[^"]*"', re.M)
BADGE = re.compile(r"^\[!\[Open In Colab\].*\n\n?", re.M)
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"


class BadgeError(RuntimeError):
    """There is no address to stamp; the message says what to do."""


def home_of(remote: str) -> str:
    """The https address of a git remote, without user names, tokens and ``.git``.

    Raises:
        BadgeError: a folder, or something nobody else can reach.

    >>> home_of("git@github.com:someone/flowood.git")
    'https://github.com/someone/flowood'
    """
    remote = remote.strip()
    if short := re.fullmatch(r"(?:[\w.-]+@)([\w.-]+):(?!//)(.+)", remote):  # git@host:owner/name.git
        host, path = short.groups()
    else:
        parts = urlsplit(remote)
        host, path = parts.hostname or "", parts.path
        if parts.scheme not in ("http", "https", "ssh", "git") or not host:
            raise BadgeError(
                f"expected a remote that others can reach, such as https://github.com/OWNER/REPO, got {remote!r}; "
                "git remote set-url origin ..., then make badges again"
            )
    path = path.strip("/").removesuffix(".git")
    if path.count("/") < 1:
        raise BadgeError(f"expected a remote with owner and name, got {remote!r}")
    return f"https://{host}/{path}"


def ref_of(root: Path) -> str:
    """The tag that stands on this commit, else the branch. pip knows no HEAD.

    Raises:
        BadgeError: neither.
    """
    for command in (["describe", "--tags", "--exact-match"], ["symbolic-ref", "--short", "HEAD"]):
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    raise BadgeError("expected a tag or a branch to point at, got a detached commit; git switch main")


def badge(home: str, ref: str, name: str) -> str:
    """Markdown of the badge that opens a notebook in Colab; empty where Colab cannot read from."""
    parts = urlsplit(home)
    if parts.hostname != "github.com":
        return ""
    address = f"https://colab.research.google.com/github{parts.path}/blob/{ref}/notebooks/{name}.ipynb"
    return f"[![Open In Colab]({PICTURE})]({address})"


def stamp(root: Path, home: str, ref: str) -> list[str]:
    """Write address and badges into pyproject.toml, nbs_src/*.py and README.md; returns the files that changed.

    Stamping again with another address replaces the first; with the same it changes nothing.

    Raises:
        BadgeError: a source has no bootstrap line or no title to put the badge below.
    """
    new: dict[Path, str] = {}
    project = root / "pyproject.toml"
    new[project] = re.sub(
        r'^Repository = "[^"]*"', f'Repository = "{home}"', project.read_text("utf-8"), flags=re.M
    )
    for source in sorted((root / "nbs_src").glob("*.py")):
        text, n = BOOTSTRAP.subn(f'REPO, REF = "{home}", "{ref}"', source.read_text("utf-8"))
        if n != 1:
            raise BadgeError(
                f"expected one line `REPO, REF = ...` in {source.name}, got {n}; copy another's bootstrap"
            )
        new[source] = _below_title(text, badge(home, ref, source.stem), source.name, r'^r?"""\n# .*\n')
    readme = root / "README.md"
    new[readme] = _below_title(
        readme.read_text("utf-8"), badge(home, ref, "00_start_here"), readme.name, r"\A# .*\n"
    )
    changed = [path for path, text in new.items() if text != path.read_text("utf-8")]
    for path in changed:
        write_atomically(path, new[path].encode())
    return [path.relative_to(root).as_posix() for path in changed]


def _below_title(text: str, line: str, name: str, title: str) -> str:
    text = BADGE.sub("", text, count=1)
    found = re.search(title, text, re.M)
    if not found:
        raise BadgeError(f"expected {name} to begin with a title, found none to put the badge below")
    return text[: found.end()] + (f"{line}\n\n" if line else "") + text[found.end() :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remote", help="address to stamp instead of that of the remote origin")
    remote, root = parser.parse_args().remote, paths.repo_root()
    try:
        if remote is None:
            done = subprocess.run(
                ["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True
            )
            if done.returncode:
                raise BadgeError(
                    "expected a git remote named origin, found none; git remote add origin "
                    "https://github.com/OWNER/REPO, then make badges again"
                )
            remote = done.stdout
        home, ref = home_of(remote), ref_of(root)
        changed = stamp(root, home, ref)
    except BadgeError as error:
        raise SystemExit(f"make badges: {error}") from error
    print(f"{home} at {ref}: {len(changed)} files changed")


if __name__ == "__main__":
    main()
