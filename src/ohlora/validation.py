"""YAML files and their sections, checked against models; every fault is one line that says what is allowed."""

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML, YAMLError

from ohlora.errors import UserError, one_line


class Section(BaseModel):
    """Values are taken as written (no "3" for 3, no true for 1), unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = typing.TypeVar("S", bound=Section)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file. Raises UserError, with the line, if it is none."""
    try:
        # DVC reads the file with ruamel as well: with another YAML reader 5e-5 would be text.
        return YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except (YAMLError, ValueError, KeyError, RecursionError) as error:  # the last three for values such as !!int abc
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {place}not valid YAML ({problem or one_line(error)})") from None


def check(path: str | Path, content: dict[Any, Any], model: type[S], prefix: str = "") -> S:
    """The content of a file, or of its section `prefix` (with a dot), as a model.

    Raises:
        UserError: one line with the parameter, its value and what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_problem(error.errors()[0], model, prefix)}") from None


def _problem(error: ErrorDetails, model: type[BaseModel], prefix: str) -> str:
    loc, kind = error["loc"], error["type"]
    name = prefix + ".".join(str(part) for part in loc)
    if kind in ("extra_forbidden", "invalid_key"):  # keys that are no text: 1, null
        return f"{name} is unknown; known are {', '.join(_section(model, loc[:-1]).model_fields)}"
    if kind == "value_error" and not loc:
        return error["msg"].removeprefix("Value error, ")
    field = _field(model, loc)
    if kind == "missing":
        return f"{name} is missing; needed is {_allowed(field)}"
    reason = error["msg"].removeprefix("Value error, ") + ", " if kind == "value_error" else ""
    return f"{name} = {error['input']!r}: {reason}allowed is {_allowed(field)}"


def _section(section: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    for part in loc:
        section = typing.cast(type[BaseModel], section.model_fields[str(part)].annotation)
    return section


def _field(section: type[BaseModel], loc: Sequence[int | str]) -> FieldInfo:
    """The field of a name such as (label, n_labels) or, for a list's item, (vectors, groups, 0)."""
    for place, part in enumerate(loc):
        field = section.model_fields[str(part)]
        if not _is_section(field.annotation) or place == len(loc) - 1:
            break
        section = typing.cast(type[BaseModel], field.annotation)
    return field


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}


def _allowed(field: FieldInfo) -> str:
    """What a field takes, in words."""
    return _words(field.annotation, field.metadata) + (f" ({field.description})" if field.description else "")


def _words(kind: Any, metadata: Sequence[Any]) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if _is_section(kind):
        return "a section with " + ", ".join(kind.model_fields)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is Annotated:
        inner = [part for entry in arguments[1:] for part in getattr(entry, "metadata", [entry])]
        return _words(arguments[0], inner)
    bounds = "".join(_bound(entry) for entry in metadata)
    if origin is list:
        return f"a list{bounds}, each {_words(arguments[0], [])}"
    if origin is dict:
        return f"a section{bounds}, each value {_words(arguments[1], [])}"
    return _NOUNS[kind] + bounds


def _bound(entry: Any) -> str:
    """The words for one constraint; annotated_types names its attribute after it."""
    texts = {"gt": " above ", "ge": " from ", "lt": " below ", "le": " to ", "min_length": " of at least "}
    texts["max_length"] = " and at most "
    return "".join(f"{text}{getattr(entry, name)}" for name, text in texts.items() if hasattr(entry, name))
