"""Executed notebooks as they are committed: what a reader sees, and nothing of the machine that made them.

python -m workflow.publish.executed            cleans outputs/sample/notebooks/*.ipynb where they lie

The repository's own viewer then shows every figure where it belongs, without anything being run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from flowood_core.system import paths

__all__ = ["LARGEST", "cleaned", "main"]

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
    for path in sorted((paths.profile_dir(profile) / "notebooks").glob("*.ipynb")):
        text = nbformat.writes(cleaned(nbformat.read(path, 4), paths.repo_root()))
        if len(text) > LARGEST:
            raise ValueError(
                f"{path.name} has {len(text):,} bytes, more than {LARGEST:,}: make its figures smaller"
            )
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {len(text):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
