"""The grid: which runs a profile's tables and figures are made of.

A preset (``flowood_core/profiles/<profile>.yaml``) has three sections for it. ``runs:`` holds fields shared by all
runs, and under ``pixels:``, ``maps:`` and ``texts:`` those of one kind; ``runs_by_id:`` holds fields for one ID set.
``grid:`` names the tables. Every field of an entry may be a list, and the rows of the table are their product; a
table that is no rectangle is a list of such entries. In a name of ``ood:``, {id} stands for the ID set. A name that
is no field of the kind is refused before anything starts.

``scored_later:`` names, by ID set, test sets that came to hand when runs were made (`Spec.later`). They stand beside
the ``ood:`` of the tables, which is part of a run's id, and never become a pool of real outliers. The command
``python -m flowood_core score`` scores finished runs on them.
"""

import itertools
from typing import Any

import pydantic

from flowood_core.runs.kinds import KINDS, Kind, kind_of
from flowood_core.runs.run import Run
from flowood_core.system.profiles import preset

__all__ = ["GridError", "by_run_id", "finished", "rows", "spec", "tables"]


class GridError(ValueError):
    """The grid of a preset is wrong, or has no such row."""


def tables(profile: str) -> list[str]:
    """Names of the tables and figures that are made of runs."""
    return list(preset(profile).get("grid", {}))


def rows(profile: str, table: str) -> list[Kind]:
    """The runs of one table, in the order of the preset."""
    grid = preset(profile).get("grid", {})
    if table not in grid:
        raise GridError(f"profile {profile!r} has no grid for {table!r}; it has {', '.join(grid) or 'none'}")
    return [row for entry in _as_list(grid[table]) for row in _product(profile, dict(entry))]


def finished(profile: str, table: str) -> list[Run]:
    """The runs of one table that are done, in its order; none where the profile has no such table. Trains nothing."""
    if table not in tables(profile):
        return []
    return [run for row in rows(profile, table) if (run := Run.read(row)) is not None]


def _product(profile: str, entry: dict[str, Any]) -> list[Kind]:
    ids = _as_list(entry.pop("id"))
    entry.pop("ood", None)
    names = list(entry)
    return [
        spec(profile, id_, **dict(zip(names, values, strict=True)))
        for id_ in ids
        for values in itertools.product(*[_as_list(entry[name]) for name in names])
    ]


def spec(profile: str, id: str, **fields: Any) -> Kind:
    """One run with the profile's settings; `fields` override them (fields of its kind of run).

    The test sets are all that any table of the profile shows for this ID set, so that tables share runs.
    """
    sections = preset(profile)
    settings = sections.get("runs_by_id", {}).get(id, {})
    settings = settings | {name: value for name, value in fields.items() if value is not None}
    kind = kind_of(settings)
    settings = _shared(sections.get("runs", {}), kind) | settings
    settings.setdefault("ood", _ood(profile, id))
    if settings.get("method") == "ro":
        settings.setdefault("ro_pool", settings["ood"])
    else:
        settings.pop("ro_pool", None)
    try:
        return KINDS[kind](profile=profile, id=id, **settings)
    except pydantic.ValidationError as e:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in e.errors())
        raise GridError(
            f"profiles/{profile}.yaml asks for a run on {kind} that cannot be: {problems}. "
            f"Fields: {', '.join(KINDS[kind].model_fields)}"
        ) from e


def _shared(runs: dict[str, Any], kind: str) -> dict[str, Any]:
    """The fields that all runs of a profile have, with those of this kind."""
    return {name: value for name, value in runs.items() if name not in KINDS} | runs.get(kind, {})


def by_run_id(profile: str) -> dict[str, Kind]:
    """Every run of the profile once, by id."""
    return {s.run_id: s for table in tables(profile) for s in rows(profile, table)}


def _ood(profile: str, id: str) -> tuple[str, ...]:
    grid = preset(profile).get("grid", {})
    entries = [entry for table in grid.values() for entry in _as_list(table)]
    mine = [entry for entry in entries if id in _as_list(entry["id"])]
    named = [name.replace("{id}", id) for entry in mine for name in entry.get("ood", [])]
    return tuple(name for name in dict.fromkeys(named) if name != id)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
