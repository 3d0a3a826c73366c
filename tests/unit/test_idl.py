"""The interface definition language: what is read, what is refused, what fits and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.control.idl import (
    Array,
    Builtin,
    DefinitionError,
    Enum,
    Interface,
    InvalidParameter,
    Map,
    Named,
    Nullable,
    Struct,
    Type,
)
from nanumpay_backupd.errors import EXIT_USAGE, BackupdError
from tests.servers.control import INTERFACE_TEXT, STATUS

INT, TEXT, BOOL = Builtin("int"), Builtin("string"), Builtin("bool")


def define(members: str) -> Interface:
    """Make an interface from its members."""
    return Interface(f"interface com.example.Test\n{members}\n")


def requests(fields: str) -> Interface:
    """Make an interface with one method M whose request has these fields."""
    return define(f"type T (leaf: int, next: ?T)\nmethod M({fields}) -> ()")


def test_the_real_interface_is_read_completely() -> None:
    """The product's own file parses, and every kind of member in it is found."""
    interface = Interface(INTERFACE_TEXT)
    assert interface.name == "com.nanumpay.Backup"
    assert len(interface.types) == INTERFACE_TEXT.count("\ntype ")
    assert len(interface.methods) == INTERFACE_TEXT.count("\nmethod ")
    assert set(interface.errors) == {"NotFound", "Busy", "Refused", "Failed"}
    assert interface.methods["Run"].request.fields["force"] == Nullable(BOOL)


def test_the_description_is_given_back_verbatim() -> None:
    """Introspection shows the file as it is, comments and white space included."""
    assert Interface(INTERFACE_TEXT).description == INTERFACE_TEXT


def test_the_comment_in_front_of_a_member_is_its_documentation() -> None:
    """Only the block of comment lines that directly precedes a member belongs to it."""
    interface = define("# stray\n\n# first\n# second\nmethod A() -> ()\nmethod B() -> ()")
    assert interface.methods["A"].doc == "first\nsecond"
    assert interface.methods["B"].doc == ""


@pytest.mark.parametrize(
    "text, kind",
    [
        ("int", INT),
        ("?string", Nullable(TEXT)),
        ("[]bool", Array(BOOL)),
        ("[string]int", Map(INT)),
        ("?[]?T", Nullable(Array(Nullable(Named("T"))))),
        ("[][string]float", Array(Map(Builtin("float")))),
        ("(a: int, b: (c: string))", Struct({"a": INT, "b": Struct({"c": TEXT})})),
        ("()", Struct({})),
        ("(one, two_x)", Enum(("one", "two_x"))),
        ("object", Builtin("object")),
    ],
)
def test_types_are_read(text: str, kind: Type) -> None:
    """Every type of the language is understood, also inside others and across comments and line ends."""
    assert requests(f"x: {text}").methods["M"].request == Struct({"x": kind})
    spaced = text.replace("(", "( # a comment\n\t").replace(",", "\n,")
    assert requests(f"x: {spaced}").methods["M"].request == Struct({"x": kind})


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "line 1: expected type, method or error"),
        ("interface Backup\n", "line 1: expected the interface's name"),
        ("interface com.example.Test\ntype a (x: int)", "line 2: expected the type's name"),
        ("interface com.example.Test\n\nthing A ()", "line 3: expected type, method or error"),
        ("interface com.example.Test\nmethod A() (x: int)", "line 2: expected ->"),
        ("interface com.example.Test\nmethod A(x: number) -> ()", "line 2: number is no type"),
        ("interface com.example.Test\nmethod A(x: ??int) -> ()", "line 2: a type can be nullable only once"),
        ("interface com.example.Test\nmethod A(x: int, x: int) -> ()", "line 2: x is there twice"),
        ("interface com.example.Test\nmethod A(x: int, y) -> ()", "line 2: either every field has a type or none"),
        ("interface com.example.Test\nmethod A(x, y) -> ()", "line 2: expected fields"),
        ("interface com.example.Test\nmethod A(x: int,) -> ()", "line 2: expected a field's name"),
        ("interface com.example.Test\nmethod A(x__y: int) -> ()", "line 2: expected )"),
        ("interface com.example.Test\nmethod A(\n  x: Gone) -> ()", "line 3: type Gone is not defined"),
        ("interface com.example.Test\ntype A ()\nmethod A() -> ()", "line 3: A is defined twice"),
        (f"interface com.example.Test\nmethod A(x: {'[]' * 100_000}int) -> ()", "line 2: nested too deeply"),
    ],
)
def test_what_is_no_definition_is_refused_with_its_line(text: str, problem: str) -> None:
    """A mistake in the file names the line and what was expected."""
    with pytest.raises(DefinitionError) as caught:
        Interface(text)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "fields, params",
    [
        ("", {}),
        ("x: int", {"x": 0}),
        ("x: int", {"x": -(2**63)}),
        ("x: float", {"x": 3}),
        ("x: ?int", {}),
        ("x: ?int", {"x": None}),
        ("x: []int", {"x": []}),
        ("x: []?int", {"x": [1, None]}),
        ("x: [string]T", {"x": {"any key": {"leaf": 1}}}),
        ("x: (on, off)", {"x": "on"}),
        ("x: object", {"x": {"anything": [None, {"goes": 1.5}]}}),
        ("x: T", {"x": {"leaf": 1, "next": {"leaf": 2, "next": None}}}),
    ],
)
def test_what_fits_is_accepted(fields: str, params: dict[str, Any]) -> None:
    """Parameters that follow the definition pass, null and absent alike where null is allowed."""
    requests(fields).validate_in("M", params)


@pytest.mark.parametrize(
    "fields, params, path, reason",
    [
        ("", {"x": 1}, "x", "is not known here; there are no parameters"),
        ("job: ?string", {"jbo": "a"}, "jbo", "is not known here; known: job"),
        ("x: int", {}, "x", "is missing"),
        ("x: int", {"x": None}, "x", "must be a whole number, not null"),
        ("x: int", {"x": True}, "x", "must be a whole number, not a boolean"),
        ("x: int", {"x": 1.5}, "x", "must be a whole number, not a number"),
        ("x: int", {"x": 1.0}, "x", "must be a whole number, not a number"),
        ("x: int", {"x": 2**63}, "x", "must be a whole number that fits into 64 bits"),
        ("x: float", {"x": False}, "x", "must be a number, not a boolean"),
        ("x: float", {"x": float("nan")}, "x", "must be a finite number"),
        ("x: float", {"x": 10**400}, "x", "must be a finite number"),
        ("x: bool", {"x": 1}, "x", "must be a boolean, not a whole number"),
        ("x: string", {"x": 7}, "x", "must be text, not a whole number"),
        ("x: []int", {"x": "12"}, "x", "must be a list, not text"),
        ("x: []int", {"x": [1, "2"]}, "x[1]", "must be a whole number, not text"),
        ("x: []int", {"x": [None]}, "x[0]", "must be a whole number, not null"),
        ("x: [string]int", {"x": [1]}, "x", "must be an object, not a list"),
        ("x: [string]int", {"x": {"a": "b"}}, "x[a]", "must be a whole number, not text"),
        ("x: object", {"x": []}, "x", "must be an object, not a list"),
        ("x: (on, off)", {"x": "maybe"}, "x", "must be one of on, off"),
        ("x: (on, off)", {"x": ["on"]}, "x", "must be one of on, off"),
        ("x: (y: [](z: ?string))", {"x": {"y": [{}, {"z": 1}]}}, "x.y[1].z", "must be text, not a whole number"),
        ("x: T", {"x": {"next": {"leaf": 1}}}, "x.leaf", "is missing"),
        ("x: T", {"x": {"leaf": 1, "next": {"leaf": "1"}}}, "x.next.leaf", "must be a whole number, not text"),
    ],
)
def test_what_does_not_fit_is_refused_with_path_and_reason(
    fields: str, params: dict[str, Any], path: str, reason: str
) -> None:
    """A refusal leads to the very value and says what is wrong with it, in requests and in replies."""
    both = define(f"type T (leaf: int, next: ?T)\nmethod M({fields}) -> ({fields})\nerror E ({fields})")
    for validate in (both.validate_in, both.validate_out):
        with pytest.raises(InvalidParameter) as caught:
            validate("M", params)
        assert (caught.value.path, caught.value.reason) == (path, reason)
    with pytest.raises(InvalidParameter, match=r".") as caught:
        both.validate_error("E", params)
    assert caught.value.path == path


@pytest.mark.parametrize("params", [None, [], "x", 1])
def test_parameters_are_an_object(params: object) -> None:
    """Anything but an object is refused as a whole."""
    with pytest.raises(InvalidParameter, match="must be an object"):
        requests("").validate_in("M", params)


def test_a_recursive_type_filled_without_end_is_refused() -> None:
    """A value nested a hundred thousand times is a bad parameter, not a crash."""
    value: dict[str, Any] = {"leaf": 1}
    for _ in range(100_000):
        value = {"leaf": 1, "next": value}
    with pytest.raises(InvalidParameter, match="nested too deeply"):
        requests("x: T").validate_in("M", {"x": value})


def test_a_refusal_is_an_expected_fault_of_usage() -> None:
    """Handlers may raise it for values too, and the command line ends with the exit code of wrong usage."""
    fault = InvalidParameter("limit", "must be 1 to 1000")
    assert isinstance(fault, BackupdError)
    assert str(fault) == "limit: must be 1 to 1000"
    assert (fault.code, fault.exit_code) == ("bad-request", EXIT_USAGE)


def test_the_real_status_reply_is_checked_to_its_leaves() -> None:
    """A reply of the product's own interface passes, and one wrong leaf in it does not."""
    interface = Interface(INTERFACE_TEXT)
    interface.validate_out("GetStatus", STATUS)
    wrong = {**STATUS, "settings": {**STATUS["settings"], "connected": "yes"}}
    with pytest.raises(InvalidParameter, match=r"^settings\.connected: must be a boolean, not text$"):
        interface.validate_out("GetStatus", wrong)


# A type in the language's own words, with values that fit it. Nothing fits a plain Python object.
_LEAVES = st.sampled_from(
    [
        ("int", st.integers(-(2**63), 2**63 - 1)),
        ("float", st.floats(allow_nan=False, allow_infinity=False)),
        ("string", st.text(max_size=5)),
        ("bool", st.booleans()),
        ("(on, off)", st.sampled_from(["on", "off"])),
    ]
)
_Typed = tuple[str, st.SearchStrategy[Any]]


def _wrap(inner: st.SearchStrategy[_Typed]) -> st.SearchStrategy[_Typed]:
    def structure(members: list[_Typed]) -> _Typed:
        names = [f"f{index}" for index in range(len(members))]
        text = ", ".join(f"{name}: {member[0]}" for name, member in zip(names, members, strict=True))
        return f"({text})", st.fixed_dictionaries(dict(zip(names, (member[1] for member in members), strict=True)))

    return st.one_of(
        inner.map(lambda typed: (f"[]{typed[0]}", st.lists(typed[1], min_size=1, max_size=3))),
        inner.map(lambda typed: (f"[string]{typed[0]}", st.dictionaries(st.text(), typed[1], min_size=1, max_size=3))),
        st.lists(inner, min_size=1, max_size=3).map(structure),
    )


@given(typed=st.recursive(_LEAVES, _wrap, max_leaves=5), data=st.data())
def test_any_value_made_for_a_type_fits_and_a_foreign_leaf_never_does(typed: _Typed, data: st.DataObject) -> None:
    """For every type: its values pass, and the same value with one leaf of no JSON type is refused."""
    text, values = typed
    interface = define(f"method M(x: {text}) -> ()")
    value = data.draw(values)
    interface.validate_in("M", {"x": value})
    with pytest.raises(InvalidParameter):
        interface.validate_in("M", {"x": _spoil(value)})


def _spoil(value: Any) -> Any:
    """Replace the last leaf of a value."""
    if isinstance(value, list):
        return [*value[:-1], _spoil(value[-1])]
    if isinstance(value, dict):
        last = list(value)[-1]
        return {**value, last: _spoil(value[last])}
    return object()
