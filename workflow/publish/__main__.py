"""README's headline, RESULTS.md and FINDINGS.md from the committed runs, in one go (`make readme`).

python -m workflow.publish            writes them
python -m workflow.publish --check    says which of them are not what the runs say
"""

import sys
from collections.abc import Sequence

from flowood_core.system import paths
from workflow.publish import findings, results

__all__ = ["main", "pages"]


def pages() -> dict[str, str]:
    """Content by name of the page."""
    readme = (paths.repo_root() / "README.md").read_text("utf-8")
    return {
        "README.md": results.updated(readme, results.headline()),
        "RESULTS.md": results.page(),
        "FINDINGS.md": findings.page(),
    }


def main(arguments: Sequence[str]) -> int:
    stale = []
    for name, text in pages().items():
        path = paths.repo_root() / name
        if not path.is_file() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if "--check" in arguments:
        print(f"{', '.join(stale)}: stale, make readme" if stale else "the pages are what the runs say")
        return int(bool(stale))
    print(f"written from the runs below {paths.outputs_root().name}: {', '.join(stale) or 'nothing new'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
