"""What is read from files and databases, mutated at random: it is understood or refused in a sentence, and no more.

Some dozens of examples each every day, many more in `make test-fault`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import bson
import msgspec
import pytest
from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, ConfigError, VerifyError
from nanumpay_backupd.model import LOCAL, Policy, to_json
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.prune import prune
from nanumpay_backupd.pipeline.publish import read_manifest
from nanumpay_backupd.pipeline.rebuild import adopt_place, rebuild_local
from nanumpay_backupd.pipeline.unpack import look_through, unpack
from nanumpay_backupd.settings.document import parse_document
from nanumpay_backupd.settings.hostfile import load_host_file
from nanumpay_backupd.settings.schema import AppSettings, HostConfig, LocalDestination
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.stores.factory import open_store
from tests.servers.tools import PROJECT
from tests.workbench import NOW, documents, job_spec, manifest_of, published

LONG: Final = os.environ.get("NANUMPAY_TEST_FAULT") == "1"
many = settings(
    max_examples=1500 if LONG else 40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
some = settings(many, max_examples=300 if LONG else 20)

UNTRUSTED: Final = (
    "What is damaged or made to harm is refused in a sentence, and nothing is written outside of the place."
)

# ------------------------------------------------------------------------------------------------ any value

NASTY: Final = [
    "",
    ".",
    "..",
    "../../outside",
    "/outside",
    "nul\0byte",
    "김민준",
    "\u202eevil",
    "x" * 5000,
    "\ud800",
    "-rf",
    "$(reboot)",
    "a/b\\c",
    "nanumpay-backup-2026-11-21T02-00-00.tar.gz",
]
Texts = st.sampled_from(NASTY) | st.text(max_size=20)
Numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63)])
Json = st.recursive(
    st.none() | st.booleans() | Numbers | Texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Texts, inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every part of a document."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from paths(part, (*here, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool) -> Any:
    """Return a document with one part replaced, or dropped."""
    if not path:
        return new
    key, *rest = path
    changed = dict(value) if isinstance(value, dict) else list(value)
    if drop and not rest:
        del changed[key]
    else:
        changed[key] = replaced(changed[key], tuple(rest), new, drop=drop)
    return changed


@st.composite
def mutated(draw: st.DrawFn, good: Any, values: st.SearchStrategy[Any] = Json) -> Any:
    """Replace or drop one to three parts of a good document."""
    found = good
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(paths(found))))
        found = replaced(found, way, draw(values), drop=bool(way) and draw(st.booleans()))
        if not isinstance(found, dict | list):
            break
    return found


def spoilt(data: bytes, where: int, garbage: bytes, *, cut: bool) -> bytes:
    """Return bytes with a piece overwritten, or cut off there."""
    where %= len(data) + 1
    return data[:where] + (b"" if cut else garbage + data[where + len(garbage) :])


# ------------------------------------------------------------------------------------------------ manifests

CONTENT: Final = documents(3)
GOOD: Final = msgspec.json.decode(
    to_json(manifest_of(b"an artifact", collections={"nanumpay.users": (3, len(CONTENT))}, proven=True))
)


def encoded(document: Any) -> bytes:
    """Write JSON as whoever damages a manifest would, numbers that are none and lone surrogates included."""
    return json.dumps(document, ensure_ascii=True).encode()


def looked_at(folder: Path, manifest: bytes) -> None:
    """Meet a manifest in all ways: here, after a rebuild, at a destination, and when retention deletes what it can."""
    layout = Layout(folder / "backups")
    other = published(layout, created=NOW - timedelta(days=1))
    canary = folder / "outside"
    canary.write_bytes(b"not ours")
    identifier = str(GOOD["backup"])
    (layout.backups / f"{identifier}.tar.gz").write_bytes(b"an artifact")
    layout.manifest(identifier).write_bytes(manifest)
    place = folder / "place"
    place.mkdir()
    (place / f"{identifier}.tar.gz").write_bytes(b"an artifact")
    (place / f"{identifier}.tar.gz{MANIFEST_SUFFIX}").write_bytes(manifest)
    read_manifest(layout.manifest(identifier))
    destination = LocalDestination(path=str(place), name="disk")
    job = job_spec(retention=Policy(count=1, days=1), destinations=(destination,))
    with Catalog(folder / "catalog.db") as catalog:
        sync_local(catalog, layout, NOW)
        rebuild_local(catalog, layout, NOW)
        with open_store(destination) as store, contextlib.suppress(BackupdError):
            adopt_place("disk", store, catalog, NOW)
        assert {backup.id for backup in catalog.backups()} >= {other.id}, "another manifest is not lost by it"
        prune(job, catalog, layout, NOW + timedelta(days=40), open_store)
        assert any(copy.destination == LOCAL for backup in catalog.backups() for copy in backup.copies)
    assert canary.read_bytes() == b"not ours"
    assert {entry.name for entry in folder.iterdir()} <= {"backups", "outside", "place"} | {
        entry.name for entry in folder.glob("catalog.db*")
    }


@pytest.mark.promise(UNTRUSTED, item=8)
@some
@given(document=mutated(GOOD))
def test_a_manifest_with_anything_in_it(document: Any) -> None:
    """Whatever JSON stands in a manifest, other backups stay known, and nothing outside of the places is touched."""
    with tempfile.TemporaryDirectory() as folder:
        looked_at(Path(folder), encoded(document))


@pytest.mark.promise(UNTRUSTED, item=8)
@some
@given(where=st.integers(0, 5000), garbage=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_a_manifest_of_any_bytes(where: int, garbage: bytes, cut: bool) -> None:
    """Cut off or overwritten anywhere it is a manifest or it is none."""
    with tempfile.TemporaryDirectory() as folder:
        looked_at(Path(folder), spoilt(to_json(GOOD), where, garbage, cut=cut))


# ------------------------------------------------------------------------------------------------ archives

NAMES: Final = [
    "backup/nanumpay/users.bson",
    "backup/nanumpay/users.metadata.json",
    "backup/oplog.bson",
    "backup/../../outside",
    "/outside",
    "..",
    "backup",
    "backup/../backup/x",
    "./backup//nanumpay/./users.bson",
    "other/x",
    "backup/" + "d/" * 60 + "deep",
    "backup/nul\0",
    "backup/nanumpay/link/x",
    "backup/nanumpay/link",
]
KINDS: Final = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE,
    b"Z",
]
Members = st.lists(
    st.tuples(
        st.sampled_from(NAMES) | Texts,
        st.sampled_from(KINDS) | st.just(tarfile.REGTYPE),
        st.sampled_from(["/etc/passwd", "../../outside", "backup/nanumpay/users.bson", "/"]),
        st.binary(max_size=2000) | st.just(CONTENT),
        st.sampled_from([0, 0, 0, 1, -1, 5000, 8 << 30]),
    ),
    max_size=5,
)


def hostile_tar(members: list[tuple[str, bytes, str, bytes, int]]) -> bytes:
    """Write an archive; the last number of a member is by how much its header lies about its size."""
    data = io.BytesIO()
    for name, kind, target, content, lie in members:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, max(0, len(content) + lie)
        with contextlib.suppress(ValueError, UnicodeError):
            data.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            data.write(content + bytes(-len(content) % 512))
    return data.getvalue() + bytes(1024)


@pytest.mark.promise(UNTRUSTED, item=8)
@many
@given(members=Members, cut=st.booleans())
def test_an_archive_that_is_made_to_harm(members: list[tuple[str, bytes, str, bytes, int]], cut: bool) -> None:
    """Climbing and absolute names, links, devices, sizes that lie: VerifyError, or plain files below the folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "outside").write_bytes(b"not ours")
        data = zlib.compress(hostile_tar(members), 1, 31)
        artifact = folder / "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
        artifact.write_bytes(data[: len(data) // 2] if cut else data)
        target = folder / "target"
        with contextlib.suppress(VerifyError):
            look_through(artifact, lambda _: None, lambda _: None)
        with contextlib.suppress(VerifyError, OSError):
            unpack(artifact, target, lambda path: path, lambda _: None)
        assert {entry.name for entry in folder.iterdir()} <= {"outside", artifact.name, "target"}
        assert (folder / "outside").read_bytes() == b"not ours"
        for entry in target.rglob("*"):
            assert not entry.is_symlink()
            assert entry.is_dir() or (entry.is_file() and entry.stat().st_nlink == 1)


@pytest.mark.promise(UNTRUSTED, item=8)
def test_a_bomb_of_gigabytes_takes_no_memory_and_no_disk(tmp_path: Path) -> None:
    """Gigabytes of nothing in a few megabytes: read piece by piece, refused, and nothing of it is on the disk."""
    one = zlib.compressobj(9, zlib.DEFLATED, 31)
    info = tarfile.TarInfo("backup/nanumpay/users.bson")
    info.size = (2 << 30) if LONG else (256 << 20)
    artifact = tmp_path / "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
    with artifact.open("wb") as stream:
        stream.write(one.compress(info.tobuf(tarfile.GNU_FORMAT)))
        for _ in range(info.size >> 20):
            stream.write(one.compress(bytes(1 << 20)))
        stream.write(one.flush())
    before = peak()
    with pytest.raises(VerifyError):
        look_through(artifact, lambda _: None, lambda _: None)
    with pytest.raises(VerifyError):
        unpack(artifact, tmp_path / "target", lambda _: None, lambda _: None)
    assert peak() - before < 64 << 20
    assert not (tmp_path / "target").exists()


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@pytest.mark.promise(UNTRUSTED, item=8)
@many
@given(where=st.integers(0, 2000), garbage=st.binary(min_size=1, max_size=12), pieces=st.integers(1, 500))
def test_bson_with_garbage_in_it(where: int, garbage: bytes, pieces: int) -> None:
    """Walked in pieces of any size it is as many documents, or VerifyError, and its lengths are never believed."""
    data = spoilt(documents(10), where, garbage, cut=False)
    walk = BsonWalk("users.bson")
    with contextlib.suppress(VerifyError):
        for at in range(0, len(data), pieces):
            walk(data[at : at + pieces])
        walk(b"")


# ------------------------------------------------------------------------------------------------ settings

Bson = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=20).filter(lambda text: "\0" not in text)
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            Int64(2**62),
            Decimal128("NaN"),
            Decimal128("1E+6000"),
            Regex("a+"),
            Code("while (true) {}"),
            MinKey(),
            MaxKey(),
            Timestamp(1, 1),
            ObjectId("0" * 24),
            DatetimeMS(2**60),
            Binary(b"x", 128),
            DBRef("a", "b"),
            "2:5",
            "99:99",
            "ftp",
            "s3",
            "monthly",
            31,
            -1,
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["retention", "storage", "s3", "ftp", "count", "port", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)
FORM: Final[dict[str, Any]] = {
    "enabled": True,
    "frequency": "daily",
    "time": "02:00",
    "dayOfWeek": 1,
    "dayOfMonth": 1,
    "includeFiles": False,
    "retention": {"count": 7, "days": 30, "compress": True},
    "storage": {
        "type": "ftp",
        "s3": {"bucket": "b", "region": "r", "accessKeyId": "a", "secretAccessKey": "s", "prefix": "p", "endpoint": ""},
        "ftp": {"host": "h", "port": 21, "username": "u", "password": "p", "remotePath": "/", "secure": True},
    },
}


_AS_WATCHED: Final = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_AUTO)


@pytest.mark.promise(UNTRUSTED, item=8)
@many
@given(document=mutated(FORM, Bson))
def test_settings_of_any_bson(document: Any) -> None:
    """Whatever the database holds in their place, as BSON brings it, they are settings or refused with their path."""
    raw = bson.decode(bson.encode({"backup": document}), _AS_WATCHED)["backup"]
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_document(raw), AppSettings)


# ------------------------------------------------------------------------------------------------ the host file

_EXAMPLE: Final = [
    line.removeprefix("#").strip()
    for line in (PROJECT / "docs" / "backupd.toml.example").read_text(encoding="utf-8").splitlines()
    if line.lstrip("#").strip().startswith("[") or " = " in line
]
_VALUES: Final = ["-1", "1e400", "''", "[]", "{}", "'\\u0000'", "2026-11-21", "true", "'../..'", "99999999999999999999"]
Lines = st.lists(
    st.sampled_from(_EXAMPLE)
    | st.tuples(
        st.sampled_from(_EXAMPLE), st.sampled_from(["-1", "1e400", "''", "[]", "{}", "'\\u0000'", "2026-11-21", "true"])
    ).map(lambda both: f"{both[0].partition('=')[0]}= {both[1]}")
    | Texts,
    max_size=12,
)


@pytest.mark.promise(UNTRUSTED, item=8)
@many
@given(lines=Lines)
def test_a_host_file_of_any_lines(lines: list[str]) -> None:
    """Lines of the example in any order, with any values, and garbage: a configuration, or ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backupd.toml"
        path.write_bytes(
            "\n".join(lines).encode("utf-8", "surrogateescape" if "\ud800" not in "".join(lines) else "replace")
        )
        path.chmod(0o600)
        with contextlib.suppress(ConfigError):
            assert isinstance(load_host_file(path, environ={}), HostConfig)


def test_the_sum_of_the_good_manifest_is_that_of_its_artifact() -> None:
    """What is mutated above is a good one to begin with."""
    assert GOOD["artifact"]["sha256"] == sha256(b"an artifact").hexdigest()
