"""The kinds of runs, and reading any of them from its fields."""

from collections.abc import Mapping
from typing import Any

import pydantic

from flowood_core.runs.maps import Maps
from flowood_core.runs.pixels import Pixels
from flowood_core.runs.spec import Spec
from flowood_core.runs.texts import Texts

__all__ = ["KINDS", "Kind", "kind_of", "read"]

KINDS: dict[str, type[Spec]] = {"pixels": Pixels, "maps": Maps, "texts": Texts}
Kind = Pixels | Maps | Texts

# Runs made when all kinds shared one class name every field, those of other kinds at the value that says nothing.
_SAYS_NOTHING = {"model": "pixels", "backbone": None, "image_size": None, "encoder": None}


def kind_of(fields: Mapping[str, Any]) -> str:
    """Which kind a mapping of fields describes: an encoder makes it texts, a model maps, neither pixels."""
    if fields.get("encoder") is not None:
        return "texts"
    return "maps" if fields.get("model", "pixels") != "pixels" else "pixels"


def read(fields: Mapping[str, Any]) -> Kind:
    """A spec from its fields, as they stand in spec.json.

    Raises:
        pydantic.ValidationError: an unknown field, or one of another kind that says something.
    """
    kind = KINDS[kind_of(fields)]
    return kind.model_validate(
        {k: v for k, v in fields.items() if k in kind.model_fields or not _silent(k, v)}
    )


def _silent(name: str, value: Any) -> bool:
    """Whether a field of another kind says nothing."""
    if name in _SAYS_NOTHING:
        return value == _SAYS_NOTHING[name]
    others = [kind.model_fields[name] for kind in KINDS.values() if name in kind.model_fields]
    return any(value == _plain(field) for field in others)


def _plain(field: pydantic.fields.FieldInfo) -> Any:
    default = field.get_default()
    return list(default) if isinstance(default, tuple) else default
