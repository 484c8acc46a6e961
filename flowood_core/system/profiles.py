"""The profiles: one preset file each, which notebooks and the grid read."""

import copy
import functools
import importlib.resources
from typing import Any

import yaml

__all__ = ["ProfileError", "preset", "profiles"]

SIZES = ("smoke", "quick", "sample", "paper")


class ProfileError(ValueError):
    """There is no such profile, or its file is wrong; the message says what to do."""


def profiles() -> list[str]:
    """Names of the presets, smallest first."""
    return sorted((f.name[:-5] for f in _folder().iterdir() if f.name.endswith(".yaml")), key=_by_size)


@functools.lru_cache(maxsize=16)
def _loaded(text: str) -> Any:
    return yaml.safe_load(text) or {}  # 45 ms for a large preset, and a grid asks for it hundreds of times


def preset(profile: str) -> dict[str, dict[str, Any]]:
    """A preset as it stands in its file: ``defaults`` and one mapping per notebook.

    Raises:
        ProfileError: there is no such file, or it is no mapping of mappings.
    """
    file = _folder() / f"{profile}.yaml"
    if profile not in profiles():
        raise ProfileError(f"expected a profile out of {', '.join(profiles())}, got {profile!r}")
    try:
        content = copy.deepcopy(_loaded(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ProfileError(f"profiles/{profile}.yaml is no YAML: {error}") from error
    sections = {name: {} if part is None else part for name, part in dict(content).items()}
    for name, part in sections.items():
        if not isinstance(part, dict):
            raise ProfileError(
                f"profiles/{profile}.yaml: expected a mapping under `{name}:`, got {part!r}; "
                "write `name: value` lines under `defaults:` or under the name of a notebook"
            )
    return sections


def _folder() -> Any:
    return importlib.resources.files("flowood_core") / "profiles"


def _by_size(profile: str) -> tuple[int, str]:
    return (SIZES.index(profile) if profile in SIZES else len(SIZES)), profile
