"""Executed notebooks as they are committed: what a reader sees, and nothing of the machine that made them.

python -m workflow.publish.executed            outputs/sample/notebooks/*.ipynb, cleaned, to outputs/sample/executed

The repository's own viewer then shows every figure where it belongs, without anything being run. The two folders are
apart so that running a notebook again changes no committed file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["LARGEST", "cleaned", "main", "with_prose"]

LARGEST = 1_500_000  # bytes of one notebook
KEPT = ("kernelspec", "language_info")


def cleaned(notebook: Any, root: Path) -> Any:
    """The notebook without times, paths of this machine, warnings and progress; its outputs stay as they are.

    Args:
        notebook: an executed nbformat notebook; a copy is returned.
        root: every path below it is told from there.
    Raises:
        ValueError: a cell ended with an error, or was never executed: nobody should read half a notebook.
    """
    made = nbformat.from_dict(notebook)
    made.metadata = {name: made.metadata[name] for name in KEPT if name in made.metadata}
    for number, cell in enumerate(made.cells):
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            _check(cell, number)
            cell.outputs = [_told_from(o, root) for o in cell.outputs if not _is_noise(o)]
    return made


def with_prose(ran: Any, source: Any) -> Any:
    """The executed notebook with today's prose, where its code is today's to the letter; else as it ran.

    Args:
        ran: from `cleaned`. source: the notebook as committed, not executed.
    """
    own = [c for c in ran.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    if [c.cell_type for c in own] != [c.cell_type for c in source.cells]:
        return ran
    pairs = list(zip(own, source.cells, strict=True))
    if all(a.source == b.source for a, b in pairs if a.cell_type == "code"):
        for mine, today in pairs:
            mine.source = today.source
    return ran


def _check(cell: Any, number: int) -> None:
    if any(o.output_type == "error" for o in cell.outputs):
        raise ValueError(
            f"expected a notebook that ran to its end, got an error in cell {number}; run it again"
        )
    if cell.source.strip() and cell.get("execution_count") is None:
        raise ValueError(f"expected an executed notebook, cell {number} was not; run it to its end")


def _is_noise(output: Any) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def _told_from(output: Any, root: Path) -> Any:
    here = f"{root}/"

    def short(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(here, "")
        if isinstance(value, list):
            return [short(v) for v in value]
        return {k: short(v) for k, v in value.items()} if isinstance(value, dict) else value

    return nbformat.from_dict(short(output))


def main(arguments: Sequence[str]) -> int:
    profile = arguments[0] if arguments else "sample"
    folder = paths.profile_dir(profile)
    (folder / "executed").mkdir(exist_ok=True)
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        try:
            made = cleaned(nbformat.read(path, 4), paths.repo_root())
            source = nbformat.read(paths.repo_root() / "notebooks" / path.name, 4)
        except ValueError as error:
            print(f"{path.name}: left out, {error}")
            continue
        text = nbformat.writes(with_prose(made, source))
        if len(text) > LARGEST:
            raise ValueError(
                f"expected at most {LARGEST:,} bytes, {path.name} has {len(text):,}: smaller figures"
            )
        write_atomically(folder / "executed" / path.name, f"{text}\n".encode())
        print(f"{path.name}: {len(text):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
