"""The commands: ``python -m flowood_core data | train | score | status | site``; each has ``--help``."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all went well, 1 where something it names failed."""
    parser = argparse.ArgumentParser(prog="python -m flowood_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_data, _train, _score, _status, _site):
        add(commands)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


def _data(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands, "data", _prepare, "fetch and prepare sets by name; without names, what is here"
    )
    command.add_argument("sets", nargs="*", metavar="SET")
    command.add_argument("--anyway", action="store_true", help="keep images that the fingerprint refuses")


def _prepare(chosen: argparse.Namespace) -> int:
    from flowood_core.datasets import corpora, highdim, prepare, registry
    from flowood_core.datasets.download import DownloadError
    from flowood_core.datasets.readers import BadArchive

    by_name: dict[str, Callable] = {name: corpora.prepare for name in registry.TEXTS}
    by_name |= {name: highdim.prepare for name in highdim.SETS}
    by_name |= {name: lambda name: prepare.prepare(name, anyway=chosen.anyway) for name in registry.SETS}
    if unknown := [name for name in chosen.sets if name not in by_name]:
        print(f"expected sets out of {', '.join(by_name)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    failed = False
    for name in chosen.sets:
        try:
            print(f"{name}: ready in {by_name[name](name)}", flush=True)
        except (prepare.PrepareError, DownloadError, BadArchive) as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    if not chosen.sets:
        print("\n".join(prepare.status_lines()))
    return int(failed)


def _train(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands, "train", _train_missing, "the missing runs of a profile, side by side on a GPU"
    )
    _profile(command)
    command.add_argument("--tables", nargs="*", metavar="TABLE", help="of the grid; all by default")
    command.add_argument("--at-once", type=int, help="runs side by side; 8 on a GPU, 1 on a processor")


def _train_missing(chosen: argparse.Namespace) -> int:
    """Killed, it continues where each run stood; `make reproduce` finds done what this trains."""
    from flowood_core import runs
    from flowood_core.runs import grid

    try:
        tables = chosen.tables or grid.tables(chosen.profile)
        specs = {spec.run_id: spec for table in tables for spec in grid.rows(chosen.profile, table)}
        missing = [spec for spec in specs.values() if not runs.RunFolder(spec).is_done()]
        print(f"{chosen.profile}: {len(specs)} runs, {len(missing)} to train on {runs.device()}", flush=True)
        began = time.monotonic()
        runs.run_together(missing, at_once=chosen.at_once)
    except (ValueError, runs.RunError, FloatingPointError, FileNotFoundError, *runs.NOT_HERE) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - began:.0f} s; make reproduce PROFILE={chosen.profile} does the rest")
    return 0


def _score(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands, "score", _score_lacking, "finished runs on test sets that they lack, from their weights"
    )
    _profile(command)


def _score_lacking(chosen: argparse.Namespace) -> int:
    """Trains nothing; a run without its weights stays as it is, and the command fails."""
    from flowood_core import runs
    from flowood_core.runs import grid

    failed = False
    for spec in grid.by_run_id(chosen.profile).values():
        run = runs.Run.read(spec)
        if run is None or not run.absent:
            continue
        try:
            now = runs.score_arrivals(run)
        except runs.RunError as error:
            failed = True
            print(f"{spec.run_id}: {error}", file=sys.stderr, flush=True)
            continue
        scored = ", ".join(name for name in run.absent if name not in now.absent)
        print(f"{spec.run_id}: {scored or 'nothing new'}", flush=True)
    return int(failed)


def _status(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands, "status", _print_status, "which runs are done, running or missing, and how long is left"
    )
    _profile(command)
    command.add_argument("--page", action="store_true", help="also as a page of the site")
    command.add_argument("--watch", action="store_true", help="again every ten seconds, until interrupted")


def _print_status(chosen: argparse.Namespace) -> int:
    from flowood_core.evidence import site
    from flowood_core.runs import status

    print(status.describe(chosen.profile), flush=True)
    if chosen.page:
        print(site.build_status(chosen.profile))
    while chosen.watch:
        time.sleep(10)
        print(status.describe(chosen.profile), flush=True)
    return 0


def _site(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands, "site", _build_site, "claim, figures, tables and notebooks of a profile as one static site"
    )
    _profile(command)


def _build_site(chosen: argparse.Namespace) -> int:
    from flowood_core.evidence import site
    from flowood_core.system.profiles import ProfileError

    try:
        print(site.build(chosen.profile))
    except (FileNotFoundError, ProfileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    return command


def _profile(command: argparse.ArgumentParser) -> None:
    command.add_argument("profile", nargs="?", default="quick")


if __name__ == "__main__":
    sys.exit(main())
