"""A fleet as people see it, and how its settings are read: names of hosts, who makes what, what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nanumpay_backupd.fleet.standing import Standing, faults_of, shown
from nanumpay_backupd.settings.fleeting import fingerprint
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import build_jobs

NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)
FILE = """
[fleet]
enabled = true
host = "DB1.example"
[[job]]
name = "files-{host}"
type = "files"
path = "/srv"
[[job]]
name = "shop"
uri = "mongodb://localhost/shop"
%s
[group.Shop]
jobs = ["shop", "files-{host}"]
"""


def said(host: str, **changes: Any) -> dict[str, Any]:
    """Return what a host said of itself."""
    facts: dict[str, Any] = {"_id": f"host:{host}", "instance": f"{host}:1", "seen": NOW, "now": NOW, "age": 1.0}
    return {**facts, "role": "standby", "version": "1", "settings": "same", "own": [], "running": [], **changes}


def standing(*hosts: dict[str, Any], **changes: Any) -> Standing:
    """Return how things stand as db1 sees it."""
    lease = {"token": 4, "host": "db2", "since": NOW}
    facts: dict[str, Any] = {"host": "db1", "me": "db1:1", "role": "standby", "length": 30.0, "lease": lease}
    return Standing(**{**facts, "hosts": hosts, **changes})


def test_jobs_of_a_host_have_its_name_and_mongodb_is_of_all() -> None:
    """``{host}`` becomes this host's name, in groups too; what is said by ``runs_on`` goes before the type."""
    host = parse_host_file((FILE % "").replace("group.Shop", "group.all"), "x")
    jobs = {job.name: job for job in build_jobs(host, None)}
    assert {name: job.shared for name, job in jobs.items()} == {
        "nanumpay": True,
        "files-db1-example": False,
        "shop": True,
    }
    assert jobs["files-db1-example"].group == "all"
    other = parse_host_file((FILE % 'runs_on = "host"').replace("group.Shop", "group.all"), "x")
    assert not {job.name: job for job in build_jobs(other, None)}["shop"].shared


def test_without_a_fleet_nothing_is_shared() -> None:
    """One host makes all, and its file reads as it always did."""
    host = parse_host_file("[[job]]\nname = 'shop'\nuri = 'mongodb://localhost/shop'\n", "x")
    assert not any(job.shared for job in build_jobs(host, None))


def test_the_digest_tells_what_differs_and_knows_no_paths() -> None:
    """Hosts with the same jobs have the same digest, wherever their tools lie; another retention is another."""
    text = "[fleet]\nenabled = true\n[tools]\nmongodump = '/opt/%s'\n[nanumpay.retention]\ncount = %d\n"
    first, second, third = (
        fingerprint(build_jobs(parse_host_file(text % values, "x"), None)) for values in (("a", 5), ("b", 5), ("a", 6))
    )
    assert first == second != third


@pytest.mark.parametrize(
    "hosts, changes, words",
    [
        ([said("db1"), said("db2")], {}, ""),
        ([said("db1"), said("db2")], {"problem": "no answer"}, "cannot be asked for: no answer"),
        ([said("db1", instance="db1:2")], {}, "another daemon calls itself db1"),
        ([said("db1"), said("db2", age=100.0)], {}, "host db2 of the fleet says nothing any more"),
        ([said("db1"), said("db2", age=3e6)], {}, ""),
        ([said("db1"), said("db2", settings="other")], {}, "the settings of the shared jobs on host db2 are others"),
        ([said("db1", own=["files"]), said("db2", own=["files"])], {}, "host db2 also makes a job called files"),
        ([said("db1", own=["a"]), said("db2", own=["b"])], {}, ""),
        (
            [said("db1"), said("db2", now=NOW + timedelta(minutes=2))],
            {},
            "clock of host db2 is 120 s ahead of MongoDB's",
        ),
    ],
)
def test_what_is_wrong_is_told_once_with_what_to_do(
    hosts: list[dict[str, Any]], changes: dict[str, Any], words: str
) -> None:
    """Each fault is one sentence with a hint; a host that was forgotten long ago is none."""
    found = faults_of(standing(*hosts, **changes))
    assert [words in fault.text for fault in found] == ([True] if words else [])
    assert all(fault.hint for fault in found)


def test_who_holds_the_lease_is_told_only_where_it_is_known() -> None:
    """Whoever cannot ask MongoDB does not say what it heard last."""
    facts = shown(standing(said("db1"), said("db2", role="holder", age=200.0)), ["files"])
    assert (facts["holder"], facts["since"], facts["own"]) == ("db2", "2026-11-22T05:00:00Z", ["files"])
    assert [host["role"] for host in facts["hosts"]] == ["standby", "gone"]
    assert shown(standing(problem="no answer"), [])["holder"] == ""
    assert shown(standing(role="holder"), [])["holder"] == "db1"
