"""Which jobs and destinations a command means, as tables; and which exit code several runs have."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from nanumpay_backupd.errors import BackupdError, worst_exit
from nanumpay_backupd.settings.schema import JobSpec, LocalDestination, SourceKind
from nanumpay_backupd.settings.selection import bound_for, jobs_of, must_hold, only_places
from tests.workbench import job_spec

JOB = job_spec(destinations=tuple(LocalDestination(name=name, path=f"/{name}") for name in ("app", "nas", "usb")))
ALONE = job_spec()


@pytest.mark.parametrize(
    "job, names, expected",
    [
        (JOB, ["nas"], ("nas",)),
        (JOB, ["usb", "app", "usb"], ("app", "usb")),
        (JOB, ["local"], ()),
        (JOB, ["nas", "local"], ("nas",)),
        (JOB, ["usb", "nas", "app"], None),
        (ALONE, ["local"], None),
        (JOB, ["nass"], "job nanumpay has no destination 'nass' | its destinations are: local, app, nas, usb"),
        (ALONE, ["app"], "job nanumpay has no destination 'app' | its destinations are: local"),
        (JOB, [], "no destination is named | the destinations are: local, app, nas, usb"),
    ],
)
def test_which_destinations_are_left(job: JobSpec, names: list[str], expected: tuple[str, ...] | str | None) -> None:
    """In the job's order, each once; none is left out: nothing is limited; a name that is not there is said."""
    if isinstance(expected, str):
        with pytest.raises(BackupdError) as caught:
            only_places(job, names)
        assert f"{caught.value.message} | {caught.value.hint}" == expected
        return
    assert only_places(job, names) == expected
    kept = [destination.name for destination in bound_for(job, expected).destinations]
    assert kept == ([item.name for item in job.destinations] if expected is None else list(expected))


def test_jobs_of_a_kind() -> None:
    """Those that are enabled, or all; where there are none it is said why."""
    jobs = {name: msgspec.structs.replace(ALONE, name=name, enabled=name != "off") for name in ("one", "off", "two")}
    assert [job.name for job in jobs_of(jobs, SourceKind.DATABASE)] == ["one", "two"]
    assert [job.name for job in jobs_of(jobs, SourceKind.DATABASE, disabled=True)] == ["one", "off", "two"]
    with pytest.raises(BackupdError, match="there is no job that saves files"):
        jobs_of(jobs, SourceKind.FILES)
    with pytest.raises(BackupdError, match="every job that saves a database is disabled"):
        jobs_of({"off": jobs["off"]}, SourceKind.DATABASE)
    must_hold(ALONE, SourceKind.DATABASE)
    with pytest.raises(BackupdError, match="job nanumpay saves a database, not files"):
        must_hold(ALONE, SourceKind.FILES)


def test_the_worst_exit_code_counts() -> None:
    """In whatever order the runs ended: good, degraded, busy, cancelled, not found, refused, failed, all others."""
    order = [0, 3, 5, 130, 6, 7, 1, 4]
    for better, worse in itertools.combinations(order, 2):
        assert worst_exit([better, worse]) == worst_exit([worse, better, better]) == worse
