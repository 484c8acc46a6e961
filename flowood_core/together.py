"""Every run of a profile that is missing, several side by side where a GPU has room: ``make train PROFILE=paper``.

One after another the runs of a table leave most of a GPU idle. What this trains, `make reproduce` finds done and only
executes the notebooks. Killed, it continues where each run stood.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from flowood_core import grid, runs

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where the profile, a table or a run is wrong."""
    parser = argparse.ArgumentParser(prog="make train", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--tables", nargs="*", metavar="TABLE", help="of the grid; all by default")
    parser.add_argument("--at-once", type=int, help="runs side by side; 8 on a GPU, 1 on a processor")
    chosen = parser.parse_args(arguments)
    try:
        tables = chosen.tables or grid.tables(chosen.profile)
        specs = {spec.run_id: spec for table in tables for spec in grid.rows(chosen.profile, table)}
        missing = [spec for spec in specs.values() if not (spec.folder / "metrics.json").is_file()]
        print(f"{chosen.profile}: {len(specs)} runs, {len(missing)} to train on {runs.device()}", flush=True)
        began = time.monotonic()
        runs.run_together(missing, at_once=chosen.at_once)
    except (ValueError, runs.RunError, FloatingPointError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - began:.0f} s; make reproduce PROFILE={chosen.profile} does the rest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
