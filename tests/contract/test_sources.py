"""What sources.base promises, asked of every type of source on its real server (see participants)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, NotFoundError, VerifyError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Kind, Manifest, Outcome, Run, Stage, StageRecord
from nanumpay_backupd.pipeline.bringback import plan_bringing_back
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import (
    JobEncryption,
    LocalDestination,
    Paths,
    RestoreOrder,
    RunSpec,
    VerifyOrder,
    encode_spec,
)
from nanumpay_backupd.settings.sources import type_of
from nanumpay_backupd.sources.base import WHOLE, Dump, FolderSource, Harvest, Stream, StreamSource, Wanted
from nanumpay_backupd.sources.factory import open_driver, open_source
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.wording import WORDS
from nanumpay_backupd.worker import execute
from tests.contract.participants import PARTICIPANTS, Participant
from tests.keys import age_key
from tests.workbench import Ear, SetClock, job_spec, small_disk

pytestmark = pytest.mark.servers

_ENOUGH: Final = 60.0
_BIG: Final = 64
"""Megabytes that a source is grown by."""
_FLAT: Final = 40 << 20
"""Bytes of memory that a run may take more where the source holds so much more."""


@pytest.fixture(scope="module", params=PARTICIPANTS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Participant]:
    """Make each participant once."""
    kind: str = request.param
    with PARTICIPANTS[kind](tmp_path_factory.mktemp("source")) as participant:
        assert type_of(participant.settings) == kind.partition(",")[0]
        participant.fill()
        yield participant


@pytest.fixture
def able(source: Participant) -> Participant:
    """Leave out those whose restores have tests of their own."""
    if not source.restores:
        pytest.skip("its way back has tests of its own")
    return source


class Clock(SetClock):
    """A set clock whose short rests, while a tool writes, are real."""

    def sleep(self, seconds: float) -> None:
        """Rest really for less than a twentieth of a second, else move on."""
        if seconds < 0.05:
            time.sleep(seconds)
        else:
            super().sleep(seconds)


class Site:
    """A host with one job, without a daemon."""

    def __init__(self, root: Path, source: Participant, **job: Any) -> None:
        self.layout = Layout(root / "backups")
        self.clock, self.ear = Clock(), Ear()
        self.paths = Paths(backups=root / "backups", state=root / "state", socket=root / "socket")
        (root / "state").mkdir()
        self.job = job_spec(name="thing", source=source.settings, **job)
        self.runs = 0

    def run(self, action: str = "backup", *, cancel: str = "", **more: Any) -> Run:
        """Do one run as a worker does; ``cancel`` names the stage in which somebody cancels it."""
        self.runs += 1
        self.clock.moment += timedelta(seconds=5)
        spec = RunSpec(run=f"run{self.runs}", job=self.job, paths=self.paths, trigger="manual", action=action, **more)

        def begin(recorder: Recorder) -> None:
            if cancel:
                self.ear.stage = lambda record: recorder.cancel() if record.stage == cancel else None  # type: ignore[method-assign]

        return execute(spec, self.ear, self.clock, on_start=begin)

    def backups(self) -> list[Backup]:
        """Return what the catalog knows, with manifests, newest first."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            found = [catalog.backup(one.id) for one in catalog.backups()]
        return [one for one in found if one is not None]

    def restore(self, backup: Backup, wanted: Wanted, **order: Any) -> Run:
        """Restore a backup."""
        said = {"to_database": wanted.to, "only": wanted.only, "overwrite": wanted.overwrite, "options": wanted.options}
        return self.run("restore", restore=RestoreOrder(backup=backup.id, **{**said, **order}))


@pytest.fixture
def site(tmp_path: Path, source: Participant) -> Site:
    """Give a host without backups."""
    return Site(tmp_path, source)


def good(run: Run) -> Run:
    """Return a run that succeeded."""
    assert run.outcome is Outcome.SUCCEEDED, run.error
    return run


# The source


def test_it_is_called_by_name(source: Participant) -> None:
    """Its settings say in words what is backed up, show no secret, and its things have names."""
    assert source.settings.described
    assert not source.secret or source.secret not in source.settings.described + repr(source.settings)
    assert type_of(source.settings) in WORDS


def test_its_settings_take_increments_where_it_makes_them(able: Participant) -> None:
    """A job may have ``incremental`` and the like exactly where its source makes increments."""
    assert able.settings.increments == bool(open_source(able.settings).kinds & {Kind.INCREMENTAL, Kind.DIFFERENTIAL})


def test_preflight_tells_and_writes_nothing(source: Participant, tmp_path: Path) -> None:
    """It can be asked twice, estimates more than nothing, and leaves what is backed up as it was."""
    before = source.content()
    opened = open_source(source.settings)
    first, second = opened.preflight(), opened.preflight()
    assert first.raw_bytes > 0
    assert first.summary == second.summary
    assert not source.secret or source.secret not in first.summary
    assert source.content() == before
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_told_in_a_sentence(source: Participant) -> None:
    """A source that is not there is a fault with a hint and without a secret, at the preflight already."""
    with pytest.raises(BackupdError) as caught:
        open_source(source.broken).preflight()
    assert caught.value.hint
    assert caught.value.code.startswith("source-")
    assert not source.secret or source.secret not in caught.value.message + caught.value.hint


def _begun(source: Participant, folder: Path) -> tuple[Dump | Stream, Path]:
    """Begin a full dump after its preflight; returns it, and the folder that it writes into."""
    opened = open_source(source.settings)
    opened.preflight()
    target = folder / "dump"
    target.mkdir()
    if isinstance(opened, StreamSource):
        return opened.open(target), target
    assert isinstance(opened, FolderSource)
    return opened.start(target), target


def _finished(dump: Dump | Stream, folder: Path) -> Harvest:
    """Take a dump to its end and judge it; of a stream, what came is in the folder's file ``stream``."""
    if isinstance(dump, Stream):
        with (folder / "stream").open("wb") as output:
            while data := os.read(dump.fileno(), 1 << 16):
                output.write(data)
        return dump.harvest((folder / "stream").stat().st_size)
    assert dump.wait(_ENOUGH)
    return dump.harvest(_sizes(folder))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_all_that_is_there_is_counted(source: Participant, tmp_path: Path) -> None:
    """The harvest says what was dumped, and each file holds what the harvest says of it."""
    dump, folder = _begun(source, tmp_path)
    try:
        harvest = _finished(dump, folder)
    finally:
        dump.kill()
        dump.kill()
    assert harvest.documents == harvest.source.documents == source.count()
    assert harvest.source.type == type_of(source.settings)
    assert harvest.tools
    names = [part.name for part in harvest.source.parts]
    assert len(names) == len(set(names))
    opened, sizes = open_source(source.settings), _sizes(folder)
    for part in harvest.source.parts if harvest.source.form == "folder" else ():
        if not part.file:
            continue
        checker = opened.check(part.file)
        assert checker is not None, f"nothing proves {part.file}"
        data = (folder / part.file).read_bytes()
        for at in range(0, len(data), 777_777):
            checker(data[at : at + 777_777])
        checker(b"")
        assert sizes[part.file] >= part.bytes > 0 or part.items == 0


def test_files_only_grow(source: Participant, tmp_path: Path) -> None:
    """What a file held once is what it begins with at the end: it can be compressed and thrown away meanwhile."""
    dump, folder = _begun(source, tmp_path)
    if isinstance(dump, Stream):
        dump.kill()
        pytest.skip("a stream is nothing else")
    seen: dict[str, tuple[int, bytes]] = {}
    try:
        while True:
            ended = not dump.running
            for name, size in _sizes(folder).items():
                if name not in seen or seen[name][0] < size:
                    seen[name] = (size, hashlib.sha256((folder / name).read_bytes()[:size]).digest())
                    begins = (folder / name).read_bytes()[:size]
                    assert hashlib.sha256(begins).digest() == seen[name][1], name
            if ended:
                break
        dump.harvest(_sizes(folder))
        assert seen.keys() == _sizes(folder).keys(), "names do not change"
    finally:
        dump.kill()


@pytest.mark.promise("The exit code of a tool is not believed: what is short, missing or garbage is no backup.", item=3)
def test_an_exit_code_is_not_believed(source: Participant, tmp_path: Path) -> None:
    """A file that is not there after all makes the dump a failure, whatever the tool's exit code was."""
    dump, folder = _begun(source, tmp_path)
    if isinstance(dump, Stream):
        dump.kill()
        pytest.skip("a stream is judged by its content")
    try:
        assert dump.wait(_ENOUGH)
        sizes = _sizes(folder)
        largest = max(sizes, key=lambda name: sizes[name])
        del sizes[largest]
        with pytest.raises(BackupdError):
            dump.harvest(sizes)
    finally:
        dump.kill()


def test_a_held_dump_waits(source: Participant, tmp_path: Path) -> None:
    """Paused and resumed, also twice and after its end, it dumps all the same."""
    dump, folder = _begun(source, tmp_path)
    try:
        if isinstance(dump, Dump):
            dump.pause()
            dump.pause()
            dump.resume()
            dump.resume()
        assert _finished(dump, folder).documents == source.count()
        if isinstance(dump, Dump):
            dump.pause()
            dump.resume()
    finally:
        dump.kill()


def _children() -> dict[int, str]:
    """Return the command lines of this process's own children."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        numbers: list[str] = []
        with contextlib.suppress(OSError):  # a thread may end meanwhile, and so may a child
            numbers = (task / "children").read_text().split()
        for number in numbers:
            with contextlib.suppress(OSError):
                found[int(number)] = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
def test_a_killed_tool_is_no_backup(source: Participant, tmp_path: Path) -> None:
    """A tool that somebody kills makes the dump a failure, and nothing of it runs on."""
    before = _children()
    dump, folder = _begun(source, tmp_path)
    try:
        if isinstance(dump, Dump):
            dump.pause()
        tools = [number for number in _children() if number not in before]
        if not tools:
            pytest.skip("it has no tool that could be killed")
        for number in tools:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if isinstance(dump, Dump):
            dump.resume()
        with pytest.raises(BackupdError):
            _finished(dump, folder)
    finally:
        dump.kill()
    assert not [number for number in _children() if number not in before]


@pytest.mark.promise("Secrets stand in no command line, no environment, no log, no record and no error.", item=14)
def test_its_secret_is_seen_nowhere(source: Participant, tmp_path: Path) -> None:
    """While it runs, no command line and no environment of a child has the password, in any spelling."""
    if not source.secret:
        pytest.skip("it has no secret")
    before = _children()
    dump, folder = _begun(source, tmp_path)
    try:
        if isinstance(dump, Dump):
            dump.pause()
        for number in (number for number in _children() if number not in before):
            for name in ("cmdline", "environ"):
                seen = Path(f"/proc/{number}/{name}").read_bytes()
                for spelling in (source.secret, quote(source.secret, safe=""), quote(source.secret)):
                    assert spelling.encode() not in seen, name
        if isinstance(dump, Dump):
            dump.resume()
        _finished(dump, folder)
    finally:
        dump.kill()


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_a_damaged_file_is_found(source: Participant, tmp_path: Path) -> None:
    """What is cut off is refused, and a byte that is another one is refused or changes the digest."""
    dump, folder = _begun(source, tmp_path)
    try:
        harvest = _finished(dump, folder)
    finally:
        dump.kill()
    opened = open_source(source.settings)
    names = {part.file for part in harvest.source.parts if part.file} or {
        name for name in _sizes(folder) if opened.check(name) is not None
    }
    if harvest.source.form == "stream":
        names = {WHOLE}
    assert names
    for name in names:
        data = (folder / (name or "stream")).read_bytes()
        sound = _read(opened, name, data)
        for at in {1, len(data) // 2, len(data) - 1}:
            spoilt = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
            with contextlib.suppress(VerifyError):
                assert _read(opened, name, spoilt) != sound, f"{name}: byte {at} of {len(data)}"
        with pytest.raises(VerifyError):
            _read(opened, name, data[: len(data) * 2 // 3 + 1])


def _read(opened: FolderSource | StreamSource, name: str, data: bytes) -> tuple[object, ...]:
    checker = opened.check(name)
    assert checker is not None
    for at in range(0, len(data), 65_537):
        checker(data[at : at + 65_537])
    checker(b"")
    return tuple(getattr(checker, what, None) for what in ("count", "digest", "parts"))


# A run


@pytest.mark.promise(
    "A backup is called verified only when it was read back; a drill restores and compares it.", item=13
)
def test_a_run_makes_a_proven_backup(source: Participant, site: Site) -> None:
    """After a run there is one verified backup, whose manifest names every part with a digest of what it holds."""
    good(site.run())
    (backup,) = site.backups()
    assert (backup.state, backup.kind, backup.documents) == (BackupState.VERIFIED, Kind.FULL, source.count())
    manifest = backup.manifest
    assert manifest is not None
    assert manifest.source.collections or manifest.source.parts
    assert all(part.digest for part in manifest.source.parts)
    assert manifest.source.by_hand or not source.restores
    assert site.layout.artifact(backup.artifact).stat().st_size == backup.size
    good(site.run("verify", verify=VerifyOrder(level="structure")))


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
@pytest.mark.parametrize("stage", ["preflight", "dump", "compress"])
def test_a_cancelled_run_leaves_nothing(source: Participant, site: Site, stage: str) -> None:
    """Whoever cancels a run finds no backup, no file and no process of it."""
    before = _children()
    run = site.run(cancel=stage)
    if run.outcome is Outcome.SUCCEEDED:
        pytest.skip(f"it has no stage {stage}")
    assert run.outcome is Outcome.CANCELLED, run.error
    assert site.backups() == []
    assert not [path for path in site.layout.backups.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not [number for number in _children() if number not in before]


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
def test_a_disk_that_fills_up_is_told_and_harms_nothing(source: Participant, tmp_path: Path) -> None:
    """Where the room goes during the dump the run fails with ``no-space``, clears up, and works with room again."""
    with small_disk(tmp_path / "backups", 160 << 20) as disk:
        site = Site(tmp_path, source)

        def fill(record: StageRecord) -> None:
            if record.stage is Stage.DUMP and record.ended is None:
                with (disk / "foreign").open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, free_bytes(disk) - (8 << 10))

        site.ear.stage = fill  # type: ignore[method-assign]
        run = site.run()
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert (run.error.code, bool(run.error.hint)) == ("no-space", True), run.error
        assert not source.secret or source.secret not in run.error.message
        assert [path.name for path in disk.iterdir() if path.is_file()] == ["foreign"]
        assert not any(site.layout.staging.glob("*/*"))
        (disk / "foreign").unlink()
        site.ear = Ear()
        good(site.run())


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_damage_of_the_artifact_is_found(source: Participant, site: Site) -> None:
    """A byte of the stored file that rots is found when copies are read again."""
    good(site.run())
    (backup,) = site.backups()
    path = site.layout.artifact(backup.artifact)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    run = site.run("verify", verify=VerifyOrder(level="checksum"))
    assert run.outcome is Outcome.FAILED
    assert site.backups()[0].state is BackupState.CORRUPT


def test_memory_does_not_grow_with_the_data(source: Participant, tmp_path: Path) -> None:
    """A run over much more takes hardly more memory than one over little."""
    little = _worker_memory(Site(tmp_path, source))
    try:
        source.grow(_BIG)
        (tmp_path / "big").mkdir()
        much = _worker_memory(Site(tmp_path / "big", source))
    finally:
        source.fill()
    assert much - little < _FLAT


def _worker_memory(site: Site) -> int:
    """Do a run in a process of its own and return the most bytes of memory that it took."""
    spec = RunSpec(run="run1", job=site.job, paths=site.paths, trigger="manual")
    process = subprocess.Popen(
        [sys.executable, "-m", "nanumpay_backupd", "worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(encode_spec(spec))
    process.stdin.close()
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()[-2000:]
    process.stdout.close()
    return usage.ru_maxrss << 10


# The way back


def test_it_comes_back_to_another_place(able: Participant, site: Site, tmp_path: Path) -> None:
    """Restored elsewhere it is the same, and what is at its own place is left alone."""
    good(site.run())
    before = able.content()
    wanted, content = able.elsewhere(tmp_path / "elsewhere")
    good(site.restore(site.backups()[0], wanted))
    assert content() == before
    assert able.content() == before


def test_it_comes_back_to_its_own_place(able: Participant, site: Site) -> None:
    """What is there is not touched without being asked for; when it is, everything is as it was at the backup."""
    good(site.run())
    (backup,) = site.backups()
    before = able.content()
    able.spoil()
    try:
        spoilt = able.content()
        refused = site.restore(backup, Wanted())
        assert (refused.outcome, refused.error and refused.error.code) == (Outcome.FAILED, "target-exists")
        assert able.content() == spoilt
        good(site.restore(backup, Wanted(overwrite=True)))
        assert able.content() == before
    finally:
        able.fill()


def test_a_plan_changes_nothing(able: Participant, site: Site) -> None:
    """The plan of a restore says what comes and what is there, in numbers, and only looks."""
    good(site.run())
    (backup,) = site.backups()
    before = able.content()
    spec = RunSpec(
        run="plan",
        job=site.job,
        paths=site.paths,
        trigger="manual",
        action="restore-plan",
        restore=RestoreOrder(backup=backup.id, overwrite=True),
    )
    with Catalog(site.paths.state / "catalog.db") as catalog:
        plan = plan_bringing_back(spec, catalog, site.clock.now())
    assert (plan.documents, plan.source) == (able.count(), type_of(able.settings))
    assert plan.target_exists
    assert plan.database
    assert able.content() == before


def test_a_part_that_is_not_in_it_is_refused(able: Participant, site: Site, tmp_path: Path) -> None:
    """Asked for something that the backup does not hold, it says what it holds and changes nothing."""
    good(site.run())
    wanted, _ = able.elsewhere(tmp_path / "elsewhere")
    run = site.restore(site.backups()[0], msgspec.structs.replace(wanted, only=("no such thing",)))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == NotFoundError.default_code
    assert "nothing was changed" in run.error.message


@pytest.mark.promise(
    "A backup is called verified only when it was read back; a drill restores and compares it.", item=13
)
def test_a_drill_proves_it(able: Participant, site: Site) -> None:
    """A drill restores the newest backup into a scratch place, compares it, and leaves nothing of that."""
    good(site.run())
    before, content = _children(), able.content()
    good(site.run("drill", verify=VerifyOrder(level="restore")))
    (backup,) = site.backups()
    manifest = backup.manifest
    assert manifest is not None
    proof = manifest.verification[-1]
    assert (proof.level, proof.ok, proof.documents) == ("restore", True, able.count())
    assert able.content() == content
    assert not list(site.layout.staging.iterdir())
    assert not [number for number in _children() if number not in before]


def test_through_encryption_and_a_copy_elsewhere(able: Participant, tmp_path: Path) -> None:
    """Encrypted, copied to another place and lost here, it comes back as it was."""
    pair = age_key("first")
    encryption = JobEncryption(method="age", scope="all", recipients=(pair.recipient,), decrypt_with=(pair.identity,))
    away = LocalDestination(name="away", path=str(tmp_path / "away"))
    (tmp_path / "away").mkdir()
    site = Site(tmp_path, able, encryption=encryption, destinations=(away,))
    good(site.run())
    (backup,) = site.backups()
    assert {copy.destination for copy in backup.copies} == {LOCAL, "away"}
    assert backup.artifact.endswith(".age")
    site.layout.artifact(backup.artifact).unlink()
    before = able.content()
    wanted, content = able.elsewhere(tmp_path / "elsewhere")
    good(site.restore(backup, wanted, source="away"))
    assert content() == before


def test_a_manifest_is_read_by_whoever_does_not_know_the_type(source: Participant, site: Site) -> None:
    """The record of a backup stays readable with what was always in it, whatever is added for a type."""
    good(site.run())
    data = site.layout.manifest(site.backups()[0].id).read_bytes()
    raw = msgspec.json.decode(data)
    assert raw["format"] == 1
    assert {"type", "server_version", "topology", "databases", "collections"} <= raw["source"].keys()
    assert msgspec.json.decode(data, type=Manifest).backup == raw["backup"]


def test_the_driver_opens_nothing(able: Participant) -> None:
    """Making the rooms of a source connects to nothing, also where nothing could be reached."""
    driver = open_driver(able.broken)
    assert driver.source() is not None
    assert driver.target() is not None
