"""What is too long or too much for a run, by key and stage; and that the sentence says which limit it was."""

from __future__ import annotations

import msgspec
import pytest

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.model import Stage
from nanumpay_backupd.pipeline.limits import go_limit, overdue, too_large, upload_overdue
from nanumpay_backupd.pipeline.report import Elapsed
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import Destination, FtpDestination, Limits, LocalDestination, S3Destination
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.throttled import ThrottledStore
from nanumpay_backupd.system.family import Member

HOUR = 3600.0
DAY = 24 * HOUR
ALL = Limits(run=DAY, preflight=600.0, dump=6 * HOUR, verify=12 * HOUR, upload=HOUR, restore=2 * DAY, stall=1800.0)


@pytest.mark.parametrize(
    "action, elapsed, limits, key",
    [
        # run, stage, nothing moved: in seconds
        ("backup", Elapsed(Stage.DUMP, 60, 50, 1), Limits(), None),
        ("backup", Elapsed(Stage.DUMP, 60, 50, 1801), Limits(), "stall"),
        ("backup", Elapsed(Stage.DUMP, 20 * HOUR, 20 * HOUR, 1), Limits(), None),
        ("backup", Elapsed(Stage.DUMP, 7 * HOUR, 7 * HOUR, 1), ALL, "dump"),
        ("backup", Elapsed(Stage.DUMP, DAY + 1, 5 * HOUR, 1), Limits(), "run"),
        ("backup", Elapsed(Stage.PREFLIGHT, 601, 601, 601), Limits(), "preflight"),
        ("backup", Elapsed(Stage.VERIFY, 13 * HOUR, 13 * HOUR, 1), ALL, "verify"),
        ("backup", Elapsed(Stage.COMPRESS, 2 * HOUR, 1900, 1900), Limits(), "stall"),
        # What is good by then stays good, and uploads have a limit of their own.
        ("backup", Elapsed(Stage.UPLOAD, 9 * DAY, 9 * DAY, 9 * DAY), ALL, None),
        ("backup", Elapsed(Stage.RETENTION, 9 * DAY, 23 * HOUR, 23 * HOUR), ALL, None),
        ("backup", Elapsed(Stage.PUBLISH, 9 * DAY, 23 * HOUR, 23 * HOUR), ALL, None),
        ("backup", Elapsed(Stage.RETENTION, 9 * DAY, DAY + 1, DAY + 1), ALL, "run"),
        ("backup", Elapsed(None, 9 * DAY, 9 * DAY, 9 * DAY), ALL, None),
        # Building an index is silent; the drill as a whole is not for ever.
        ("drill", Elapsed(Stage.RESTORE, 5 * HOUR, 5 * HOUR, 5 * HOUR), ALL, None),
        ("drill", Elapsed(Stage.RESTORE, DAY + 1, 5 * HOUR, 1), ALL, "run"),
        ("drill", Elapsed(Stage.FETCH, 5 * HOUR, 5 * HOUR, 1801), ALL, "stall"),
        # All copies of years take as long as they take.
        ("verify", Elapsed(Stage.VERIFY, 9 * DAY, 9 * DAY, 1), Limits(), None),
        ("verify", Elapsed(Stage.VERIFY, HOUR, HOUR, 1801), Limits(), "stall"),
        ("slice", Elapsed(Stage.CAPTURE, HOUR, HOUR, 1801), Limits(), "stall"),
        # A restore is never cut off unless somebody wants that.
        ("restore", Elapsed(Stage.RESTORE, 9 * DAY, 9 * DAY, 9 * DAY), Limits(), None),
        ("restore", Elapsed(Stage.FETCH, 9 * DAY, 9 * DAY, 9 * DAY), Limits(), None),
        ("restore", Elapsed(Stage.RESTORE, 3 * DAY, 1, 1), ALL, "restore"),
        ("backup", Elapsed(Stage.DUMP, 9 * DAY, 9 * DAY, 9 * DAY), Limits(run=0, preflight=0, stall=0), None),
    ],
)
def test_what_is_too_long(action: str, elapsed: Elapsed, limits: Limits, key: str | None) -> None:
    """Each stage by its own limit, by standstill where something moves all the time, and the run as a whole."""
    fault = overdue(limits, "nanumpay", action, elapsed)
    assert (fault is None) is (key is None)
    if fault is not None and key is not None:
        assert (fault.code, fault.retryable) == ("deadline", True)
        assert f"{key} in [limits] or [nanumpay.limits] of backupd.toml" in fault.hint
        assert "job.limits" in getattr(overdue(limits, "shop", action, elapsed), "hint", "")


def test_an_upload_is_too_long_by_itself() -> None:
    """By its own limit or by standstill; whether others take longer does not matter to it."""
    assert upload_overdue(Limits(), "nanumpay", "the upload to app", 9 * DAY, 1) is None
    slow = upload_overdue(ALL, "nanumpay", "the upload to app", HOUR + 1, 1)
    silent = upload_overdue(Limits(), "nanumpay", "the upload to app", HOUR, 1801)
    assert slow is not None
    assert silent is not None
    assert slow.message == "the upload to app was ended: it took longer than 1h"
    assert silent.message == "the upload to app was ended: nothing moved for 30m"


def test_what_is_too_much_memory() -> None:
    """All processes together count, and the largest are named; without a limit nothing is too much."""
    family = [Member(1, "python3", 90_000_000), Member(2, "mongodump", 800_000_000)]
    assert too_large(Limits(), "nanumpay", family) is None
    assert too_large(Limits(memory=890_000_000), "nanumpay", family) is None
    fault = too_large(Limits(memory=889_999_999), "nanumpay", family)
    assert fault is not None
    assert (fault.code, fault.retryable) == ("memory-limit", False)
    assert "890 MB of memory (mongodump 800 MB, python3 90.0 MB)" in fault.message
    assert go_limit(Limits()) == ""
    assert go_limit(Limits(memory=1_000_000_000)) == "600000000"


def test_a_jobs_own_table_counts_before_the_general_one() -> None:
    """Key by key; a list of windows takes the place of the other as a whole, also an empty one."""
    host = parse_host_file(
        "[limits]\nstall = '5m'\ndump = '1h'\nblackout = ['mon-fri 9:00-18:00']\nmax_parallel = 4\n"
        "[retry]\nattempts = 5\nrun_attempts = 1\n[nanumpay.limits]\nblackout = []\nmemory = '1GiB'\n"
        "[[job]]\nname = 'shop'\n[job.limits]\ndump = '0s'\n[job.retry]\nrun_attempts = 2\n"
        "[[job]]\nname = 'other'\n",
        "",
    )
    application, shop, other = build_jobs(host, None)
    assert host.limits.max_parallel == 4
    assert application.limits == Limits(stall=300.0, dump=HOUR, memory=1 << 30)
    assert shop.limits == Limits(stall=300.0, blackout=("mon-fri 09:00-18:00",))
    assert other.limits == Limits(stall=300.0, dump=HOUR, blackout=("mon-fri 09:00-18:00",))
    assert [(job.retry.attempts, job.retry.run_attempts) for job in (application, shop, other)] == [
        (5, 1),
        (5, 2),
        (5, 1),
    ]


@pytest.mark.parametrize(
    "text, told",
    [
        ("[limits]\nblackout = ['00:00-24:00']", "limits.blackout leaves no time in the whole week"),
        ("[nanumpay.limits]\nblackout = ['22:00-10:00', '10:00-22:00']", "nanumpay.limits.blackout leaves no time"),
        ("[[job]]\nname = 'shop'\n[job.limits]\nblackout = '00:00-24:00'", "job.shop.limits.blackout leaves no time"),
        ("[limits]\nblackout = ['9-18']", 'limits.blackout is "9-18", but must be a list of times'),
        ("[[job]]\nname = 'shop'\n[job.limits]\nmax_parallel = 2", "job.shop.limits.max_parallel is not a known key"),
        ("[limits]\nstal = '5m'", "did you mean limits.stall"),
        ("[destination.usb]\ntype = 'local'\npath = '/mnt'\nbandwidth = '1KiB'", "is slower than 16 KiB"),
    ],
)
def test_limits_that_make_no_sense_are_refused(text: str, told: str) -> None:
    """With the key's path, the reason and the fix, as everything in the host file."""
    with pytest.raises(ConfigError) as caught:
        parse_host_file(text, "")
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_every_kind_of_place_keeps_to_its_bandwidth_unless_somebody_waits() -> None:
    """Bucket, server and folder alike; without a limit, and for a restore, nothing stands in between."""
    places: list[Destination] = [
        S3Destination(name="bucket", bucket="b", bandwidth=1 << 20),
        FtpDestination(name="server", host="h", bandwidth=1 << 20),
        LocalDestination(name="folder", path="/srv", bandwidth=1 << 20),
    ]
    for place in places:
        assert isinstance(open_store(place), ThrottledStore)
        assert not isinstance(open_store(place, hurry=True), ThrottledStore)
        assert not isinstance(open_store(msgspec.structs.replace(place, bandwidth=0)), ThrottledStore)
