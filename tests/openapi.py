"""What an OpenAPI document allows: values that fit its schemas, values that do not, and what is wrong with an answer.

Only the words of JSON Schema that our document uses; another one is an error, so that none is passed over.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st

__all__ = ["anything", "complaints", "fitting", "resolve"]

Schema = dict[str, Any]
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_WORDS: Final = {
    "$ref", "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minimum", "maximum",
    "minLength", "pattern", "format",
}  # fmt: skip
_ODD: Final = st.sampled_from(
    ["", "\0", "a\r\nb", "../../etc/passwd", "%00", "<script>", "$set", "{{7*7}}", "가" * 300, "\ud7ff", "' OR 1=1 --"]
)


_MOMENT: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"


def resolve(document: Schema, schema: Schema) -> Schema:
    """Return what a schema stands for; raises AssertionError for a word that nothing here knows."""
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = document["components"]["schemas"][name]
    assert set(schema) <= _WORDS, set(schema) - _WORDS
    return schema


def complaints(document: Schema, schema: Schema, value: Any, where: str = "$") -> list[str]:
    """Say what of a value is not as its schema has it; nothing: it fits."""
    schema = resolve(document, schema)
    if "const" in schema and value != schema["const"]:
        return [f"{where} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is {value!r}, none of {schema['enum']}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{where} is {type(value).__name__}, not {kinds}"]
    found = []
    if isinstance(value, int) and not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
        found.append(f"{where} is {value}, out of range")
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value) or len(value) < schema.get("minLength", 0):
            found.append(f"{where} is {value!r}, not {schema.get('pattern')}")
        if schema.get("format") == "date-time" and not re.fullmatch(_MOMENT, value):
            found.append(f"{where} is {value!r}, no moment")
    if isinstance(value, list) and "items" in schema:
        for at, item in enumerate(value):
            found += complaints(document, schema["items"], item, f"{where}[{at}]")
    if isinstance(value, dict):
        found += _of_object(document, schema, value, where)
    return found


def _is(value: Any, kind: str) -> bool:
    # In Python a truth is a number too.
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _of_object(document: Schema, schema: Schema, value: dict[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    found = [f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value]
    more = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            found += complaints(document, known[name], item, f"{where}.{name}")
        elif more is False:
            found.append(f"{where} has {name}, which is not described")
        elif isinstance(more, dict):
            found += complaints(document, more, item, f"{where}.{name}")
    return found


def anything() -> st.SearchStrategy[Any]:
    """Return values that JSON can have."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | _ODD,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )


def fitting(document: Schema, schema: Schema, wrong: float = 0.0) -> st.SearchStrategy[Any]:
    """Return values that fit a schema; with ``wrong`` (0 to 1) so many of the parts are anything at all."""
    schema = resolve(document, schema)
    good = _good(document, schema, wrong)
    if not wrong:
        return good
    return st.floats(0, 1).flatmap(lambda luck: anything() if luck < wrong else good)


def _good(document: Schema, schema: Schema, wrong: float) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return st.one_of(*(_good(document, {**schema, "type": one}, wrong) for one in kind))
    if kind == "object":
        known = {name: fitting(document, one, wrong) for name, one in schema.get("properties", {}).items()}
        needed = {name: known.pop(name) for name in schema.get("required", ()) if name in known}
        return st.fixed_dictionaries(needed, optional=known)
    if kind == "array":
        return st.lists(fitting(document, schema.get("items", {}), wrong), max_size=3)
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**70)), schema.get("maximum", 2**70))
    if kind == "string":
        if schema.get("format") == "date-time":
            return st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat).filter(re.compile(_MOMENT).fullmatch)
        if "pattern" in schema:
            return st.from_regex(schema["pattern"].replace("$", r"\Z"))
        least = schema.get("minLength", 0)
        return (st.text(min_size=least, max_size=20) | _ODD).filter(lambda text: len(text) >= least)
    return {"boolean": st.booleans(), "null": st.none()}.get(kind or "", anything())
