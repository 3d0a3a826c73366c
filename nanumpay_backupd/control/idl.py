"""Varlink interface definitions: reading one, and holding requests and replies against it. No sockets, no JSON text.

The language is described at https://varlink.org/Interface-Definition. A definition is compiled once into one check
per type, because a listing of ten thousand backups passes through here as a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

from nanumpay_backupd.errors import EXIT_USAGE, BackupdError

__all__ = [
    "Array",
    "Builtin",
    "DefinitionError",
    "Enum",
    "Interface",
    "InvalidParameter",
    "Map",
    "Method",
    "Named",
    "Nullable",
    "Struct",
    "Type",
]

Check: TypeAlias = Callable[[Any], None]
"""Accepts a value silently or raises InvalidParameter; the path grows on the way up, so a good value costs nothing."""

_INT_RANGE: Final = range(-(2**63), 2**63)
_MANY: Final = 10


class DefinitionError(ValueError):
    """A text that is not a Varlink interface definition; the message names the line."""


class InvalidParameter(BackupdError):  # noqa: N818 - the protocol's own name for it
    """A parameter that does not fit the definition. ``path`` leads to it (``stages[2].outcome``)."""

    default_code = "bad-request"
    exit_code = EXIT_USAGE

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason

    def inside(self, outer: str) -> InvalidParameter:
        """Return the same fault as seen one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return InvalidParameter(f"{outer}{joint}{self.path}", self.reason)


@dataclass(frozen=True, slots=True)
class Builtin:
    """``bool``, ``int``, ``float``, ``string`` or ``object``."""

    name: str


@dataclass(frozen=True, slots=True)
class Named:
    """A type that the interface defines elsewhere."""

    name: str


@dataclass(frozen=True, slots=True)
class Nullable:
    """``?T``: may be absent or null."""

    item: Type


@dataclass(frozen=True, slots=True)
class Array:
    """``[]T``."""

    item: Type


@dataclass(frozen=True, slots=True)
class Map:
    """``[string]T``."""

    item: Type


@dataclass(frozen=True, slots=True)
class Enum:
    """``(one, two)``: a string that is one of these."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Struct:
    """``(name: T, …)``: exactly these fields."""

    fields: Mapping[str, Type]


Type: TypeAlias = Builtin | Named | Nullable | Array | Map | Enum | Struct


@dataclass(frozen=True, slots=True)
class Method:
    """A method's request and reply; ``doc`` is the comment in front of it."""

    name: str
    doc: str
    request: Struct
    reply: Struct


class Interface:
    """One interface: its name, its members, its text as it was written, and the checks made from it."""

    def __init__(self, text: str) -> None:
        """Read a definition; raises DefinitionError."""
        reader = _Reader(text)
        self.description: Final = text
        self.name: Final = reader.name
        self.doc: Final = reader.doc
        self.types: Final[Mapping[str, Type]] = reader.types
        self.methods: Final[Mapping[str, Method]] = reader.methods
        self.errors: Final[Mapping[str, Struct]] = reader.errors
        compiler = _Compiler(reader.types)
        self._requests = {name: compiler.check(method.request) for name, method in self.methods.items()}
        self._replies = {name: compiler.check(method.reply) for name, method in self.methods.items()}
        self._errors = {name: compiler.check(error) for name, error in self.errors.items()}

    def validate_in(self, method: str, params: object) -> None:
        """Accept a request's parameters or raise InvalidParameter; KeyError for a method that is not defined."""
        _run(self._requests[method], params)

    def validate_out(self, method: str, params: object) -> None:
        """Accept a reply's parameters or raise InvalidParameter; KeyError for a method that is not defined."""
        _run(self._replies[method], params)

    def validate_error(self, error: str, params: object) -> None:
        """Accept an error's parameters or raise InvalidParameter; KeyError for an error that is not defined."""
        _run(self._errors[error], params)


def _run(check: Check, params: object) -> None:
    try:
        check(params)
    except RecursionError:  # a type that holds itself, filled by somebody who means harm
        raise InvalidParameter("", "is nested too deeply") from None


# ------------------------------------------------------------------------------------------------------- checking


def _kind(value: object) -> str:
    """Name what a value is in JSON's words, for a reason text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for types, name in ((int, "a whole number"), (float, "a number"), (str, "text"), ((list, tuple), "a list")):
        if isinstance(value, types):
            return name
    return "an object" if isinstance(value, dict) else type(value).__name__


def _refuse(wanted: str, value: object) -> NoReturn:
    raise InvalidParameter("", f"must be {wanted}, not {_kind(value)}")


def _check_bool(value: Any) -> None:
    if not isinstance(value, bool):
        _refuse("a boolean", value)


def _check_int(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse("a whole number", value)
    if value not in _INT_RANGE:
        raise InvalidParameter("", "must be a whole number that fits into 64 bits")


def _check_float(value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _refuse("a number", value)
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can hold
        finite = False
    if not finite:
        raise InvalidParameter("", "must be a finite number")


def _check_string(value: Any) -> None:
    if not isinstance(value, str):
        _refuse("text", value)


def _check_object(value: Any) -> None:
    if not isinstance(value, dict):
        _refuse("an object", value)


_BUILTINS: Final[Mapping[str, Check]] = {
    "bool": _check_bool,
    "int": _check_int,
    "float": _check_float,
    "string": _check_string,
    "object": _check_object,
}


class _Compiler:
    """Turns types into checks. Named types are looked up when a value is checked, so they may refer to themselves."""

    def __init__(self, types: Mapping[str, Type]) -> None:
        self._named: dict[str, Check] = {}
        for name, kind in types.items():
            self._named[name] = self.check(kind)

    def check(self, kind: Type) -> Check:
        match kind:
            case Builtin(name):
                return _BUILTINS[name]
            case Named(name):
                return self._by_name(name)
            case Nullable(item):
                return _nullable(self.check(item))
            case Array(item):
                return _array(self.check(item))
            case Map(item):
                return _map(self.check(item))
            case Enum(names):
                return _enum(names)
            case Struct(fields):
                required = frozenset(name for name, field in fields.items() if not isinstance(field, Nullable))
                return _struct({name: self.check(field) for name, field in fields.items()}, required)

    def _by_name(self, name: str) -> Check:
        named = self._named

        def check(value: Any) -> None:
            named[name](value)

        return check


def _nullable(inner: Check) -> Check:
    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def _array(inner: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, (list, tuple)):
            _refuse("a list", value)
        index = 0
        try:
            for index, item in enumerate(value):  # noqa: B007 - used where it fails
                inner(item)
        except InvalidParameter as fault:
            raise fault.inside(f"[{index}]") from None

    return check


def _map(inner: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            _refuse("an object", value)
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidParameter("", f"has the key {key!r}, which is not text")
            try:
                inner(item)
            except InvalidParameter as fault:
                raise fault.inside(f"[{key}]") from None

    return check


def _enum(names: tuple[str, ...]) -> Check:
    def check(value: Any) -> None:
        if value not in names:
            raise InvalidParameter("", f"must be one of {', '.join(names)}")

    return check


def _struct(fields: Mapping[str, Check], required: frozenset[str]) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            _refuse("an object", value)
        name = ""
        try:
            for name, item in value.items():
                fields[name](item)
        except KeyError:
            raise InvalidParameter(str(name)[:100], _unknown(fields)) from None
        except InvalidParameter as fault:
            raise fault.inside(str(name)) from None
        if not required <= value.keys():
            raise InvalidParameter(next(field for field in fields if field in required - value.keys()), "is missing")

    return check


def _unknown(fields: Mapping[str, Check]) -> str:
    if not fields:
        return "is not known here; there are no parameters"
    more = ", …" if len(fields) > _MANY else ""
    return f"is not known here; known: {', '.join(list(fields)[:_MANY])}{more}"


# -------------------------------------------------------------------------------------------------------- reading

_INTERFACE_NAME: Final = re.compile(r"[A-Za-z](?:-*[A-Za-z0-9])*(?:\.[A-Za-z0-9](?:-*[A-Za-z0-9])*)+")
_MEMBER_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9]*")
_FIELD_NAME: Final = re.compile(r"[A-Za-z](?:_?[A-Za-z0-9])*")
_KEYWORD: Final = re.compile(r"[a-z]+\b")
_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_COMMENT: Final = re.compile(r"#[ \t]?([^\n]*)")
_MAX_DEPTH: Final = 50


class _Reader:
    """A recursive descent over the text; afterwards the attributes hold what it says."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comments = ""
        self.types: dict[str, Type] = {}
        self.methods: dict[str, Method] = {}
        self.errors: dict[str, Struct] = {}
        self._used: dict[str, int] = {}
        self._space()
        self.doc = self._comments
        if self._keyword() != "interface":
            self._fail("a definition starts with the word interface")
        self.name = self._match(_INTERFACE_NAME, "the interface's name (such as com.example.Thing)")
        while not self._ends():
            self._member()
        for name, at in self._used.items():
            if name not in self.types:
                self._fail(f"type {name} is not defined", at)

    def _member(self) -> None:
        start, doc = self._at, self._comments
        word = self._keyword()
        if word not in ("type", "method", "error"):
            self._fail("expected type, method or error", start)
        name = self._match(_MEMBER_NAME, f"the {word}'s name, which starts with a capital letter")
        if name in self.types or name in self.methods or name in self.errors:
            self._fail(f"{name} is defined twice", start)
        if word == "type":
            self.types[name] = self._parentheses(0)
        elif word == "error":
            self.errors[name] = self._struct()
        else:
            request = self._struct()
            self._expect("->")
            self.methods[name] = Method(name, doc, request, self._struct())

    def _struct(self) -> Struct:
        start = self._at
        kind = self._parentheses(0)
        if not isinstance(kind, Struct):
            self._fail("expected fields (name: type, …)", start)
        return kind

    def _parentheses(self, depth: int) -> Struct | Enum:
        """Read ``(…)``: fields with types, or the bare words of an enum; empty parentheses are a struct."""
        self._expect("(")
        if self._take(")"):
            return Struct({})
        fields: dict[str, Type | None] = {}
        while True:
            start = self._at
            name = self._match(_FIELD_NAME, "a field's name")
            if name in fields:
                self._fail(f"{name} is there twice", start)
            fields[name] = self._type(depth + 1) if self._take(":") else None
            if not self._take(","):
                break
        self._expect(")")
        typed = {name: kind for name, kind in fields.items() if kind is not None}
        if not typed:
            return Enum(tuple(fields))
        if len(typed) != len(fields):
            self._fail("either every field has a type or none")
        return Struct(typed)

    def _type(self, depth: int) -> Type:
        if depth > _MAX_DEPTH:
            self._fail("nested too deeply")
        if self._take("?"):
            item = self._type(depth + 1)
            if isinstance(item, Nullable):
                self._fail("a type can be nullable only once")
            return Nullable(item)
        if self._take("[]"):
            return Array(self._type(depth + 1))
        if self._take("[string]"):
            return Map(self._type(depth + 1))
        if self._text.startswith("(", self._at):
            return self._parentheses(depth)
        start = self._at
        name = self._match(_FIELD_NAME, "a type")
        if name in _BUILTINS:
            return Builtin(name)
        if not _MEMBER_NAME.fullmatch(name):
            self._fail(f"{name} is no type", start)
        self._used.setdefault(name, start)
        return Named(name)

    def _ends(self) -> bool:
        return self._at == len(self._text)

    def _keyword(self) -> str:
        return self._match(_KEYWORD, "type, method or error")

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"expected {what}")
        self._at = found.end()
        self._space()
        return found.group()

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        self._space()
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            self._fail(f"expected {token}")

    def _space(self) -> None:
        """Skip white space and comments; the comments that directly precede the next word are its documentation."""
        found = _SPACE.match(self._text, self._at)
        assert found is not None  # it matches the empty text
        block = found.group().rpartition("\n\n")[2]
        self._comments = "\n".join(_COMMENT.findall(block)).strip()
        self._at = found.end()

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        raise DefinitionError(f"line {line}: {problem}")
