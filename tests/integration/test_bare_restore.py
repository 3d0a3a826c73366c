"""`nanumpay-backupd restore --from PLACE` on a machine that has nothing but the copies: real servers at every place.

The command is called as a shell does, but in this process; what needs a terminal or signals is a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from pyftpdlib.handlers import FTPHandler
from pymongo import MongoClient

from nanumpay_backupd import __main__ as program
from nanumpay_backupd.model import Backup, OpTime
from nanumpay_backupd.settings.hostfile import DEFAULT_HOST_FILE
from nanumpay_backupd.settings.place import FTP_PASSWORD
from nanumpay_backupd.settings.schema import LocalDestination
from tests.chain_story import Content, Story, read
from tests.integration.test_cli import Terminal
from tests.servers.certs import make_certificate
from tests.servers.daemon import wait_for
from tests.servers.ftp import PASSWORD, FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.s3 import ACCESS_KEY, CACHE_SECONDS, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT
from tests.workbench import small_disk

pytestmark = pytest.mark.servers

DATABASE: Final = "bare_shop"
OTHER: Final = "bare_shop_beside"
PLACES: Final = ("s3", "ftp", "usb", "old")
SUFFIX: Final = ".manifest.json"
Document = dict[str, Any]


@dataclass(frozen=True)
class OldMachine:
    """What is left of a machine: its copies at every kind of place, and what its database held when."""

    story: Story
    s3: S3Server
    ftp: FtpServer
    usb: Path
    fulls: tuple[Backup, Backup]
    slices: tuple[Backup, ...]

    @property
    def places(self) -> dict[str, str]:
        """Return the words for the places: a bucket, an FTP folder, a folder of copies, the old backups folder."""
        return {
            "s3": f"s3://{self.s3.bucket}/shop",
            "ftp": f"ftp://{self.ftp.user}@{self.ftp.host}:{self.ftp.port}/backup/nanumpay",
            "usb": str(self.usb),
            "old": str(self.story.layout.backups),
        }

    @property
    def environment(self) -> dict[str, str]:
        """Return the secrets, where they belong."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        return {**keys, "AWS_ENDPOINT_URL": self.s3.endpoint, FTP_PASSWORD: PASSWORD}

    def changed(self, kind: str, name: str, root: Path, change: Callable[[Path], object]) -> str:
        """Make a copy of a place that is changed in some way; returns its word."""
        folder = {"s3": self.s3.root / self.s3.bucket / "shop", "ftp": self.ftp.folder, "usb": self.usb}
        copy = Path(shutil.copytree(folder.get(kind, self.story.layout.backups), root / name))
        change(copy)
        if kind == "ftp":
            shutil.move(copy, self.ftp.home / name)
            return f"ftp://{self.ftp.user}@{self.ftp.host}:{self.ftp.port}/{name}"
        if kind == "s3":
            shutil.move(copy, self.s3.root / self.s3.bucket / name)
            time.sleep(2 * CACHE_SECONDS)
            return f"s3://{self.s3.bucket}/{name}"
        return str(copy)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, mongod_rs: Mongod) -> Iterator[OldMachine]:
    """Two fulls and three slices, made by the product and copied everywhere: begin | first | second || third."""
    root = tmp_path_factory.mktemp("old-machine")
    with start_s3(root) as s3, start_pyftpdlib(root / "ftp") as ftp:
        usb = root / "usb"
        places = (s3.destination(prefix="shop/"), ftp.destination(), LocalDestination(name="usb", path=str(usb)))
        story = Story(mongod_rs, DATABASE, root, places)
        story.mark("begin")
        first = story.full()
        slices = []
        for name in ("first", "second"):
            story.mark(name)
            slices.append(story.slice())
        second = story.full()
        story.mark("third")
        slices.append(story.slice())
        yield OldMachine(story, s3, ftp, usb, (first, second), tuple(slices))
        with mongod_rs.client() as client:
            client.drop_database(DATABASE)


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def commands(self) -> list[list[str]]:
        """Return the commands that it told to type, split as a shell does, without the program's name."""
        return [shlex.split(found) for found in re.findall(r"nanumpay-backupd ([^;\n]+)", self.out + self.err)]


@dataclass(frozen=True)
class Machine:
    """The new machine: an empty MongoDB, the tools, an environment, a folder to work in."""

    server: Mongod
    client: MongoClient[Document]
    work: Path
    set: Callable[[str, str], None]

    def type(self, *words: str) -> Said:
        """Type ``nanumpay-backupd WORDS``, not at a terminal."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = program.main(list(words))
        assert "Traceback" not in err.getvalue()
        return Said(code, out.getvalue(), err.getvalue())

    def restore(self, *words: str) -> Said:
        """Type ``nanumpay-backupd restore WORDS``."""
        return self.type("restore", *words)

    def content(self, database: str = DATABASE) -> Content:
        """Return what a database holds."""
        return read(self.client, database)

    def spoil(self) -> Content:
        """Put something into the database that no backup holds; returns what is there then."""
        self.client[DATABASE].notes.replace_one({"_id": 0}, {"_id": 0, "text": "spoilt"}, upsert=True)
        self.client[DATABASE].late.insert_one({})
        return self.content()

    def clean(self) -> bool:
        """Tell whether nothing is left in the folder to work in."""
        return list(self.work.iterdir()) == []


@pytest.fixture
def machine(
    tmp_path: Path, mongod_standalone: Mongod, old: OldMachine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """A machine with nothing but MongoDB and the environment; there is no host file."""
    assert not DEFAULT_HOST_FILE.exists()
    for name, value in old.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MONGODB_URI", mongod_standalone.uri_for("something_else"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))
    with mongod_standalone.client() as client:
        yield Machine(mongod_standalone, client, work, monkeypatch.setenv)
        for name in (DATABASE, OTHER):
            client.drop_database(name)


# What there is, and the plain way


@pytest.mark.promise("The catalog may be lost: the manifests beside the backups have what it takes to go on.", item=5)
@pytest.mark.parametrize("kind", PLACES)
def test_latest_from_every_kind_of_place(old: OldMachine, machine: Machine, kind: str) -> None:
    """It is listed, planned without a change, and restored; nothing is left behind, the place is as it was."""
    place = old.places[kind]
    first, second = old.fulls
    before = sorted((path, path.stat().st_mtime_ns) for path in old.usb.iterdir())
    listed = machine.restore("--from", place, "--list")
    assert (listed.code, listed.err) == (0, "")
    assert [line.split()[0] for line in listed.out.splitlines()] == [second.id, first.id, "nanumpay:"]
    assert "verified" in listed.out
    assert "every second from" in listed.out

    planned = machine.restore("--from", place, "--dry-run")
    assert (planned.code, planned.err) == (0, "")
    assert second.id in planned.out
    assert f"into       database {DATABASE} at {machine.server.address}" in planned.out
    assert "there now  nothing" in planned.out
    assert planned.out.endswith("Nothing was done.\n")
    assert machine.content() == {}

    done = machine.restore("--from", place, "--yes")
    assert (done.code, done.err) == (0, "")
    assert machine.content() == old.story.held("second")
    assert machine.clean()
    assert before == sorted((path, path.stat().st_mtime_ns) for path in old.usb.iterdir())


def test_a_named_backup(old: OldMachine, machine: Machine) -> None:
    """A full by its id or its file's name; a slice stands for the moment of its end."""
    first, (_, second_slice, _) = old.fulls[0], old.slices
    for name, state in ((first.id, "begin"), (first.artifact, "begin"), (second_slice.id, "second")):
        assert machine.restore(name, "--from", old.places["usb"], "--yes", "--no-safety-backup").code == 0
        machine.client[DATABASE].drop_collection("late")
        assert {**machine.content(), **old.story.held(state)} == machine.content()
    assert machine.content() == old.story.held("second")


def local(moment: OpTime) -> str:
    """Write a moment as a clock in Seoul shows it."""
    return f"{moment.moment.astimezone(ZoneInfo('Asia/Seoul')):%Y-%m-%d %H:%M:%S}"


def utc(moment: OpTime) -> str:
    """Write a moment in UTC."""
    return f"{moment.moment:%Y-%m-%dT%H:%M:%SZ}"


def ago(moment: OpTime) -> str:
    """Write a moment as a time before now; a test that is too slow asks for a later one, and sees it."""
    return f"{int((datetime.now(UTC) - moment.moment).total_seconds())} seconds ago"


@pytest.mark.promise("Any moment that is offered is restored exactly.", item=13)
@pytest.mark.parametrize(
    "kind,state,written",
    [
        ("old", "first", local),
        ("s3", "second", utc),
        ("ftp", "third", str),
        ("usb", "first", lambda moment: local(moment)[-8:]),
        ("usb", "third", lambda _: "latest"),
        ("usb", "begin", utc),
    ],
    ids=["local time", "UTC", "oplog time", "time of day", "latest", "the first second"],
)
def test_a_moment(old: OldMachine, machine: Machine, kind: str, state: str, written: Callable[[OpTime], str]) -> None:
    """However it is written, the database becomes exactly what it was then; what came later is dropped."""
    machine.set("TZ", "Asia/Seoul")
    machine.spoil()
    words = ("--from", old.places[kind], "--at", written(old.story.moment(state)), "--no-safety-backup", "--yes")
    done = machine.restore(*words)
    assert (done.code, done.err) == (0, "")
    assert machine.content() == old.story.held(state)
    assert machine.clean()


def test_words_for_a_moment(old: OldMachine, machine: Machine, tmp_path: Path) -> None:
    """The words that backupctl knows are known here; the zone is the host file's, else the host's."""
    config = tmp_path / "backupd.toml"
    config.write_text("timezone = 'America/New_York'\n", encoding="utf-8")
    place = old.places["usb"]
    said = machine.type("--config", str(config), "restore", "--from", place, "--at", "2026-01-02 10:00", "--dry-run")
    assert (said.code, "2026-01-02 15:00:00 UTC cannot be restored" in said.err) == (6, True)
    assert "it is before the first backup" in said.err
    said = machine.restore("--from", place, "--at", "3 weeks ago", "--dry-run")
    assert (said.code, "it is before the first backup" in said.err) == (6, True)
    said = machine.restore("--from", place, "--at", f"{utc(old.story.moment('first'))[:-1]}.5Z", "--dry-run")
    assert said.code == 0
    assert said.out.startswith("! The oplog counts whole seconds")


@pytest.mark.parametrize(
    "words,database",
    [(("--to-db", OTHER), OTHER), (("--collection", "notes"), DATABASE)],
    ids=["another database", "one collection"],
)
@pytest.mark.parametrize("at", [False, True], ids=["a backup", "a moment"])
def test_only_a_part_or_elsewhere(
    old: OldMachine, machine: Machine, words: tuple[str, ...], database: str, *, at: bool
) -> None:
    """Beside what is there, or one collection of it; all else stays as it is."""
    before = machine.spoil()
    state = "first" if at else "second"
    more = ("--at", utc(old.story.moment(state))) if at else ()
    done = machine.restore("--from", old.places["old"], *words, *more, "--yes", "--no-safety-backup")
    assert (done.code, done.err) == (0, "")
    held = old.story.held(state)
    if database == OTHER:
        assert machine.content(OTHER) == held
        assert machine.content() == before
    else:
        assert machine.content() == {**before, "notes": held["notes"]}


def test_by_a_name_of_the_host_file(old: OldMachine, machine: Machine, tmp_path: Path) -> None:
    """A destination of the host file is named by its name, and what is told to type names the file as well."""
    config = tmp_path / "backupd.toml"
    config.write_text(f"[destination.disk]\ntype = 'local'\npath = '{old.usb}'\n", encoding="utf-8")
    said = machine.type("--config", str(config), "restore", "nope", "--from", "disk", "--dry-run")
    assert (said.code, "no backup 'nope' at disk" in said.err) == (6, True)
    (command,) = said.commands
    assert command == ["--config", str(config), "restore", "--from", "disk", "--list"]
    assert old.fulls[0].id in machine.type(*command).out


def test_what_is_said_of_a_place_behind_a_question_mark(
    old: OldMachine, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint for S3, a fingerprint for FTPS: as in the host file."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    said = machine.restore("--from", f"{old.places['s3']}?endpoint_url={old.s3.endpoint}", "--list")
    assert (said.code, old.fulls[0].id in said.out) == (0, True)
    certificate = make_certificate(tmp_path / "certs")
    with start_pyftpdlib(tmp_path / "ftps", certificate) as ftps:
        shutil.copytree(old.usb, ftps.home / "copies")
        word = f"ftps://{ftps.user}@{ftps.host}:{ftps.port}/copies"
        untrusted = machine.restore("--from", word, "--list")
        assert (untrusted.code, "destination-tls" in untrusted.err) == (1, True)
        said = machine.restore("--from", f"{word}?tls_fingerprint={certificate.fingerprint}", "--list")
        assert (said.code, old.fulls[0].id in said.out) == (0, True)


# What is refused


def test_off_a_terminal_it_is_refused_before_anybody_is_asked(machine: Machine) -> None:
    """Without --yes nothing is even looked at."""
    said = machine.restore("--from", f"ftp://nobody@127.0.0.1:{free_port()}/")
    assert (said.code, said.out) == (7, "")
    assert "--dry-run" in said.err
    assert machine.clean()


SECRET: Final = "hunter2"


@pytest.mark.parametrize(
    "words,code,says",
    [
        (("nope", "--from", "{usb}"), 6, "there is no backup 'nope' at {usb}"),
        (("--from", "{usb}", "--job", "shop"), 6, "there is no backup of job 'shop'"),
        (("--from", "{usb}", "--job", "shop", "--list"), 6, "the jobs are: nanumpay"),
        (("{full}", "--from", "{usb}", "--job", "shop"), 2, "is not of job shop, but of nanumpay"),
        (("--from", "{usb}", "--collection", "nope"), 6, "has no collection 'nope'"),
        (("--from", "{usb}", "--to-db", "admin"), 7, "'admin' cannot be the name of a database"),
        (("--from", "{usb}", "--at", "soon"), 2, "'soon' is no time that is understood here"),
        (("--from", "{usb}", "--at", "2099-01-01 10:00Z"), 7, "is in the future"),
        (("--from", "{usb}", "--at", "2020-01-01 10:00Z"), 6, "before the first backup"),
        (("--from", "{usb}", "--work", "/nowhere/at/all"), 2, "no working folder can be made"),
        (("--from", "{empty}"), 6, "there is no backup at {empty}"),
        (("--from", "s3://backups/empty"), 6, "there is no backup at s3://backups/empty/"),
        (("--from", "s3://nobucket/"), 1, "NoSuchBucket"),
        (("--from", "{ftp}/nowhere"), 6, "there is no backup at ftp://"),
        (("--from", "/nowhere/at/all"), 2, "there is no folder /nowhere/at/all"),
        (("--from", "offsite"), 2, "'offsite' is neither a folder nor a destination (none in the host file)"),
        (("--from", f"ftp://backup:{SECRET}@127.0.0.1/x"), 2, "a password that stands there"),
        (("--from", f"s3://key:{SECRET}@backups/x"), 2, "keys that stand there"),
        (("--from", "ftp://backup@127.0.0.1:{port}/x"), 1, "Connection refused"),
    ],
)
def test_what_is_refused(old: OldMachine, machine: Machine, words: tuple[str, ...], code: int, says: str) -> None:
    """A sentence and a hint, the right exit code, and nothing was changed or left behind."""
    before = machine.spoil()
    (machine.work.parent / "empty").mkdir()
    known = {**old.places, "full": old.fulls[0].id, "empty": str(machine.work.parent / "empty"), "port": free_port()}
    said = machine.restore(*(word.format(**known) for word in words), "--yes")
    assert (said.code, says.format(**known) in said.err) == (code, True), said.err
    assert "\n  → " in said.err
    assert "backupctl" not in said.err
    assert SECRET not in said.out + said.err
    assert machine.content() == before
    assert machine.clean()


@pytest.mark.parametrize("kind,name", [("s3", "AWS_SECRET_ACCESS_KEY"), ("ftp", FTP_PASSWORD)])
def test_wrong_keys(old: OldMachine, machine: Machine, kind: str, name: str) -> None:
    """The place says no, and it is told which variable has to be right; its value is not shown."""
    machine.set(name, "not-the-password")
    said = machine.restore("--from", old.places[kind], "--list")
    assert said.code == 1
    assert name in said.err
    assert re.search(r"code destination-(auth|denied)", said.err)
    assert "not-the-password" not in said.err


def test_several_jobs(old: OldMachine, machine: Machine) -> None:
    """Where there are backups of more than one, it is asked which is meant, and only those are then looked at."""
    full = old.fulls[0]
    theirs = full.id.replace("nanumpay", "shop")

    def add(folder: Path) -> None:
        manifest = (folder / f"{full.artifact}{SUFFIX}").read_bytes()
        shutil.copy(folder / full.artifact, folder / f"{theirs}.tar.gz")
        renamed = manifest.replace(b'"nanumpay-', b'"shop-').replace(b'"job":"nanumpay"', b'"job":"shop"')
        (folder / f"{theirs}.tar.gz{SUFFIX}").write_bytes(renamed)

    word = old.changed("usb", "two-jobs", machine.work.parent, add)
    said = machine.restore("--from", word, "--dry-run")
    assert (said.code, "there are backups of 2 jobs" in said.err) == (7, True)
    assert "--job nanumpay or shop" in said.err
    assert theirs in machine.restore("--from", word, "--job", "shop", "--dry-run").out
    listed = machine.restore("--from", word, "--list", "--job", "shop").out
    assert (theirs in listed, full.id in listed) == (True, False)
    assert machine.restore(full.id, "--from", word, "--dry-run").code == 0


# Damage at the place


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(file: Path) -> None:
    """Take the end away."""
    os.truncate(file, file.stat().st_size - 7)


def garble(file: Path) -> None:
    """Make the manifest no JSON."""
    beside = file.with_name(f"{file.name}{SUFFIX}")
    beside.write_bytes(beside.read_bytes()[:-20])


def take(file: Path, other: Path) -> None:
    """Put the other one's manifest beside the file."""
    shutil.copy(other.with_name(f"{other.name}{SUFFIX}"), file.with_name(f"{file.name}{SUFFIX}"))


DAMAGE: Final[dict[str, Callable[[Path, Path], object]]] = {
    "one bit": lambda file, _: flip(file),
    "truncated": lambda file, _: cut(file),
    "missing": lambda file, _: file.unlink(),
    "another's file": lambda file, other: shutil.copy(other, file),
    "manifest garbled": lambda file, _: garble(file),
    "another's manifest": take,
}


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
@pytest.mark.parametrize(
    "kind,damage", [*(("usb", damage) for damage in DAMAGE), ("s3", "one bit"), ("ftp", "one bit"), ("s3", "missing")]
)
def test_a_damaged_full_is_refused_and_the_next_older_is_offered(
    old: OldMachine, machine: Machine, kind: str, damage: str
) -> None:
    """Before anything is dropped; the file is named, and what is offered can be typed as it stands there."""
    first, second = old.fulls
    name = f"full-{damage.replace(' ', '-')}"
    word = old.changed(
        kind,
        name,
        machine.work.parent,
        lambda folder: DAMAGE[damage](folder / second.artifact, folder / first.artifact),
    )
    before = machine.spoil()
    said = machine.restore("--from", word, "--yes")
    assert said.code in (1, 7), said.err
    assert second.id in said.err
    assert machine.content() == before
    assert machine.clean()
    command = said.commands[-1]
    assert command[:2] == ["restore", first.id]
    done = machine.type(*command, "--yes", "--no-safety-backup")
    assert (done.code, done.err) == (0, "")
    assert machine.content()["notes"] == old.story.held("begin")["notes"]
    if damage != "one bit":
        assert f"! not usable: {second.artifact}: " in done.out
        assert f"! {second.artifact}: " in machine.restore("--from", word, "--list").out


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_same_moment_is_found_by_another_way(old: OldMachine, machine: Machine, damage: str) -> None:
    """With the newer full damaged, a moment after it is restored from the older one, through all slices since."""
    first, second = old.fulls
    word = old.changed(
        "usb",
        "moment",
        machine.work.parent,
        lambda folder: DAMAGE[damage](folder / second.artifact, folder / first.artifact),
    )
    machine.spoil()
    words = ("--from", word, "--at", utc(old.story.moment("third")), "--yes", "--no-safety-backup")
    done = machine.restore(*words)
    if damage == "one bit" or (damage == "another's file" and done.code):
        assert done.code == 1
        assert second.artifact in done.err
        assert f"restore {first.id} --at" in done.err
        done = machine.type(*done.commands[0], "--yes", "--no-safety-backup")
    assert (done.code, done.err) == (0, "")
    assert machine.content() == old.story.held("third")


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_slice_is_refused_and_named(old: OldMachine, machine: Machine, damage: str) -> None:
    """Moments behind it cannot be restored, and those before it are offered."""
    first, second, _ = old.slices
    word = old.changed(
        "usb",
        "slices",
        machine.work.parent,
        lambda folder: DAMAGE[damage](folder / first.artifact, folder / second.artifact),
    )
    before = machine.spoil()
    said = machine.restore("--from", word, "--at", utc(old.story.moment("first")), "--yes")
    assert said.code in (1, 6)
    assert first.id in said.err
    assert machine.content() == before
    assert machine.clean()
    if said.code == 1:
        done = machine.type(*said.commands[0], "--yes", "--no-safety-backup")
        assert (done.code, done.err) == (0, "")
        assert machine.content() == old.story.held("begin")


def test_what_was_never_finished_is_passed_over(old: OldMachine, machine: Machine) -> None:
    """An upload that was cut off has no manifest: it is not the newest backup, and it is said that it is there."""
    cut_off = "nanumpay-backup-2099-01-01T00-00-00.tar.gz"

    def add(folder: Path) -> None:
        (folder / cut_off).write_bytes((folder / old.fulls[1].artifact).read_bytes()[:300])

    word = old.changed("usb", "unfinished", machine.work.parent, add)
    said = machine.restore("--from", word, "--dry-run")
    assert (said.code, old.fulls[1].id in said.out) == (0, True)
    assert f"! passed over: {cut_off}" in said.out
    refused = machine.restore(cut_off, "--from", word, "--yes")
    assert (refused.code, cut_off in refused.err) == (1, True)
    assert machine.content() == {}


@pytest.mark.parametrize("kind", ["s3", "old"])
def test_archives_of_the_old_program(old: OldMachine, machine: Machine, kind: str) -> None:
    """Without a manifest they are restored when they are named, counted as found, into the database that is said."""

    def strip(folder: Path) -> None:
        shutil.rmtree(folder / ".backupd", ignore_errors=True)
        for path in folder.glob(f"*{SUFFIX}"):
            path.unlink()

    word = old.changed(kind, "legacy", machine.work.parent, strip)
    name = old.fulls[1].id
    said = machine.restore("--from", word, "--yes")
    assert (said.code, "there is no full backup with a manifest" in said.err) == (6, True)
    assert said.commands[0][:2] == ["restore", name]
    assert "legacy" in machine.restore("--from", word, "--list").out
    done = machine.type(*said.commands[0], "--to-db", DATABASE, "--yes")
    assert not done.err, done.err
    assert (done.code, done.err) == (0, "")
    assert machine.content() == old.story.held("second")


# The target, the room, the end


@pytest.mark.promise("A restore overwrites nothing unasked, and what was there can be had back.", item=13)
def test_what_was_there_is_kept_and_can_be_had_back(old: OldMachine, machine: Machine) -> None:
    """The safety backup outlives the working folder, and the command that is shown brings it back."""
    before = machine.spoil()
    done = machine.restore("--from", old.places["old"], "--yes")
    assert (done.code, done.err) == (0, "")
    assert machine.content() != before
    (kept,) = machine.work.iterdir()
    assert [path.name for path in kept.iterdir()] == ["backups"]
    assert f"is kept in {kept}/backups\n" in done.out
    (safety,) = (kept / "backups").glob("nanumpay-safety-backup-*.tar.gz")
    (command,) = done.commands
    assert command == ["restore", safety.name.removesuffix(".tar.gz"), "--from", str(kept / "backups")]
    for name in old.story.held("second"):
        machine.client[DATABASE].drop_collection(name)
    assert machine.type(*command, "--yes", "--no-safety-backup").code == 0
    assert machine.content() == before


def test_a_place_that_can_only_be_read(old: OldMachine, machine: Machine) -> None:
    """A folder on a read-only mount is enough."""
    mount = machine.work.parent / "mounted"
    mount.mkdir()
    for kind in ("old", "usb"):
        subprocess.run(["mount", "--bind", old.places[kind], mount], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
            assert machine.restore("--from", str(mount), "--yes", "--no-safety-backup").code == 0
            assert machine.content() == old.story.held("second")
        finally:
            subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("size", [64 << 10, 40 << 20], ids=["no room for the catalog", "no room to unpack"])
def test_a_folder_to_work_in_without_room(old: OldMachine, machine: Machine, size: int) -> None:
    """It is said before anything is changed, and how another one is named."""
    before = machine.spoil()
    with small_disk(machine.work.parent / "small", size) as disk:
        said = machine.restore("--from", old.places["usb"], "--yes", "--work", str(disk))
        assert said.code == 1, said.err
        assert "--work DIR" in said.err
        assert list(disk.iterdir()) == []
    assert machine.content() == before


def test_at_a_terminal_it_is_asked_by_name(old: OldMachine, machine: Machine) -> None:
    """What replaces something wants the name of the database; anything else does nothing."""
    before = machine.spoil()
    for answer, code in ((DATABASE[:-1], 7), (DATABASE, 0)):
        with At(machine, "--from", old.places["usb"], "--no-safety-backup") as terminal:
            terminal.wait_for("type the name of the database: ")
            terminal.type(f"{answer}\n")
            assert terminal.end() == code, terminal.text
        if code:
            assert terminal.text.endswith("Nothing was done.\n")
            assert machine.content() == before
    assert {**machine.content(), **old.story.held("second")} == machine.content()


class At(Terminal):
    """The command at a terminal, where Ctrl-C reaches all of its processes."""

    program = "nanumpay_backupd"

    def __init__(self, machine: Machine, *words: str, config: Path | None = None) -> None:
        own = ("--config", str(config)) if config is not None else ()
        super().__init__(machine.work, *own, "restore", *words)


CTRL_C: Final = "\x03"


def slow(machine: Machine, tool: str) -> Path:
    """Make a host file with a tool that takes for ever; returns the file."""
    folder = machine.work.parent
    script = folder / tool
    script.write_text(
        f'#!/bin/bash\n[ "$1" = --version ] && exec {shutil.which(tool)} --version\ntouch {folder}/begun\n'
        "exec sleep 60\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    config = folder / "backupd.toml"
    config.write_text(f"[tools]\n{tool} = '{script}'\n", encoding="utf-8")
    return config


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_stopped_while_something_is_changed(old: OldMachine, machine: Machine) -> None:
    """Ctrl-C in the middle of mongorestore: what state the database is in, and both ways on, as they can be typed."""
    before = machine.spoil()
    config = slow(machine, "mongorestore")
    with At(machine, "--from", old.places["usb"], "--yes", config=config) as terminal:
        wait_for((machine.work.parent / "begun").exists, "mongorestore")
        terminal.type(CTRL_C)
        assert terminal.end() == 130, terminal.text
    assert f"database {DATABASE} is half restored" in terminal.text
    (kept,) = machine.work.iterdir()
    said = Said(130, terminal.text, "")
    again, back = said.commands[0], said.commands[-1]
    assert again == ["--config", str(config), "restore", old.fulls[1].id, "--from", old.places["usb"]]
    assert back[-2:] == ["--from", str(kept / "backups")]
    machine.client.drop_database(DATABASE)
    assert machine.type(*back[2:], "--yes").code == 0
    assert machine.content() == before


def test_stopped_before_anything_is_changed(old: OldMachine, machine: Machine) -> None:
    """Ctrl-C while the safety backup is made: nothing was changed, and nothing is left."""
    before = machine.spoil()
    config = slow(machine, "mongodump")
    with At(machine, "--from", old.places["usb"], "--yes", config=config) as terminal:
        wait_for((machine.work.parent / "begun").exists, "mongodump")
        terminal.type(CTRL_C)
        assert terminal.end() == 130, terminal.text
    assert "nothing was changed" in terminal.text
    assert machine.content() == before
    assert machine.clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_a_place_does_not_answer(machine: Machine, number: int) -> None:
    """A server that accepts and then says nothing does not hold the command up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        word = f"ftp://backup@127.0.0.1:{server.getsockname()[1]}/x"
        command = [sys.executable, "-m", "nanumpay_backupd", "restore", "--from", word, "--dry-run"]
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        connection, _ = server.accept()
        with connection:
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
    assert (process.returncode, "nothing was changed" in said) == (130, True)
    assert "Traceback" not in said
    assert machine.clean()


class Stalling(FTPHandler):
    """Hands out manifests, and says nothing when an archive is asked for."""

    def ftp_RETR(self, file: str) -> Any:
        """Send a file, or leave the client waiting."""
        return None if file.endswith(".tar.gz") else super().ftp_RETR(file)


def test_a_second_ctrl_c_ends_it_at_once(old: OldMachine, machine: Machine) -> None:
    """Where the first one is not noticed in time, the second does not wait; the state is told all the same."""
    with start_pyftpdlib(old.ftp.home, handler=Stalling) as ftp:
        word = f"ftp://{ftp.user}@{ftp.host}:{ftp.port}/backup/nanumpay"
        with At(machine, "--from", word, "--yes") as terminal:
            terminal.wait_for("fetch")
            terminal.type(CTRL_C)
            terminal.wait_for("again")
            terminal.type(CTRL_C)
            assert terminal.end() == 130, terminal.text
    assert "nothing was changed in the database" in terminal.text
    assert machine.clean()
