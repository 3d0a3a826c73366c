"""3-2-1: what places count as, how copies are spread, what of an objective is missing; names of files sealed anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.control.facts import spread_fault
from nanumpay_backupd.health.spread import lacking, spread_of
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Copy, CopyState, Kind
from nanumpay_backupd.pipeline.layout import backup_id, form_name, parse_artifact, plain_name, sealed_by
from nanumpay_backupd.pipeline.readback import wants_reading
from nanumpay_backupd.settings.natures import standing_of
from nanumpay_backupd.settings.schema import Destination, FtpDestination, LocalDestination, S3Destination
from tests.workbench import NOW, job_spec


def ftp(host: str, **said: Any) -> FtpDestination:
    """Return an FTP server."""
    return FtpDestination(name="office", host=host, **said)


def s3(endpoint: str = "", **said: Any) -> S3Destination:
    """Return a bucket."""
    return S3Destination(name="cloud", bucket="b", endpoint_url=endpoint, **said)


@pytest.mark.parametrize(
    "place, media, offsite",
    [
        (None, "disk", False),
        (LocalDestination(name="d", path="/mnt/d"), "disk", False),
        (LocalDestination(name="d", path="/mnt/d", require_mount=True), "mounted-disk", False),
        (LocalDestination(name="d", path="/mnt/d", offsite=True), "disk", True),
        (ftp("ftp.example.com"), "ftp", True),
        (ftp("ftp.example.com", media="nas", offsite=False), "nas", False),
        (ftp("8.8.8.8"), "ftp", True),
        (ftp("192.168.0.7"), "ftp", False),
        (ftp("fd00::7"), "ftp", False),
        (ftp("127.0.0.1"), "ftp", False),
        (ftp("nas"), "ftp", False),
        (ftp("nas.local."), "ftp", False),
        (s3(), "s3", True),
        (s3("https://s3.example.com:9000"), "s3", True),
        (s3("http://10.1.2.3:9000"), "s3", False),
        (s3("http://[::1]:9000"), "s3", False),
        (s3("http://minio:9000"), "s3", False),
    ],
)
def test_what_a_place_counts_as(place: Destination | None, media: str, offsite: bool) -> None:
    """What is said of it counts first, else its type and whether its address leads out of the own network."""
    assert standing_of(place) == (media, offsite)


def backup(**states: CopyState) -> Backup:
    """Return a backup with copies in these states."""
    name = backup_id("nanumpay", NOW)
    copies = tuple(
        Copy(backup=name, destination=place, state=state, key="k", size=1, updated=NOW)
        for place, state in states.items()
    )
    return Backup(
        id=name,
        job="nanumpay",
        kind=Kind.FULL,
        created=NOW,
        state=BackupState.VERIFIED,
        artifact="k",
        size=1,
        copies=copies,
    )


GOOD = CopyState.VERIFIED


@pytest.mark.parametrize(
    "copies, counted",
    [
        ({}, (1, ("disk",), 0)),
        ({LOCAL: GOOD}, (2, ("disk",), 0)),
        ({LOCAL: GOOD, "cloud": CopyState.UPLOADED}, (3, ("disk", "s3"), 1)),
        ({LOCAL: GOOD, "cloud": CopyState.PENDING, "office": CopyState.CORRUPT}, (2, ("disk",), 0)),
        ({"cloud": GOOD, "office": GOOD}, (3, ("disk", "ftp", "s3"), 1)),
        ({LOCAL: GOOD, "gone": GOOD}, (2, ("disk",), 0)),
    ],
)
def test_how_copies_are_spread(copies: dict[str, CopyState], counted: tuple[int, tuple[str, ...], int]) -> None:
    """The data counts as one; copies that are not there, or at places that are no more, do not."""
    found = spread_of(backup(**copies), job_spec(destinations=(s3(), ftp("nas"))))
    assert (found.copies, found.media, found.offsite) == counted


@given(wanted=st.tuples(*[st.integers(0, 5)] * 3))
def test_what_is_missing_of_an_objective(wanted: tuple[int, int, int]) -> None:
    """Exactly what is less than demanded is told; nothing demanded, nothing is missing."""
    copies, media, offsite = wanted
    job = job_spec(destinations=(s3(),), copies=copies, media=media, offsite=offsite)
    found = spread_of(backup(local=GOOD, cloud=GOOD), job)
    assert len(lacking(found, job)) == (copies > 3) + (media > 2) + (offsite > 1)


def test_a_missed_spread_is_told_once_and_says_what_to_do() -> None:
    """It is a fault of the job, with what is missing and the commands that help; kept or not demanded it is none."""
    shown = {"backup": "b", "lacking": ["0 of 1 copies off-site"]}
    job = {"name": "shop", "protection": {"spread": shown | {"kept": False}}}
    fault = spread_fault(job)
    assert fault is not None
    assert (fault.key, "0 of 1 copies off-site" in fault.text) == ("spread:shop", True)
    assert "backupctl copies b" in fault.hint
    for kept in (True, None):
        assert spread_fault({"name": "shop", "protection": {"spread": shown | {"kept": kept}}}) is None


@given(number=st.integers(1, 9999), seal=st.sampled_from([".gpg", ".age"]), suffix=st.sampled_from([".tar.gz", ".tar"]))
def test_a_file_sealed_anew_has_a_name_of_its_own(number: int, seal: str, suffix: str) -> None:
    """It is still that backup's, sealed by that method, and leads back to the plain name."""
    name = backup_id("nanumpay", NOW)
    made = form_name(f"{name}{suffix}{seal}", number)
    parsed = parse_artifact(made)
    assert parsed is not None
    assert parsed[0] == name
    assert made != f"{name}{suffix}{seal}"
    assert (plain_name(made), sealed_by(made)) == (f"{name}{suffix}", sealed_by(seal.rjust(8, "x")))


@pytest.mark.parametrize("name", ["a.tar.gz.k1", "a.tar.gz.k0.gpg", "a.tar.gz.k01.age"])
def test_other_names_are_not_ours(name: str) -> None:
    """A form is numbered from 1 and is always sealed."""
    assert parse_artifact(name.replace("a", backup_id("nanumpay", NOW), 1)) is None


@given(share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_sample_is_drawn_by_name(share: float) -> None:
    """About the wanted share is read back, the same ones at every try, and none or all where that is said."""
    job = job_spec(read_back=share)
    copies = [Copy(backup=f"b{at}", destination="d", state=GOOD, key="k", size=1, updated=NOW) for at in range(400)]
    drawn = [wants_reading(job, copy, proven=True) for copy in copies]
    assert drawn == [wants_reading(job, copy, proven=True) for copy in copies]
    assert abs(sum(drawn) / 400 - share) < (0.08 if 0 < share < 1 else 0.0001)
    always = job_spec(read_back_unproven=True)
    assert wants_reading(always, copies[0], proven=False)
    assert not wants_reading(always, copies[0], proven=True)
