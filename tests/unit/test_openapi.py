"""The description of the interface, and the test's own reader of such descriptions."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.web.openapi import describe
from tests.openapi import complaints, fitting

DOCUMENT: Final = describe("")
SCHEMAS: Final = DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("name", SCHEMAS)
@given(data=st.data())
@settings(max_examples=30)
def test_what_is_made_to_fit_fits(name: str, data: st.DataObject) -> None:
    """Each schema can be met, and what is made for it has no fault."""
    value = data.draw(fitting(DOCUMENT, SCHEMAS[name]))
    assert complaints(DOCUMENT, SCHEMAS[name], value) == []


@pytest.mark.parametrize(
    "name, value",
    [
        ("Fault", {"success": True, "message": "", "code": ""}),
        ("Fault", {"success": False, "message": ""}),
        ("Fault", {"success": False, "message": "", "code": 7}),
        ("Fault", []),
        ("Order", {"jobs": "x"}),
        ("Order", {"kind": "whole"}),
        ("Order", {"only_to": ["x", 1]}),
        ("Order", {"force": 1}),
        ("Backup", {"time": "24:00"}),
        ("Backup", {"dayOfMonth": 32}),
        ("Backup", {"dayOfMonth": True}),
        ("Backup", {"storage": {"ftp": {"port": 0}}}),
        ("Entry", {"name": "x", "size": 1, "createdAt": "2026-01-01T00:00:00", "type": "full"}),
    ],
)
def test_what_does_not_fit_is_found(name: str, value: Any) -> None:
    """Missing, unknown, of another type, out of range: each is named."""
    assert complaints(DOCUMENT, SCHEMAS[name], value)
