"""The doctor: what is well is said to be, what is not comes with what to do, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanumpay_backupd import doctor
from nanumpay_backupd.doctor import Check, check_destination, check_folder, check_job, check_tools
from nanumpay_backupd.errors import SourceError, StoreError
from nanumpay_backupd.settings.schema import Destination, FtpDestination, LocalDestination, Paths, S3Destination
from nanumpay_backupd.settings.sources import (
    FilesSource,
    MariadbSource,
    MongoSource,
    PostgresSource,
    RedisSource,
    SqliteSource,
)
from nanumpay_backupd.settings.sources import Source as AnySource
from nanumpay_backupd.sources.base import Dump, Estimate, Need
from nanumpay_backupd.sources.base import FolderSource as Source
from nanumpay_backupd.sources.factory import needs_of
from nanumpay_backupd.stores.base import ObjectInfo, Store
from nanumpay_backupd.stores.local import LocalStore
from nanumpay_backupd.system.secrets import Secret
from tests.workbench import NOW, job_spec, small_disk


class Answers(Source):
    """A source whose preflight gives or raises what a test wants."""

    def __init__(self, answer: Estimate | Exception) -> None:
        self._answer = answer

    def preflight(self) -> Estimate:
        """Answer."""
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def start(self, folder: Path) -> Dump:
        """The doctor dumps nothing."""
        raise AssertionError

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """The doctor reads no dump."""
        raise AssertionError


GOOD = Answers(Estimate(raw_bytes=12_300_000, summary="MongoDB 6.0.5 (standalone)"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Folders as an installation has them."""
    (tmp_path / "state").mkdir(mode=0o750)
    return Paths(backups=tmp_path / "backups", state=tmp_path / "state", socket=tmp_path / "socket")


@pytest.fixture
def disk(tmp_path: Path) -> LocalDestination:
    """A further disk."""
    return LocalDestination(name="disk2", path=str(tmp_path / "disk2"))


def open_local(destination: Destination) -> Store:
    """Open a further disk."""
    assert isinstance(destination, LocalDestination)
    return LocalStore(destination)


def states(checks: list[Check]) -> dict[str, str]:
    """Return name and state of each finding."""
    return {check.name: check.state for check in checks}


def test_where_all_is_well_everything_is_ok(
    paths: Paths, disk: LocalDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part is named once, nothing has a hint, and no trace is left at the destination or in the folder."""
    monkeypatch.setattr(doctor, "kept_right", lambda: True)
    monkeypatch.setattr(doctor, "_LOW_SPACE", 0)
    checks = list(check_job(job_spec(destinations=(disk,)), paths, GOOD, open_local, NOW))
    assert states(checks) == dict.fromkeys(
        [
            "nanumpay: source",
            "backups folder",
            "disk space",
            "staging",
            "state folder",
            "clock",
            "nanumpay: destination disk2",
        ],
        "ok",
    )
    assert len(checks) == 7
    assert not any(check.hint for check in checks)
    assert list(Path(disk.path).iterdir()) == []
    assert [path.name for path in paths.backups.rglob("*") if path.is_file()] == []


def test_a_source_that_fails_is_told_and_the_rest_is_still_looked_at(paths: Paths, disk: LocalDestination) -> None:
    """One fault hides no other finding, and brings its own hint along."""
    away = Answers(SourceError("MongoDB at db:27017 cannot be reached", hint="check that mongod runs"))
    checks = list(check_job(job_spec(destinations=(disk,)), paths, away, open_local, NOW))
    assert checks[0] == Check(
        "nanumpay: source", "failed", "MongoDB at db:27017 cannot be reached", "check that mongod runs"
    )
    assert states(checks)["nanumpay: destination disk2"] == "ok"


def test_no_destination_is_a_warning(paths: Paths) -> None:
    """Backups that stay on one host are legal and not wise."""
    checks = list(check_job(job_spec(), paths, GOOD, open_local, NOW))
    (found,) = (check for check in checks if check.name == "nanumpay: destinations")
    assert found.state == "warning"
    assert "backupd.toml" in found.hint


def test_a_folder_that_cannot_be_written_says_how_to_make_it(paths: Paths) -> None:
    """The hint is a command that can be copied."""
    paths.backups.write_text("in the way")
    (found,) = check_folder(paths)
    assert (found.name, found.state) == ("backups folder", "failed")
    assert str(paths.backups) in found.message
    assert found.hint.startswith("run: install -d -o nanumpay -g nanumpay ")


def test_little_space_is_a_warning(tmp_path: Path, paths: Paths) -> None:
    """Less than a gigabyte is told before it is too late."""
    with small_disk(tmp_path / "small", 4 << 20) as small:
        checks = list(check_folder(Paths(backups=small / "backups", state=paths.state, socket=paths.socket)))
    (found,) = (check for check in checks if check.name == "disk space")
    assert found.state == "warning"
    assert found.hint


def test_a_state_folder_that_others_can_read_is_a_warning(paths: Paths) -> None:
    """It holds last good settings, secrets included: the hint closes it."""
    paths.state.chmod(0o755)
    (found,) = (check for check in check_folder(paths) if check.name == "state folder")
    assert (found.state, found.hint) == ("warning", f"run: chmod o-rwx {paths.state}")
    paths.state.rmdir()
    (found,) = (check for check in check_folder(paths) if check.name == "state folder")
    assert found.state == "failed"


def test_a_clock_of_the_past_is_a_fault(paths: Paths) -> None:
    """A host without battery that thinks it is 2000 would name and prune backups wrongly."""
    checks = check_job(job_spec(), paths, GOOD, open_local, datetime(2000, 1, 1, tzinfo=UTC))
    (found,) = (check for check in checks if check.name == "clock")
    assert (found.state, found.message) == ("failed", "the clock says 2000-01-01")
    assert "timedatectl" in found.hint


MISSING = "/not/there"
SECRET = Secret("mongodb://127.0.0.1/shop")


@pytest.mark.parametrize(
    "source, what",
    [
        (MongoSource(uri=SECRET, database="", mongorestore=MISSING, mongod=MISSING), ["restores", "drills"]),
        (RedisSource(url=SECRET, redis_server=MISSING), ["drills"]),
        (SqliteSource(path=("/a",)), []),
        (FilesSource(path=("/a",)), []),
        (MariadbSource(mariadb_binlog=MISSING, mariadbd=MISSING), ["increments and restores to a moment", "drills"]),
        (PostgresSource(pg_restore=MISSING, postgres=MISSING), ["restores", "drills"]),
    ],
    ids=["mongodb", "redis", "sqlite", "files", "mariadb", "postgresql"],
)
def test_tools_that_will_be_needed_are_looked_for_now(source: AnySource, what: list[str]) -> None:
    """What a restore or a drill of a job would miss is a warning that says so and what to install, for every type."""
    found = list(check_tools(job_spec(source=source), needs_of(source)))
    assert [check.message for check in found] == [f"{one} would fail: {MISSING} was not found" for one in what]
    assert all(check.state == "warning" and "[tools]" in check.hint for check in found)


def test_tools_that_are_there_are_named_with_their_versions() -> None:
    """One finding has them all."""
    given = Need("drills", lambda: "/usr/sbin/thing 1.2"), Need("restores", lambda: "/usr/bin/thing 1.3")
    (found,) = check_tools(job_spec(), given)
    assert found == Check("nanumpay: tools", "ok", "drills: /usr/sbin/thing 1.2; restores: /usr/bin/thing 1.3")


class Lying(LocalStore):
    """Keeps other bytes than it was given."""

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield something else."""
        yield b"something else"


class Forgetful(LocalStore):
    """Does not list what it holds."""

    def list(self) -> Iterator[ObjectInfo]:
        """Yield nothing."""
        yield from ()


class Keeping(LocalStore):
    """Says that it deletes, and does not."""

    def delete(self, key: str) -> None:
        """Do nothing."""


class Refusing(LocalStore):
    """Refuses to be written to."""

    def put_bytes(self, key: str, data: bytes) -> None:  # type: ignore[override]
        """Refuse."""
        raise StoreError("no room at all", hint="make room", code="destination-full")


class Broken(LocalStore):
    """Has a defect."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Be defect."""
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "kind, sentence, hint",
    [
        (Lying, "did not read back the same", "do not use this place"),
        (Forgetful, "a listing does not show", "do not use this place"),
        (Keeping, "could not be deleted", "retention needs it"),
        (Refusing, "no room at all", "make room"),
        (Broken, "a defect of nanumpay-backupd", "please report"),
    ],
)
def test_a_destination_is_tried_and_every_way_to_fail_is_told(
    disk: LocalDestination, kind: type[LocalStore], sentence: str, hint: str
) -> None:
    """Put, list, get and delete are all looked at; the finding names the place and what to do."""
    (found,) = check_destination("nanumpay", disk, lambda _: kind(disk))
    assert (found.name, found.state) == ("nanumpay: destination disk2", "failed")
    assert found.message.startswith(f"{disk.path}: ")
    assert sentence in found.message
    assert hint in found.hint


@pytest.mark.parametrize(
    "destination, where",
    [
        (S3Destination(name="cloud", bucket="b", prefix="p/"), "s3://b/p/"),
        (FtpDestination(name="office", host="h", path="/backup"), "ftp://h:21/backup"),
        (FtpDestination(name="office", host="h", port=990, path="/backup", secure=True), "ftps://h:990/backup"),
    ],
)
def test_a_place_is_named_as_people_write_it(destination: Destination, where: str) -> None:
    """Findings name a remote place by its URL, without user or password."""

    def refuse(_: Destination) -> Store:
        raise StoreError("away", code="destination-unreachable")

    (found,) = check_destination("nanumpay", destination, refuse)
    assert found.message == f"{where}: away"
