"""Uploads whose process or server is killed, again and again: they go on where they stood, and arrive as they were."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.pipeline.unfinished import KeptNotes
from nanumpay_backupd.settings.schema import Destination, LocalDestination, encode_hook
from nanumpay_backupd.stores.base import PutResult, part_name
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.process import die_with_parent
from tests.servers.azurite import start_azurite
from tests.servers.daemon import backup_settings, open_site, wait_for
from tests.servers.dropbox import start_dropbox
from tests.servers.ftp import FOLDER, PASSWORD, start_pyftpdlib, start_vsftpd
from tests.servers.gcs import start_gcs
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.proxy import start_proxy
from tests.servers.s3 import start_s3
from tests.servers.sftp import start_sshd

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise("An upload that was cut off goes on where it stood; nobody has to do anything.", item=1),
]

MIB: Final = 1 << 20
KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
DATA: Final = random.Random(20261122).randbytes(36 * MIB + 123)
PARTS: Final = 5 * MIB
IN_FLIGHT: Final = 2 * PARTS
"""What a kill costs at S3: the parts that were on their way."""

# A worker's way to a destination: settings through a pipe, notes in the catalog.
PUT: Final = """
import sys
from pathlib import Path
import msgspec
from nanumpay_backupd.pipeline.unfinished import KeptNotes
from nanumpay_backupd.settings.schema import Destination, decode_hook
from nanumpay_backupd.stores.factory import open_store
settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Destination, dec_hook=decode_hook)
with open_store(settings, notes=KeptNotes(Path(sys.argv[1]), settings.name)) as store:
    store.put(sys.argv[2], Path(sys.argv[3]))
"""


class Place:
    """A destination on its server, the bytes that were sent there, and where its objects lie."""

    def __init__(self, settings: Destination, sent: Callable[[], int], folder: Path, cost: int) -> None:
        self.settings = settings
        self.sent = sent
        self.folder = folder
        self.cost = cost
        """Bytes at most that each kill loses."""

    def objects(self) -> dict[str, bytes]:
        """Return what is there, unfinished uploads left out where they are no files."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return {entry.name: entry.read_bytes() for entry in found if entry.is_file()}


class Cloud(Place):
    """One whose objects are no files here."""

    def __init__(
        self, settings: Destination, sent: Callable[[], int], cost: int, objects: Callable[[], dict[str, bytes]]
    ) -> None:
        super().__init__(settings, sent, Path("/nowhere/at/all"), cost)
        self._objects = objects

    def objects(self) -> dict[str, bytes]:
        """See `Place.objects`."""
        return self._objects()


def start_cloud(kind: str, folder: Path, stack: contextlib.ExitStack) -> Place:
    """Run a cloud's server, and count what is sent to it."""
    port, slow = free_port(), 24 * MIB

    def through(endpoint: str) -> tuple[str, Callable[[], int]]:
        host = urlsplit(endpoint)
        proxy = stack.enter_context(start_proxy("127.0.0.1", port, forward_to=host.port))
        return f"http://127.0.0.1:{port}{host.path}", lambda: len(proxy.recorded)

    if kind == "gcs":
        google = stack.enter_context(start_gcs())
        url, sent = through(google.endpoint)
        settings = google.destination(endpoint_url=url, prefix="", bandwidth=slow, chunk_size=MIB)
        return Cloud(settings, sent, 2 * MIB, lambda: {name: google.content(name) for name in google.here()})
    if kind == "azure":
        azurite = stack.enter_context(start_azurite(folder))
        client = stack.enter_context(contextlib.closing(azurite.client()))
        url, sent = through(azurite.endpoint)
        return Cloud(
            azurite.destination(endpoint_url=url, prefix="", bandwidth=slow, block_size=MIB),
            sent,
            3 * MIB,
            lambda: {name: client.download_blob(name).readall() for name in client.list_blob_names()},
        )
    dropbox = stack.enter_context(start_dropbox(folder))
    url, sent = through(dropbox.endpoint)
    return Place(
        dropbox.destination(endpoint_url=url, path="/files", bandwidth=slow), sent, dropbox.root / "files", 5 * MIB
    )


@pytest.fixture(params=["s3", "vsftpd", "pyftpdlib", "sftp", "local", "gcs", "azure", "dropbox"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of place, slow enough to be killed in between."""
    with contextlib.ExitStack() as stack:
        if request.param == "s3":
            server = stack.enter_context(start_s3(tmp_path))
            port = free_port()
            forward = int(server.endpoint.rpartition(":")[2])
            proxy = stack.enter_context(start_proxy("127.0.0.1", port, forward_to=forward))
            settings = server.destination(endpoint_url=f"http://127.0.0.1:{port}", prefix="", part_size=PARTS)
            yield Place(settings, lambda: len(proxy.recorded), server.root / server.bucket, IN_FLIGHT)
        elif request.param in ("gcs", "azure", "dropbox"):
            yield start_cloud(request.param, tmp_path, stack)
        elif request.param == "sftp":
            ssh = stack.enter_context(start_sshd(tmp_path / "ssh"))
            port = free_port()
            door = stack.enter_context(start_proxy("127.0.0.1", port, forward_to=ssh.port))
            slow = ssh.destination(port=port, bandwidth=24 * MIB)
            # What was on its way, and as much again that is not believed: requests may have come out of order.
            yield Place(slow, lambda: len(door.recorded), ssh.folder, 8 * MIB)
        elif request.param == "local":
            folder = tmp_path / "disk"
            part = folder / part_name(KEY)
            yield Place(
                LocalDestination(name="disk", path=str(folder), bandwidth=32 * MIB),
                lambda: part.stat().st_size if part.exists() else 0,
                folder,
                0,
            )
        else:
            start = start_pyftpdlib(tmp_path / "root", address="127.0.0.2")
            if request.param == "vsftpd":
                start = start_vsftpd(tmp_path / "root", tmp_path, address="127.0.0.2")
            ftp = stack.enter_context(start)
            gate = stack.enter_context(start_proxy("127.0.0.2", ftp.port, ftp.passive_ports))
            # What is on its way in the buffers of proxy and kernel.
            yield Place(ftp.destination(host="127.0.0.1", bandwidth=24 * MIB), lambda: gate.sent, ftp.folder, 4 * MIB)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that takes many parts."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@contextlib.contextmanager
def worker(place: Place, source: Path, catalog: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Put the file in a process of its own, as a worker does."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUT, str(catalog), KEY, str(source)],
        stdin=subprocess.PIPE,
        preexec_fn=die_with_parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(place.settings, enc_hook=encode_hook))
    process.stdin.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def kill_at(place: Place, source: Path, catalog: Path, sent: int) -> None:
    """Kill a worker once so many bytes were sent, by all of them."""
    with worker(place, source, catalog) as process:
        wait_for(lambda: place.sent() >= sent or process.poll() is not None, f"{sent} bytes")
        assert process.poll() is None, "it was done before it was killed"


def finish(place: Place, source: Path, catalog: Path) -> PutResult:
    """Put the file, and compare what is there then."""
    settings = place.settings
    with open_store(settings, notes=KeptNotes(catalog, settings.name), hurry=True) as store:
        result = store.put(KEY, source)
        assert b"".join(store.get(KEY)) == DATA
    assert place.objects() == {KEY: DATA}
    return result


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "catalog lost"])
def test_three_kills_cost_only_what_was_on_its_way(place: Place, source: Path, tmp_path: Path, noted: bool) -> None:
    """Each worker goes on where the one before was killed, with its notes and without them; nothing is sent anew.

    Where the place tells nobody of unfinished uploads, who lost the notes begins anew.
    """
    for number in (1, 2, 3):
        catalog = tmp_path / "state" / ("catalog.db" if noted else f"catalog{number}.db")
        kill_at(place, source, catalog, number * (place.cost or 8 * MIB) + 2 * MIB)
        assert KEY not in place.objects()
    result = finish(place, source, tmp_path / "state" / ("catalog.db" if noted else "catalog4.db"))
    if not noted and open_store(place.settings).properties.needs_notes:
        assert result.resumed == 0
        return
    assert result.resumed >= 2 * MIB
    assert place.sent() <= len(DATA) + 3 * place.cost + 2 * MIB


# Clouds tell the checksums of what they have, or refuse the whole by its own.
@pytest.mark.parametrize("place", ["vsftpd", "pyftpdlib", "sftp", "local"], indirect=True)
def test_what_was_written_wrongly_by_a_server_that_crashed_is_not_believed(
    place: Place, source: Path, tmp_path: Path
) -> None:
    """Blocks that got lost in what is there are found, and the object is whole in the end."""
    catalog = tmp_path / "state" / "catalog.db"
    kill_at(place, source, catalog, 12 * MIB)
    part = place.folder / part_name(KEY)
    with part.open("r+b") as stream:
        stream.seek(part.stat().st_size // 2)
        stream.write(bytes(4096))
    finish(place, source, catalog)


def test_an_s3_server_that_forgets_its_uploads_is_sent_all_anew(tmp_path: Path, source: Path) -> None:
    """Rclone keeps unfinished uploads in memory: killed and started again it knows of none, and gets the whole."""
    port = free_port()
    catalog = tmp_path / "catalog.db"
    with contextlib.ExitStack() as first:
        server = first.enter_context(start_s3(tmp_path / "one"))
        proxy = first.enter_context(start_proxy("127.0.0.1", port, forward_to=int(server.endpoint.rpartition(":")[2])))
        settings = server.destination(endpoint_url=f"http://127.0.0.1:{port}", prefix="")
        place = Place(settings, lambda: len(proxy.recorded), server.root / server.bucket, IN_FLIGHT)
        with worker(place, source, catalog) as process:
            wait_for(lambda: place.sent() >= 12 * MIB, "12 MiB")
            first.close()
            assert process.wait(60) != 0
    with (
        start_s3(tmp_path / "two") as other,
        start_proxy("127.0.0.1", port, forward_to=int(other.endpoint.rpartition(":")[2])),
    ):
        again = Place(settings, lambda: 0, other.root / other.bucket, 0)
        assert finish(again, source, catalog).resumed == 0


def test_an_ftp_server_that_is_killed_is_gone_on_with(tmp_path: Path, source: Path) -> None:
    """The server dies in the middle; the put fails as unreachable, and the next one sends the rest."""
    port = free_port()
    with start_pyftpdlib(tmp_path / "root", port=port) as server:
        settings = server.destination(bandwidth=24 * MIB)
        part = server.folder / part_name(KEY)
        place = Place(settings, lambda: part.stat().st_size if part.exists() else 0, server.folder, 0)
        started = worker(place, source, tmp_path / "catalog.db")
        process = started.__enter__()
        wait_for(lambda: place.sent() >= 6 * MIB, "6 MiB")
    try:
        assert process.wait(60) != 0
    finally:
        started.__exit__(None, None, None)
    with open_store(settings) as store, pytest.raises(StoreError) as caught:
        store.stat(KEY)
    assert caught.value.code == "destination-unreachable"
    with start_pyftpdlib(tmp_path / "root", port=port):
        assert finish(place, source, tmp_path / "catalog.db").resumed >= 6 * MIB


def test_the_daemon_killed_three_times_goes_on_with_the_upload(mongod_rs: Mongod, tmp_path: Path) -> None:
    """Started again each time, it takes the upload from its queue and sends the rest; nobody has to do anything."""
    with contextlib.ExitStack() as stack:
        ftp = stack.enter_context(start_pyftpdlib(tmp_path / "ftp", address="127.0.0.2"))
        proxy = stack.enter_context(start_proxy("127.0.0.2", ftp.port, ftp.passive_ports))
        login = {"host": "127.0.0.1", "port": ftp.port, "username": ftp.user, "password": PASSWORD}
        settings = backup_settings(ftp={**login, "remotePath": FOLDER})
        site = stack.enter_context(open_site(mongod_rs, settings))
        with site.db() as db:
            db.blobs.insert_many([{"data": DATA[at * MIB : (at + 1) * MIB]} for at in range(20)])
        site.write_config("[retry]\nattempts = 50\ndelay = '1s'\n[nanumpay.ftp]\nbandwidth = '12MiB'")
        site.start()
        site.begin()
        for sent in (5 * MIB, 9 * MIB, 13 * MIB):
            wait_for(lambda sent=sent: proxy.sent >= sent, f"{sent} bytes")  # type: ignore[misc]
            site.kill()
            site.start()
        (backup,) = site.list_backups()
        stored = ftp.folder / backup["artifact"]
        wait_for((ftp.folder / f"{stored.name}.manifest.json").exists, "the manifest")
        assert stored.read_bytes() == (site.backups / stored.name).read_bytes()
        assert proxy.sent < backup["size"] + 3 * 4 * MIB
        assert {entry.name for entry in ftp.folder.iterdir()} == {stored.name, f"{stored.name}.manifest.json"}
        assert "were there from an earlier try" in site.log()
