"""The parameters of a notebook, made safe: papermill lets misspelt names and mistyped values through.

A notebook has one cell tagged ``parameters`` with annotated literals, and the next code cell says
``P = params.check(globals(), notebook="02_3_learning_objective")``. From there on the notebook reads
``P.seed`` and never the bare name.
"""

import ast
import builtins
import copy
import difflib
import functools
import json
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import pydantic

from flowood_core.system import profiles

__all__ = ["Declared", "ParameterError", "Parameters", "check", "declared_in"]

INJECTED = "# Parameters"  # first line of the cell that papermill puts in
NONE = ("None", "none", "null")  # what `papermill -p name None` and its spellings leave behind, as text
RESERVED = ("asdict", "notebook")
EXAMPLES = {
    int: "a whole number such as 3",
    float: "a number such as 0.001",
    bool: "True or False",
    str: "text (papermill reads -p name 010 as a number; -r name 010 keeps it text)",
    list: "a list (papermill: -y 'name: [a, b]')",
    dict: "a mapping (papermill: -y 'name: {a: 1}')",
}


class ParameterError(ValueError):
    """A parameter is unknown, mistyped or missing; the message says which, and what to do."""


@dataclass(frozen=True)
class Declared:
    """One line of the parameters cell: its type as written, and its default."""

    type_text: str
    default: Any


class Parameters:
    """Checked parameters of one notebook: read as attributes, shown as a table, never changed."""

    def __init__(self, notebook: str, values: Mapping[str, Any], table: Iterable[tuple[str, ...]]) -> None:
        self.__dict__.update(values)
        self.__dict__.update(_notebook=notebook, _values=copy.deepcopy(dict(values)), _table=tuple(table))

    @property
    def notebook(self) -> str:
        """Name of the notebook that declared the parameters."""
        return self._notebook

    def asdict(self) -> dict[str, Any]:
        """A copy, name to value, in the order of the parameters cell: what a run records."""
        return copy.deepcopy(self._values)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"parameters do not change once checked; set `{name}` in the cell tagged `parameters` "
            f"(or with papermill -p {name} ...) and run again"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        rows = [("parameter", "value", "type", "from"), *self._table]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)
        return "\n".join([f"Parameters of {self._notebook}", *lines])


def check(namespace: Mapping[str, Any], notebook: str) -> Parameters:
    """Check the parameters of a notebook and fill what is None from its profile.

    A value comes from papermill, else from the parameters cell; where it is None, from the profile's mapping
    for this notebook, else from the profile's ``defaults``. Text is read as the declared type (papermill
    passes ``false`` as text), but 1.5 is no int and True is no number.

    Args:
        namespace: `globals()` of the notebook, right after the parameters cell.
        notebook: file name of the notebook without its suffix.
    Raises:
        ParameterError: a name that the parameters cell does not declare (papermill itself only warns and runs
            on with the default), a value of the wrong type, an unknown profile, a preset for a name that this
            notebook does not declare, or a parameter that has no value.
    """
    declared, injected = _read(namespace)
    listing = _listing(declared)
    if reserved := [name for name in declared if name in RESERVED or name.startswith("_")]:
        raise ParameterError(f"{notebook}: {_names(reserved)} cannot name a parameter; choose another name")
    if "profile" not in declared:
        raise ParameterError(
            f'{notebook}: expected `profile: str = "quick"` among the parameters, '
            f"got {_names(declared) or 'none'}; declare it in the cell tagged `parameters`, "
            "and call check in the next cell"
        )
    if unknown := [name for name in injected if name not in declared]:
        lines = [f"{notebook} has no parameter {_nearest(name, declared)}" for name in unknown]
        raise ParameterError("\n".join([*lines, listing]))

    chosen, settings = _profile(namespace.get("profile"), notebook, declared)
    hints = {name: _type(d.type_text, name, namespace) for name, d in declared.items()}
    values, origins = {}, {}
    for name, hint in hints.items():
        value = _plain(namespace.get(name), hint)
        origin = "papermill" if name in injected else "notebook"
        if value is None and name in settings:
            value, origin = settings[name]
            value = _plain(value, hint)
        values[name], origins[name] = value, origin

    checked = _validated(values, hints, origins, declared, notebook, chosen, listing)
    table = [(name, repr(checked[name]), declared[name].type_text, origins[name]) for name in declared]
    return Parameters(notebook, checked, table)


def declared_in(source: str) -> dict[str, Declared]:
    """Names, types and defaults that a parameters cell declares.

    Raises:
        ParameterError: a default is computed. papermill sets values after this cell ran, so a value computed
            here would silently keep following the old one.
    """
    declared = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            try:
                default = None if node.value is None else ast.literal_eval(node.value)
            except ValueError:
                raise ParameterError(
                    f"parameter `{node.target.id}`: expected a literal, got `{ast.unparse(node.value)}`; "
                    "compute it in the next cell, from the checked parameters"
                ) from None
            declared[node.target.id] = Declared(ast.unparse(node.annotation), default)
    return declared


def _read(namespace: Mapping[str, Any]) -> tuple[dict[str, Declared], list[str]]:
    """What the notebook declares, and what papermill set.

    The executed cells are the better witness: annotations are lazy from Python 3.14 on, and before that they
    hold the annotated names of every cell. The last cell that declares `profile` is the parameters cell.
    """
    cells = [source for source in namespace.get("In", ()) if isinstance(source, str)]
    trees = [(source, _parsed(source)) for source in cells]
    at = [n for n, (_, tree) in enumerate(trees) if "profile" in _assigned(tree, ast.AnnAssign)]
    declared = declared_in(trees[at[-1]][0]) if at else _declared_by_annotations(namespace)
    after = trees[at[-1] + 1 :] if at else trees
    injected = [tree for source, tree in after if source.strip().split("\n")[0].rstrip() == INJECTED]
    return declared, list(dict.fromkeys(name for tree in injected for name in _assigned(tree, ast.Assign)))


def _declared_by_annotations(namespace: Mapping[str, Any]) -> dict[str, Declared]:
    annotations = namespace.get("__annotations__")
    if not annotations and callable(lazy := namespace.get("__annotate__")):
        annotations = lazy(1)  # Python 3.14; 1 asks for values
    return {
        name: Declared(hint if isinstance(hint, str) else _type_text(hint), namespace.get(name))
        for name, hint in (annotations or {}).items()
    }


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # a cell that failed; it set nothing
        return ast.Module([], [])


def _assigned(tree: ast.Module, kind: type[ast.Assign] | type[ast.AnnAssign]) -> list[str]:
    found = []
    for node in tree.body:
        if isinstance(node, kind):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def _profile(
    value: Any, notebook: str, declared: Mapping[str, Declared]
) -> tuple[str, dict[str, tuple[Any, str]]]:
    """The profile's name, and for each parameter it sets: value and origin."""
    known = profiles.profiles()
    if value not in known:
        raise ParameterError(
            f"{notebook} has no profile {_nearest(value, known)}\n"
            f"Profiles: {', '.join(known)}. Choose one in the cell tagged `parameters`, "
            f"or with papermill -p profile {known[0]}."
        )
    try:
        sections = profiles.preset(value)
    except profiles.ProfileError as error:
        raise ParameterError(str(error)) from error
    own = sections.get(notebook, {})
    if stray := [name for name in own if name not in declared]:
        lines = [
            f"profiles/{value}.yaml sets for {notebook} an unknown {_nearest(n, declared)}" for n in stray
        ]
        raise ParameterError("\n".join([*lines, _listing(declared)]))
    settings = {name: (v, f"profile {value}, defaults") for name, v in sections.get("defaults", {}).items()}
    return value, settings | {name: (v, f"profile {value}") for name, v in own.items()}


def _validated(
    values: Mapping[str, Any],
    hints: Mapping[str, Any],
    origins: Mapping[str, str],
    declared: Mapping[str, Declared],
    notebook: str,
    profile: str,
    listing: str,
) -> dict[str, Any]:
    fields = {f"p_{name}": (_numbers_are_not_bools(hint), ...) for name, hint in hints.items()}
    model = pydantic.create_model("Checked", __config__=pydantic.ConfigDict(extra="forbid"), **fields)
    try:
        # the prefix keeps names such as `json` or `model_x` from meeting pydantic's own
        result = model.model_validate({f"p_{name}": value for name, value in values.items()})
    except pydantic.ValidationError as error:
        wrong = {
            str(e["loc"][0])[2:]: e["msg"].removeprefix("Value error, ") for e in reversed(error.errors())
        }
        lines = [
            _complaint(name, d.type_text, hints[name], values[name], origins[name], wrong[name], profile)
            for name, d in declared.items()
            if name in wrong
        ]
        raise ParameterError("\n".join([f"{notebook}:", *lines, listing])) from None
    return {name: getattr(result, f"p_{name}") for name in values}


def _complaint(name: str, text: str, hint: Any, value: Any, origin: str, reason: str, profile: str) -> str:
    if value is None:
        return (
            f"`{name}`: expected {text}, got no value: neither the notebook nor the profile {profile} gives "
            f"one. Pass one (papermill -p {name} ...), or declare it Optional[{text}]."
        )
    where = {"notebook": " in the cell tagged `parameters`", "papermill": ""}
    return (
        f"`{name}`: expected {text}, got {value!r} ({type(value).__name__}, from {origin}). {reason}. "
        f"Give {_example(hint)}{where.get(origin, f' in profiles/{profile}.yaml')}."
    )


def _type(text: str, name: str, namespace: Mapping[str, Any]) -> Any:
    try:
        return eval(text, {**vars(builtins), **vars(typing), **namespace})
    except Exception as error:
        raise ParameterError(
            f"parameter `{name}`: its type `{text}` is unknown here ({error}); "
            "use int, float, str, bool, list, dict, or Optional[...] of these"
        ) from error


def _type_text(hint: Any) -> str:
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return repr(hint).replace("typing.", "")


def _plain(value: Any, hint: Any) -> Any:
    """Undo what the command line did to None, lists and mappings: it passes them as text."""
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    if not isinstance(value, str):
        return value
    if value in NONE and type(None) in parts:
        return None
    if str not in parts and any((typing.get_origin(part) or part) in (list, dict, tuple) for part in parts):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value)
            except (ValueError, SyntaxError):
                continue
    return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _numbers_are_not_bools(hint: Any) -> Any:
    """The same type, with True and False refused wherever it says int or float."""
    if hint in (int, float):
        return Annotated[hint, pydantic.BeforeValidator(_refuse_bool)]
    if not (parts := typing.get_args(hint)) or typing.get_origin(hint) is typing.Literal:
        return hint
    inner = tuple(_numbers_are_not_bools(part) for part in parts)
    return functools.reduce(operator.or_, inner) if _is_union(hint) else typing.get_origin(hint)[inner]


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("True and False are not numbers here")
    return value


def _example(hint: Any) -> str:
    parts = [
        part for part in (typing.get_args(hint) if _is_union(hint) else (hint,)) if part is not type(None)
    ]
    return EXAMPLES.get(typing.get_origin(parts[0]) or parts[0], f"a value of type {_type_text(hint)}")


def _nearest(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"`{name}`; did you mean `{near[0]}`?" if near else f"`{name}`."


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _listing(declared: Mapping[str, Declared]) -> str:
    return "\n".join(
        ["Valid parameters:", *(f"  {n}: {d.type_text} = {d.default!r}" for n, d in declared.items())]
    )
