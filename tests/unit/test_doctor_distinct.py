"""What the doctor of several jobs finds about the host is told once."""

from __future__ import annotations

from nanumpay_backupd.control.changing import _distinct


def test_what_is_of_the_host_is_told_once() -> None:
    """The clock goes on and room is taken between two jobs: that makes no second finding; those of jobs all stay."""
    found = [
        {"name": "disk space", "message": "15.2 GB free"},
        {"name": "a: source", "message": "good"},
        {"name": "clock", "message": "10:00:01 UTC"},
        {"name": "disk space", "message": "15.1 GB free"},
        {"name": "b: source", "message": "good"},
        {"name": "b: source", "message": "odd"},
        {"name": "clock", "message": "10:00:02 UTC"},
    ]
    told = [(one["name"], one["message"]) for one in _distinct(found)]
    assert told == [
        ("disk space", "15.1 GB free"),
        ("a: source", "good"),
        ("clock", "10:00:02 UTC"),
        ("b: source", "good"),
        ("b: source", "odd"),
    ]
