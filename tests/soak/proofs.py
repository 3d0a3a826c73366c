"""The restores of a soak: to a moment by the daemon, by the command from each place, by stock tools, of other sources.

Each compares all that was restored with what the book says (`tests.soak.book`), or with what was read at the moment of
the backup, and raises `Differs` where it is not the same. Anything else that it raises is a restore that failed.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.model import OpTime
from tests.chain_story import read
from tests.servers.mongod import Mongod
from tests.servers.redis import content_of
from tests.servers.tools import PROJECT
from tests.soak.house import DATABASE, House
from tests.trees import clear, read_tree

__all__ = ["PROOFS", "Differs", "NothingYet"]

Document = dict[str, Any]
Content = dict[str, dict[Any, Document]]
_THERE: Final = frozenset({"uploaded", "verified"})
_PATIENCE: Final = 180


class Differs(Exception):  # noqa: N818 - what it says
    """What was restored is not what was there."""


class NothingYet(Exception):  # noqa: N818 - what it says
    """There is nothing yet that could be restored so."""


def compare(expected: Content, found: Content, what: str) -> str:
    """Raise `Differs` unless both are the same; returns how much it was."""
    if expected == found:
        return f"{sum(map(len, found.values()))} documents in {len(found)} collections"
    names = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    name = names[0]
    one, other = expected.get(name, {}), found.get(name, {})
    keys = [key for key in {*one, *other} if one.get(key) != other.get(key)]
    raise Differs(
        f"{what}: {names} differ; of {name} {len(keys)} documents; {keys[0]!r}: expected {one.get(keys[0])!r:.300}, "
        f"found {other.get(keys[0])!r:.300}"
    )


def stamp(second: int) -> str:
    """Write a second as the command line takes it."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"


def content(server: Mongod, database: str) -> Content:
    """Read a database and drop it."""
    with server.client() as client:
        found = read(client, database)
        client.drop_database(database)
    return found


def drop(server: Mongod, database: str) -> None:
    """Drop a database if it is there."""
    with server.client() as client:
        client.drop_database(database)


def restorable(house: House, place: str = "local") -> list[tuple[int, int]]:
    """Return the spans of seconds that can be restored from a place, by what the daemon lists there."""
    found: list[tuple[int, int]] = []
    if place == "local":
        for span in house.site.call("Timeline", job="nanumpay")["ranges"]:
            first, last = (datetime.fromisoformat(span[name]).timestamp() for name in ("first", "last"))
            found.append((int(first) + 1, int(last) - 1))
    else:
        backups = house.site.call("ListBackups", job="nanumpay", slices=True)["backups"]
        there = [one for one in backups if any(_is_at(copy, place) for copy in one["copies"])]
        there = [one for one in there if one["state"] == "verified"]
        bases = sorted(OpTime.parse(one["end"]) for one in there if one["kind"] == "full" and one["end"])
        pieces = [one for one in there if one["kind"] == "incremental"]
        for base in bases:
            end = base
            for piece in sorted(pieces, key=lambda one: OpTime.parse(one["end"])):
                if OpTime.parse(piece["start"]) <= end < OpTime.parse(piece["end"]):
                    end = OpTime.parse(piece["end"])
            found.append((base.seconds + 1, end.seconds - 1))
    return found


def _is_at(copy: Document, place: str) -> bool:
    return copy["destination"] == place and copy["state"] in _THERE


def draw(house: House, dice: random.Random, place: str = "local") -> int:
    """Draw a second that can be restored from a place and of which the book knows all."""
    spans = [span for span in restorable(house, place) if span[1] >= span[0]]
    if not spans:
        raise NothingYet
    for _ in range(200):
        first, last = dice.choice(spans)
        second = dice.randint(first, last)
        # Every other time what is newest: the chain's end is what people want.
        second = last - dice.randrange(0, 3) if dice.random() < 0.3 and last - 3 > first else second
        if house.book.clear(second):
            return second
    raise NothingYet


def to_moment(house: House, dice: random.Random) -> str:
    """The daemon restores a moment beside the live database."""
    second = draw(house, dice)
    drop(house.mongod, "soak_back")
    params = {"backup": "latest", "job": "nanumpay", "at": stamp(second), "to_database": "soak_back"}
    said = _stream(house, "Restore", **params, safety=False)
    try:
        return f"{stamp(second)}: {compare(house.book.state_at(second), content(house.mongod, 'soak_back'), said)}"
    finally:
        drop(house.mongod, "soak_back")


def sealed(house: House, dice: random.Random) -> str:
    """The daemon restores an encrypted full from one of its places; its moment is its own."""
    backups = house.site.call("ListBackups", job="sealed")["backups"]
    good = [one for one in backups if one["state"] == "verified" and one["end"] and one["kind"] == "full"]
    good = [one for one in good if house.book.clear(OpTime.parse(one["end"]).seconds)]
    if not good:
        raise NothingYet
    backup = dice.choice(good)
    places = [copy["destination"] for copy in backup["copies"] if copy["state"] in _THERE]
    place = dice.choice(places)
    drop(house.mongod, "soak_sealed")
    said = _stream(
        house, "Restore", backup=backup["id"], to_database="soak_sealed", source=place, safety=False, job="sealed"
    )
    try:
        found = content(house.mongod, "soak_sealed")
        what = compare(house.book.state(OpTime.parse(backup["end"])), found, f"{backup['id']} from {place}: {said}")
        return f"{backup['id']} from {place}: {what}"
    finally:
        drop(house.mongod, "soak_sealed")


def _stream(house: House, method: str, **params: Any) -> str:
    *_, last = house.site.client.stream(method, params, timeout=_PATIENCE)
    run = dict(last["run"])
    if run.get("outcome") not in {"succeeded", "degraded"}:
        raise RuntimeError(f"{method} {run.get('outcome')}: {run.get('error')}")
    return f"run {run['id']}"


def from_place(place: str) -> Callable[[House, random.Random], str]:
    """Return the restore by the command on a machine that has only the copies of a place."""

    def work(house: House, dice: random.Random) -> str:
        second = draw(house, dice, place)
        database = f"soak_{place}"
        drop(house.scratch, database)
        more = ["--job", "nanumpay", "--at", stamp(second), "--to-db", database, "--no-safety-backup"]
        said = _bare(house, place, *more)
        return f"{stamp(second)}: {compare(house.book.state_at(second), content(house.scratch, database), said)}"

    return work


def _bare(house: House, place: str, *more: str, **environment: str) -> str:
    argv = [sys.executable, "-m", "nanumpay_backupd", "--config", str(house.bare), "restore", "--from", place]
    work = house.site.folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [*argv, *more, "--work", str(work), "--yes"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=_PATIENCE,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"restore --from {place} ended with {done.returncode}: {(done.stderr + done.stdout)[-1500:]}"
        )
    left = list(work.iterdir())
    if left:
        raise Differs(f"restore --from {place} left {left}")
    return f"restore --from {place}"


def by_hand(house: House, dice: random.Random) -> str:
    """Stock tools only, by the lines of docs/recovery.md: tar, zstd, mongorestore."""
    second = draw(house, dice)
    folder = house.site.folder / "byhand"
    shutil.rmtree(folder, ignore_errors=True)
    backups = house.site.call("ListBackups", job="nanumpay", slices=True)["backups"]
    bases = [one for one in backups if one["kind"] == "full" and one["state"] == "verified" and one["end"]]
    bases = [one for one in bases if OpTime.parse(one["end"]).seconds <= second]
    if not bases:
        raise NothingYet
    base = max(bases, key=lambda one: OpTime.parse(one["end"]))
    chain = [one for one in backups if one["kind"] == "incremental"]
    try:
        shutil.copytree(house.site.backups / ".backupd" / "manifests", folder / ".backupd" / "manifests")
        (folder / "slices").mkdir()
        for one in chain:
            # What was pruned meanwhile is of an older chain; what is missing is seen by the comparison.
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(house.site.backups / "slices" / Path(one["artifact"]).name, folder / "slices")
        for one in bases:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(house.site.backups / one["artifact"], folder)
        drop(house.scratch, DATABASE)
        lines = _lines_of("full-with-slices") + _lines_of("moment-by-hand")
        # Compression is one of the settings that are changed; tar sees by itself which it is.
        lines = lines.replace("tar -xzf $BACKUP.tar.gz", "tar -xf $BACKUP.tar*")
        environment = {"BACKUP": base["id"], "URI": house.scratch.uri_for("")}
        environment["MOMENT"] = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S} +0000"
        done = subprocess.run(
            ["sh", "-ec", lines],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"by hand: {done.stderr[-1500:]}")
        applied = re.findall(r"applied (\d+) oplog entries", done.stderr)
        slices = sorted(path.name for path in (folder / "slices").iterdir())
        what = f"by hand, {base['id']}, {stamp(second)}, {applied} applied, slices there: {slices}"
        same = compare(house.book.state_at(second), content(house.scratch, DATABASE), what)
        return f"{base['id']}, {stamp(second)}: {same}"
    except Differs:
        shutil.copytree(folder, house.diary.folder / "differs-by-hand", dirs_exist_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lines_of(mark: str) -> str:
    page = (PROJECT / "docs" / "recovery.md").read_text(encoding="utf-8")
    found = re.search(rf"^<!-- test: {mark} -->\n```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def cache(house: House, dice: random.Random) -> str:
    """Redis, saved while nobody writes, comes back whole in another server."""
    with house.paused_sources():
        expected = content_of(house.redis)
        run = house.site.run("cache")
    if run.get("outcome") not in {"succeeded", "degraded"}:
        raise RuntimeError(f"a run of cache {run.get('outcome')}: {run.get('error')}")
    place = dice.choice(_places_of(house, run["backup"]))
    if place == "local":
        house.other_redis.ask("FLUSHALL")
        url = f"redis://{house.other_redis.address}"
        _stream(house, "Restore", backup=run["backup"], job="cache", to_database=url, overwrite=True, safety=False)
    else:
        house.other_redis.ask("FLUSHALL")
        more = {"REDIS_URL": house.other_redis.settings().url.reveal()}
        _bare(house, place, "--job", "cache", run["backup"], "--no-safety-backup", **more)
    found = content_of(house.other_redis)
    if found != expected:
        raise Differs(f"Redis from {place}: {len(expected)} databases expected, {len(found)} found, or other values")
    return f"{run['backup']} from {place}: {sum(map(len, found.values()))} keys"


def tree(house: House, dice: random.Random) -> str:
    """The tree of files, saved while nobody writes, comes back whole in another folder."""
    with house.paused_sources():
        expected = read_tree(house.tree)
        run = house.site.run("tree", kind=dice.choice(["full", "incremental"]))
    if run.get("outcome") not in {"succeeded", "degraded"}:
        raise RuntimeError(f"a run of tree {run.get('outcome')}: {run.get('error')}")
    target = house.site.folder / "tree-back"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    params: Document = {"backup": "latest", "job": "tree", "at": "latest", "to_database": str(target)}
    if run.get("backup"):
        params = {"backup": run["backup"], "job": "tree", "to_database": str(target)}
    try:
        said = _stream(house, "Restore", **params, safety=False)
        back = target / house.tree.relative_to("/")
        found = read_tree(back if back.exists() else target)
        if found != expected:
            names = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
            raise Differs(f"tree, {said}: {len(names)} of {len(expected)} differ, such as {names[:3]}")
        return f"{run.get('backup') or 'nothing new'}: {len(found)} files and folders"
    finally:
        clear(target)
        shutil.rmtree(target, ignore_errors=True)


def _places_of(house: House, backup: str) -> list[str]:
    found = house.site.call("DescribeBackup", backup=backup)["backup"]
    return [copy["destination"] for copy in found["copies"] if copy["state"] in _THERE]


PROOFS: Final[dict[str, Callable[[House, random.Random], str]]] = {
    "to a moment": to_moment,
    "from usb": from_place("usb"),
    "from cloud": from_place("cloud"),
    "from office": from_place("office"),
    "from nas": from_place("nas"),
    "by hand": by_hand,
    "sealed": sealed,
    "cache": cache,
    "tree": tree,
}
