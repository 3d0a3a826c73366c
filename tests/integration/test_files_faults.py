"""What goes wrong with file trees: rights, files that come and go, odd things, full disks, restores cut off."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.model import Outcome, Run, from_json
from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.sources.base import Harvest
from nanumpay_backupd.sources.files import FileTrees
from nanumpay_backupd.sources.files_rules import WORKING
from tests.file_site import Site, filled, good
from tests.trees import read_tree
from tests.workbench import small_disk

pytestmark = pytest.mark.servers


def told(run: Run) -> str:
    """Return all that a run that failed says."""
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    return f"{run.error.code}: {run.error.message} → {run.error.hint}"


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder in which every user can work."""
    folder = Path(tempfile.mkdtemp(prefix="files-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_nobody(site: Site, *words: str, **more: str) -> Run:
    """Do a run as a user who may not read everything. A fork: that user need not be able to read this project."""
    if os.geteuid() != 0:
        return site.run(*words, **more)
    user = pwd.getpwnam("nobody")
    # All that is imported on the way is imported by now.
    for folder in (site.layout.backups, site.paths.state):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.write(writing, msgspec.json.encode(site.run(*words, **more)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    site.runs += 1
    site.clock.sleep(60)
    return from_json(Run, data)


def test_what_may_not_be_read_fails_or_is_told_and_tried_again(shared: Path) -> None:
    """A file of others makes the run fail; where that is accepted it is told, and saved once it may be read.

    Also where nothing changed of the file itself.
    """
    site = Site(shared)
    (site.tree / "a" / "deep").mkdir(parents=True)
    (site.tree / "a" / "closed").write_text("closed")
    (site.tree / "a" / "open").write_text("open")
    (site.tree / "a" / "deep" / "other").write_text("other")
    site.full()
    (site.tree / "a" / "closed").chmod(0)
    said = told(as_nobody(site))
    assert said.startswith(f"source-auth: 1 files or folders cannot be read: {site.tree}/a/closed (Cannot open")
    assert "Rights" in said
    (site.tree / "shut").mkdir(mode=0)
    assert f"cannot be read: {site.tree}/shut" in told(as_nobody(site))

    site.settings = msgspec.structs.replace(site.settings, unreadable="warn")
    run = good(as_nobody(site))
    assert any("2 files or folders could not be read and are not in this" in text for text in run.warnings), (
        run.warnings
    )
    assert any("1 folders cannot be read" in text for text in run.warnings), run.warnings
    (site.tree / "more").write_text("more")
    later = good(as_nobody(site, "slice", kind="incremental"))
    assert any("1 files that could not be read before still cannot" in text for text in later.warnings), later.warnings
    # From now on they may be read, since somebody else does: what lies in that folder is saved, and nothing else.
    (site.tree / "shut").chmod(0o755)
    saved = site.increment()
    assert saved.documents == len(["closed", "open", "deep/other"])
    good(site.restore(saved, shared / "restored"))
    assert read_tree(shared / "restored") == read_tree(site.tree)


def streamed(settings: FilesSource, work: Path, meanwhile: Callable[[], None]) -> Harvest:
    """Let tar save a tree of more than its pipe holds, and do something once it has begun."""
    opened = FileTrees(settings)
    opened.preflight()
    work.mkdir()
    stream = opened.open(work)
    try:
        size = 0
        while piece := os.read(stream.fileno(), 1 << 16):
            if size == 0:
                meanwhile()
            size += len(piece)
        return stream.harvest(size)
    finally:
        stream.kill()


@pytest.mark.parametrize("accepted", [True, False], ids=["warn", "fail"])
def test_files_that_vanish_are_told(tmp_path: Path, accepted: bool) -> None:
    """What is gone before tar comes to it is told by name and not counted, or a failure where that is wanted."""
    site = Site(tmp_path, vanished="warn" if accepted else "fail")
    for at in range(12):
        (site.tree / f"{at:02}").write_bytes(os.urandom(1 << 20))
    (site.tree / "sub").mkdir()
    (site.tree / "sub" / "file").write_text("file")
    listed = [path for path in site.tree.iterdir() if path.is_file()]

    def vanish() -> None:
        for path in listed[-3:]:
            path.unlink()

    # tar reads in the folder's own order.
    listed = [site.tree / name for name in os.listdir(site.tree) if (site.tree / name).is_file()]
    if not accepted:
        with pytest.raises(SourceError, match="files vanished while they were read"):
            streamed(site.settings, tmp_path / "work", vanish)
        return
    harvest = streamed(site.settings, tmp_path / "work", vanish)
    gone = int(harvest.source.facts["vanished"])
    assert gone
    assert harvest.documents == 13 - gone
    (warning,) = [text for text in harvest.warnings if "vanished before they were read" in text]
    assert str(site.tree) in warning


def test_odd_things_in_a_tree(tmp_path: Path) -> None:
    """Sockets are passed over and counted; devices, pipes and links in a circle are saved as what they are."""
    site = filled(tmp_path)
    full = site.full()
    assert full.manifest is not None
    assert full.manifest.source.facts["socket"] == "1"
    good(site.restore(full, tmp_path / "to"))
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in (tmp_path / "to").rglob("*")}
    assert "sock" not in kinds
    assert (kinds["fifo"], kinds["loop"], kinds["round"]) == (stat.S_IFIFO, stat.S_IFLNK, stat.S_IFLNK)
    assert os.readlink(tmp_path / "to" / "storage" / "loop") == "loop"
    if os.geteuid() == 0:
        assert (tmp_path / "to" / "public" / "null").lstat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("inside", [True, False], ids=["all", "one"])
def test_other_filesystems_below_are_saved_or_not(tmp_path: Path, inside: bool) -> None:
    """A disk that is mounted in the tree is saved with it, or only the folder that it is mounted on."""
    site = Site(tmp_path, one_file_system=not inside)
    (site.tree / "file").write_text("file")
    with small_disk(site.tree / "disk", 1 << 20) as disk:
        (disk / "more").write_text("more")
        full = site.full()
        assert full.documents == 1 + inside
        good(site.restore(full, tmp_path / "to"))
        assert (tmp_path / "to" / "disk").is_dir()
        assert (tmp_path / "to" / "disk" / "more").exists() is inside


@pytest.mark.parametrize("what", ["loop", "file", "gone", "socket"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, what: str) -> None:
    """A link to itself, a file, nothing at all: said as it is, before anything begins."""
    site = Site(tmp_path)
    place = tmp_path / "place"
    if what == "loop":
        place.symlink_to(place)
    elif what == "file":
        place.touch()
    elif what == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o600)
    site.settings = FilesSource(path=(str(place),))
    said = told(site.run())
    reason = {"loop": "Too many levels of symbolic links", "gone": "it is not there"}.get(what, "it is no folder")
    assert f"{place} cannot be backed up: {reason}" in said


def test_huge_files_with_holes_stay_small(tmp_path: Path) -> None:
    """5 GB with a few bytes in them take little room in the backup, no room that they do not need, and come back so."""
    site = Site(tmp_path)
    islands = (0, 1 << 30, (5 << 30) - 4096)
    for name, places in (("islands", islands), ("nothing", ())):
        with (site.tree / name).open("wb") as stream:
            for at in places:
                stream.seek(at)
                stream.write(os.urandom(4096))
            stream.truncate(5 << 30)
    full = site.full()
    assert full.size < 100_000
    to = tmp_path / "disk"
    with small_disk(to, 1 << 20):
        good(site.restore(full, to / "restored"))
        for name in ("islands", "nothing"):
            ours, now = site.tree / name, to / "restored" / name
            assert now.stat().st_size == 5 << 30
            assert now.stat().st_blocks * 512 <= 8 * 4096
            assert _content(now) == _content(ours)


def _content(path: Path) -> list[tuple[int, bytes]]:
    """Return what is in a file between its holes."""
    found: list[tuple[int, bytes]] = []
    with path.open("rb") as stream:
        end = 0
        while True:
            try:
                at = os.lseek(stream.fileno(), end, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(stream.fileno(), at, os.SEEK_HOLE)
            found.append((at, os.pread(stream.fileno(), end - at, at)))


def test_no_room_for_a_backup(tmp_path: Path) -> None:
    """A backups folder without room is said with what is needed and what is free, and nothing stays in it."""
    site = Site(tmp_path)
    (site.tree / "large").write_bytes(os.urandom(400 << 20))
    with small_disk(site.layout.backups, 8 << 20):
        said = told(site.run())
        assert said.startswith("no-space: not enough room in")
        assert not list(site.layout.backups.glob("*.tar.gz*"))


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
def test_a_disk_that_fills_up_while_it_is_unpacked_changes_nothing(tmp_path: Path) -> None:
    """Where an increment does not fit any more, what was there is as it was, nothing is left, and that is said."""
    site = Site(tmp_path)
    (site.tree / "first").write_bytes(os.urandom(2 << 20))
    full = site.full()
    (site.tree / "second").write_bytes(os.urandom(20 << 20))
    last = site.increment()
    disk = tmp_path / "disk"
    with small_disk(disk, 10 << 20):
        (disk / "app").mkdir()
        (disk / "app" / "mine").write_text("mine")
        before = read_tree(disk / "app")
        said = told(site.restore(last, disk / "app", overwrite=True))
        assert said.startswith("no-space: the disk filled up while tar unpacked")
        assert f"nothing was changed in {disk}/app" in said
        assert "half restored" not in said
        assert read_tree(disk / "app") == before
        assert [path.name for path in disk.iterdir()] == ["app"]
        good(site.restore(full, disk / "app", overwrite=True))
    with small_disk(disk, 1 << 20):
        assert told(site.restore(full, disk / "app")).startswith("no-space: not enough room in")


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_what_restores_left_that_were_cut_off_is_swept(tmp_path: Path) -> None:
    """The folder of a restore that was killed goes with the next one; that of one under way stays."""
    site = Site(tmp_path)
    (site.tree / "file").write_text("file")
    full = site.full()
    dead, busy, foreign = (tmp_path / f"{WORKING}{name}" for name in ("dead", "busy", "foreign"))
    for folder in (dead, busy, foreign):
        (folder / "tree" / "shut").mkdir(parents=True)
        (folder / "tree" / "shut").chmod(0o500)
    (dead / "lock").touch()
    with (busy / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        good(site.restore(full, tmp_path / "to"))
    assert not dead.exists()
    assert busy.exists()
    assert foreign.exists()
    assert {path.name for path in tmp_path.glob(f"{WORKING}*")} == {busy.name, foreign.name}
    good(site.restore(full, tmp_path / "to", overwrite=True))
    assert not busy.exists()


def test_a_difference_leaves_what_is_there_alone(tmp_path: Path) -> None:
    """Where what was unpacked is not what the archive holds, it takes no place, and the fault says so."""
    site = Site(tmp_path)
    (site.tree / "file").write_text("file")
    full = site.full()
    # A tar that unpacks something else, as a defect of the disk would.
    tar = tmp_path / "tar"
    tar.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case "$word" in --directory=*) to=${word#--directory=} ;; esac; done\n'
        '/usr/bin/env tar "$@" || exit\n'
        'if [ -n "$to" ]; then find "$to" -name file | while read -r path; do echo other >"$path"; done; fi\n'
    )
    tar.chmod(0o755)
    site.settings = msgspec.structs.replace(site.settings, tar=str(tar))
    (site.tree / "file").write_text("mine")
    said = told(site.restore(full, overwrite=True))
    assert said.startswith("restore-incomplete: what is there now is not what the backup holds")
    assert f"nothing was changed in {site.tree}" in said
    assert (site.tree / "file").read_text() == "mine"
    assert not list(site.tree.parent.glob(f"{WORKING}*"))
