"""File trees through the whole pipeline: chains, paths, rules, what changes meanwhile, what may not be trusted."""

from __future__ import annotations

import fcntl
import io
import os
import shlex
import struct
import subprocess
import tarfile
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError, VerifyError
from nanumpay_backupd.model import Backup, Outcome
from nanumpay_backupd.sources.files import FileTrees
from nanumpay_backupd.sources.files_walk import TarCheck
from tests.file_site import LEFT_OUT, Site, evolve, filled, good
from tests.trees import read_tree

pytestmark = pytest.mark.servers


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a host whose tree has everything in it."""
    return filled(tmp_path)


@pytest.mark.parametrize("kind", ["incremental", "differential"])
def test_a_chain_leads_to_the_tree_as_it_was(site: Site, tmp_path: Path, kind: str) -> None:
    """Full and increments bring back exactly what was there: deletions, moved folders, changed kinds, attributes."""
    full = site.full()
    before = read_tree(site.tree, LEFT_OUT)
    evolve(site.tree)
    first = site.increment(kind)
    middle = read_tree(site.tree, (*LEFT_OUT, "store room/other.log"))
    (site.tree / "public" / "a").write_text("once more")
    (site.tree / "deep").rename(site.tree / "public" / "deep")
    second = site.increment(kind)
    last = read_tree(site.tree, (*LEFT_OUT, "store room/other.log"))
    for backup, content in ((full, before), (first, middle), (second, last)):
        to = tmp_path / backup.id
        good(site.restore(backup, to))
        assert read_tree(to) == content


def test_stock_tar_applies_the_chain(site: Site, tmp_path: Path) -> None:
    """The commands that the manifest gives, run by a shell, restore the same without this software."""
    chain = [site.full()]
    evolve(site.tree)
    chain.append(site.increment())
    for backup in chain:
        assert backup.manifest is not None
        plain = f"gunzip -c {shlex.quote(str(site.layout.artifact(backup.artifact)))}"
        script = "\n".join(backup.manifest.source.by_hand).replace("{plain}", plain)
        subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True)
    content = read_tree(site.tree, (*LEFT_OUT, "store room/other.log"))
    assert read_tree(tmp_path / "restored" / str(site.tree).strip("/")) == content


def test_the_page_says_how_by_hand(site: Site, tmp_path: Path) -> None:
    """The commands of docs/sources/files.md, pasted into a shell, apply a chain."""
    chain = [site.full()]
    evolve(site.tree)
    chain.append(site.increment())
    page = (Path(__file__).parents[2] / "docs" / "sources" / "files.md").read_text()
    _, found, rest = page.partition("<!-- test: by-hand -->\n```sh\n")
    assert found
    paths = [str(site.layout.artifact(backup.artifact)) for backup in chain]
    script = f"FULL={shlex.quote(paths[0])} INCREMENTS={shlex.quote(paths[1])}\n{rest.partition('```')[0]}"
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True)
    content = read_tree(site.tree, (*LEFT_OUT, "store room/other.log"))
    assert read_tree(tmp_path / "restored" / str(site.tree).strip("/")) == content


def test_one_path_comes_back_alone(site: Site, tmp_path: Path) -> None:
    """A path of the tree is restored by itself, also where its folder was moved in between."""
    site.full()
    evolve(site.tree)
    last = site.increment()
    moved = str(site.tree / "store room")
    good(site.restore(last, tmp_path / "to", only=(moved, str(site.tree / "public" / "none"))))
    assert read_tree(tmp_path / "to" / "store room") == read_tree(site.tree / "store room", ("other.log",))
    assert (tmp_path / "to" / "none").read_text() == "no longer empty"
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"store room", "none"}


def test_a_path_that_was_deleted_is_not_there(site: Site, tmp_path: Path) -> None:
    """What the full has and a later increment deletes is not restored from that increment."""
    full = site.full()
    evolve(site.tree)
    last = site.increment()
    gone = str(site.tree / "public" / "zeros")
    good(site.restore(full, tmp_path / "to", only=(gone,)))
    assert (tmp_path / "to" / "zeros").read_bytes() == bytes(100_000)
    run = site.restore(last, tmp_path / "other", only=(gone,))
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "not-found")
    assert not (tmp_path / "other" / "zeros").exists()


def test_what_is_there_is_kept_and_what_is_left_out_stays(site: Site) -> None:
    """In place, what came since is kept aside; what the rules leave out stays where the application needs it."""
    full = site.full()
    before = read_tree(site.tree, LEFT_OUT)
    (site.tree / "new").write_text("since then")
    (site.tree / ".env").write_text("another secret")
    (site.tree / "vendor" / "code").write_text("newer code")
    good(site.restore(full, overwrite=True))
    assert read_tree(site.tree, LEFT_OUT) == before
    assert (site.tree / ".env").read_text() == "another secret"
    assert (site.tree / "vendor" / "code").read_text() == "newer code"
    (aside,) = site.tree.parent.glob("app.before-*")
    assert (aside / "new").read_text() == "since then"
    good(site.restore(full, overwrite=True, options={"keep_old": "no"}))
    assert list(site.tree.parent.glob("app.before-*")) == [aside]
    assert not list(site.tree.parent.glob(".nanumpay*"))


def test_a_backup_is_listed_as_the_tree_at_its_moment(site: Site) -> None:
    """A listing shows a folder, or all below it, of an increment with what came before it; again without reading."""
    full = site.full()
    evolve(site.tree)
    last = site.increment()
    top = {line.path: line for line in site.listed(full).entries}
    assert top.keys() == {str(site.tree / name) for name in ("empty", "for some", "public", "restricted", "storage")}
    assert top[str(site.tree / "restricted")].mode == "drwx-wx--T"
    page = site.listed(last, site.tree, recursive="yes")
    now = read_tree(site.tree, (*LEFT_OUT, "store room/other.log"))
    paths = {str(site.tree) + "/" + name.decode("utf-8", "backslashreplace") for name in now if name}
    assert {line.path for line in page.entries} == paths
    assert not page.more
    (link,) = [line for line in page.entries if line.path.endswith("/store room/link")]
    assert (link.mode[0], link.target) == ("l", "../public/a")
    for backup in (full, last):
        site.layout.artifact(backup.artifact).unlink()
    with pytest.raises(NotFoundError):
        site.listed(full, site.tree / "deep")


def test_rules_decide_what_is_saved(tmp_path: Path) -> None:
    """Presets, own rules, what is taken back in, and files of rules in the tree act together as gitignore(5) says."""
    site = Site(tmp_path, preset="laravel", exclude=("*.tmp",), include=("/storage/logs/audit.log",))
    for name in (
        "artisan vendor/a/b node_modules/x .env .env.example storage/logs/app.log storage/logs/audit.log a.tmp "
        "public/.backupignore public/cache/x public/cache/keep public/y deep/.env app/Http/.env.local"
    ).split():
        (site.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (site.tree / name).write_text(name)
    (site.tree / "public" / ".backupignore").write_text("cache/*\n!keep\n")
    site.full()
    names = _saved(site, site.full())
    assert names == {
        "artisan",
        ".env.example",
        "storage/logs/audit.log",
        "public/.backupignore",
        "public/cache/keep",
        "public/y",
    }


def _saved(site: Site, backup: Backup) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(site.plain(backup))) as archive:
        skip = len(str(site.tree))
        return {member.name[skip:] for member in archive if not member.isdir()}


def test_other_rules_ask_for_a_full(site: Site) -> None:
    """What tar would not notice, that something is saved that was not, makes the chain begin anew."""
    site.full()
    (site.tree / ".backupignore").write_text("*.txt\n")
    run = site.run("slice", kind="incremental")
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "chain-broken")
    site.full()
    (site.tree / "more").write_text("more")
    site.increment()


def test_nothing_new_makes_no_backup(site: Site) -> None:
    """An increment of an unchanged tree keeps nothing; a file that is deleted, and nothing else, is something new."""
    site.full()
    good(site.run("slice", kind="incremental"))
    with Catalog(site.paths.state / "catalog.db") as catalog:
        assert len(catalog.backups()) == 1
    (site.tree / "public" / "zeros").unlink()
    assert site.increment().documents == 0


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """A file that grows while tar reads it is in the archive a second time, whole, and that is what is restored.

    Its end is zeros, as is the marker of the archive's end that gives way to it.
    """
    site = Site(tmp_path)
    for at in range(40):
        (site.tree / f"{at:02}").write_bytes(os.urandom(1 << 20) + bytes(5000))
    opened = FileTrees(site.settings)
    opened.preflight()
    (tmp_path / "work").mkdir()
    stream = opened.open(tmp_path / "work")
    data = bytearray()
    changed = False
    try:
        # tar waits in the middle of a file as long as nobody reads, once nothing more goes into the pipe.
        while piece := os.read(stream.fileno(), 1 << 16):
            data += piece
            if len(data) > 12 << 20 and not changed:
                changed = True
                _wait_until_full(stream.fileno())
                for path in site.tree.iterdir():
                    with path.open("ab") as file:
                        file.write(bytes(700))
        harvest = stream.harvest(len(data))
    finally:
        stream.kill()
    assert any("were read again" in warning for warning in harvest.warnings), harvest.warnings
    check = TarCheck()
    check(bytes(data))
    check(b"")
    (found,) = check.parts.values()
    (part,) = harvest.source.parts
    assert (found.documents, found.digest) == (part.items, part.digest) == (40, part.digest)
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        names = Counter(os.fsencode(member.name.rpartition("/")[2]) for member in archive)
    twice = [name for name, count in names.items() if count == 2]
    assert twice
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path / "out"], input=bytes(data), check=True)
    restored, now = read_tree(tmp_path / "out" / str(site.tree).strip("/")), read_tree(site.tree)
    assert {name: restored[name] for name in twice} == {name: now[name] for name in twice}


def test_an_empty_place_is_no_tree(tmp_path: Path) -> None:
    """A folder without a file is taken for a disk that is not mounted, not for something to be saved."""
    run = Site(tmp_path).run()
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "source-empty")


def _wait_until_full(pipe: int) -> None:
    """Return when what a pipe holds has not grown for a while."""
    seen, still = -1, 0
    while still < 10:
        time.sleep(0.05)
        (held,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
        still = still + 1 if held == seen and held else 0
        seen = held


def _header(name: str, kind: bytes = b"0", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.USTAR_FORMAT)


def _checked(data: bytes) -> None:
    check = TarCheck()
    check(data)
    check(b"")


_END = bytes(10240)
FOLDER = _header("srv", tarfile.DIRTYPE) + _header("srv/app", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    "foul",
    [
        _header("/etc/passwd"),
        _header("srv/../etc/passwd"),
        _header("srv/app/../../etc"),
        _header("etc/passwd"),
        _header("srv/app/link", tarfile.SYMTYPE, "/etc") + _header("srv/app/link/passwd"),
        _header("srv/app/link", tarfile.SYMTYPE, "/etc") + _header("srv/app/link", tarfile.DIRTYPE),
        _header("srv/app", tarfile.SYMTYPE, "/etc"),
        _header("srv/app/hard", tarfile.LNKTYPE, "/etc/passwd"),
        _header("srv/app/hard", tarfile.LNKTYPE, "srv/../../etc/passwd"),
        _header("srv/app/hard", tarfile.LNKTYPE, "etc/passwd"),
        _header("srv/app/x", b"Z"),
        _header("srv/app/x")[:-1] + b"x",
    ],
)
def test_what_leads_out_of_the_tree_is_refused(foul: bytes) -> None:
    """No archive gets as far as tar in which a name or a link leads out of the place where it is unpacked."""
    _checked(FOLDER + _header("srv/app/x") + _END)
    with pytest.raises(VerifyError):
        _checked(FOLDER + foul + _END)
