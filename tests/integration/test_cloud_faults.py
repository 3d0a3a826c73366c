"""Clouds when something goes wrong: cuts, other writers, damage, locks, rights, certificates; and ways to log in."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.stores.azure import AzureStore
from nanumpay_backupd.stores.azure_blocks import block_length
from nanumpay_backupd.stores.base import ShortNotes, Store
from nanumpay_backupd.stores.dropbox import DropboxStore
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.gcs import GcsStore
from nanumpay_backupd.stores.sessions import Session
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.servers.azurite import ACCOUNT, KEY, Azurite, start_azurite
from tests.servers.certs import Certificate, make_certificate
from tests.servers.dropbox import DropboxServer, start_dropbox
from tests.servers.gcs import GcsServer, start_gcs
from tests.servers.process import TRUST_VARIABLES, free_port
from tests.servers.proxy import BreakingProxy, start_proxy

pytestmark = pytest.mark.servers

NAME: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
MIB: Final = 1 << 20
DATA: Final = random.Random(7).randbytes(18 * MIB + 777)
CLOUDS: Final = ("gcs", "azure", "dropbox")
Server = GcsServer | Azurite | DropboxServer


class _Quick(SystemClock):
    """A clock that does not let a test wait."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.05))


def _start(kind: str, folder: Path, *, certificate: Certificate | None = None, **where: Any) -> Any:
    match kind:
        case "gcs":
            return start_gcs(certificate, **where)
        case "azure":
            return start_azurite(folder, certificate, **where)
        case _:
            return start_dropbox(folder, certificate, **where)


@pytest.fixture(scope="module", params=CLOUDS)
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run each server once, on 127.0.0.2."""
    kind: str = request.param
    with _start(kind, tmp_path_factory.mktemp(kind), address="127.0.0.2", port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one authority and server certificate for all."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def proxy(cloud: Server) -> Iterator[BreakingProxy]:
    """Stand before it on 127.0.0.1, at the same port."""
    port = int(cloud.endpoint.split(":")[2].partition("/")[0])
    with start_proxy("127.0.0.2", free_port(), [port]) as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file of 18 MiB to store."""
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


_folders = iter(range(1000))


def _settings(cloud: Server, **changes: Any) -> Any:
    """Return settings of a folder of its own, with small chunks."""
    folder = f"faults{next(_folders)}"
    match cloud:
        case GcsServer():
            return cloud.destination(**{"prefix": f"{folder}/", "chunk_size": MIB, **changes})
        case Azurite():
            return cloud.destination(**{"prefix": f"{folder}/", "block_size": MIB, **changes})
        case _:
            return cloud.destination(**{"path": f"/{folder}", **changes})


def _through(cloud: Server, **changes: Any) -> Any:
    return _settings(cloud, endpoint_url=cloud.endpoint.replace("127.0.0.2", "127.0.0.1"), **changes)


def _open(settings: Any, notes: ShortNotes) -> Store:
    match settings.extra:
        case "gcs":
            return GcsStore(settings, _Quick(), notes=notes)
        case "azure":
            return AzureStore(settings)
        case _:
            return DropboxStore(settings, _Quick(), notes=notes)


def _fails(call: Callable[[], Any]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    assert caught.value.message
    return caught.value


class _EnoughError(Exception):
    """The callback had enough."""


def _break_off(store: Store, source: Path, after: int) -> None:
    moved = 0

    def stop(size: int) -> None:
        nonlocal moved
        moved += size
        if moved >= after:
            raise _EnoughError

    with pytest.raises(_EnoughError):
        store.put(NAME, source, stop)


# ------------------------------------------------------------------------------------------------ cuts


@pytest.mark.parametrize("cloud", ["gcs", "dropbox"], indirect=True)
def test_a_cut_upload_is_gone_on_with(cloud: Server, proxy: BreakingProxy, source: Path) -> None:
    """An upload that is cut twice goes on where the server stands: it is whole, and little is sent twice."""
    proxy.cuts = [9 * MIB, 5 * MIB]
    moved: list[int] = []
    with _open(_through(cloud), ShortNotes()) as store:
        assert store.put(NAME, source, moved.append).proven
        assert proxy.cuts == []
        # Starting again after each cut would take 32 MiB; a chunk of Dropbox is at least 4 MiB.
        assert proxy.sent < len(DATA) + 10 * MIB
        assert sum(moved) == len(DATA)
        assert b"".join(store.get(NAME)) == DATA


def test_a_later_put_goes_on_with_what_an_earlier_one_left(cloud: Server, proxy: BreakingProxy, source: Path) -> None:
    """A put that was cut for good leaves the old object; one of another process with its notes sends only the rest."""
    notes, settings = ShortNotes(), _through(cloud)
    with _open(settings, notes) as store:
        store.put_bytes(NAME, b"old")
        proxy.cuts = [7 * MIB] + [0] * 20
        error = _fails(lambda: store.put(NAME, source))
        assert (error.code, error.retryable) == ("destination-unreachable", True)
        proxy.cuts = []
        assert b"".join(store.get(NAME)) == b"old"
        assert [info.key for info in store.list()] == [NAME]
    sent, moved = proxy.sent, list[int]()
    with _open(settings, notes) as store:
        assert store.put(NAME, source, moved.append).proven
        assert proxy.sent - sent < len(DATA) - 3 * MIB
        assert sum(moved) == len(DATA)
        assert b"".join(store.get(NAME)) == DATA
    assert notes.read(NAME) is None


def test_what_was_left_of_another_file_is_not_gone_on_with(
    cloud: Server, proxy: BreakingProxy, source: Path, tmp_path: Path
) -> None:
    """A file of the same name and size with another content arrives whole, whatever is there of the first."""
    notes, settings = ShortNotes(), _through(cloud)
    with _open(settings, notes) as store:
        proxy.cuts = [7 * MIB] + [0] * 20
        _fails(lambda: store.put(NAME, source))
        proxy.cuts = []
        other = tmp_path / "other"
        other.write_bytes(b"x" + DATA[1:])
        store.put(NAME, other)
        assert b"".join(store.get(NAME)) == b"x" + DATA[1:]


@pytest.mark.parametrize("cloud", ["dropbox"], indirect=True)
def test_a_lost_answer_is_no_lost_upload(cloud: DropboxServer, source: Path) -> None:
    """When the answer to the last call is lost, the file that is there is found, and not sent again."""
    with _open(_settings(cloud), ShortNotes()) as store:

        def lose(_: int) -> None:
            there = next(iter(cloud.sessions.values()), b"")
            cloud.cuts = 1 if len(there) == 16 * MIB else 0

        cloud.received = 0
        assert store.put(NAME, source, lose).proven
        cloud.cuts = 0
        assert cloud.received < len(DATA) + 5 * MIB
        assert b"".join(store.get(NAME)) == DATA
    cloud.sessions.clear()


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", msgspec.json.encode(Session("http://elsewhere/", 1, datetime.now(UTC)))]
)
@pytest.mark.parametrize("cloud", ["gcs", "dropbox"], indirect=True)
def test_notes_of_no_use_do_no_harm(cloud: Server, source: Path, note: bytes) -> None:
    """A note that is damaged, or of another upload, is passed over."""
    notes = ShortNotes()
    notes.write(NAME, note)
    with _open(_settings(cloud), notes) as store:
        assert store.put(NAME, source).size == len(DATA)


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_a_session_that_the_server_forgot_is_begun_anew(cloud: GcsServer, source: Path) -> None:
    """A note whose session has ended is passed over within the same put."""
    notes, settings = ShortNotes(), _settings(cloud)
    url = f"{cloud.endpoint}/upload/storage/v1/b/backups/o?upload_id=gone"
    notes.write(NAME, msgspec.json.encode(Session(url, len(DATA), datetime.now(UTC), "0")))
    with _open(settings, notes) as store:
        assert store.put(NAME, source).proven
        assert b"".join(store.get(NAME)) == DATA


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_what_a_session_has_and_no_note_tells_is_compared_in_the_end(cloud: GcsServer, source: Path) -> None:
    """A session that is ahead of its note with another file's bytes is begun anew within the same put."""
    notes, settings = ShortNotes(), _settings(cloud)
    with _open(settings, notes) as store:
        _break_off(store, source, 5 * MIB)
        noted = msgspec.json.decode(notes.read(NAME) or b"", type=Session)
        assert max(noted.beginnings) >= 5 * MIB
        noted.beginnings = {offset: text for offset, text in noted.beginnings.items() if offset <= MIB}
        notes.write(NAME, msgspec.json.encode(noted))
        other = source.with_name("other")
        other.write_bytes(DATA[: 2 * MIB] + b"x" + DATA[2 * MIB + 1 :])
        moved: list[int] = []
        assert store.put(NAME, other, moved.append).resumed == 0
        assert sum(moved) == len(DATA)
        assert b"".join(store.get(NAME)) == other.read_bytes()


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_an_upload_that_was_finished_though_nobody_heard_is_not_sent_again(cloud: GcsServer, source: Path) -> None:
    """A session that became the file's object is found; one that became another file's is left as it is."""
    notes, settings = ShortNotes(), _settings(cloud)
    with _open(settings, notes) as store:
        kept = b""

        def keep(_: int) -> None:
            nonlocal kept
            kept = notes.read(NAME) or kept

        store.put(NAME, source, keep)
        for content, resumed in ((DATA, len(DATA)), (b"x" + DATA[1:], 0)):
            source.write_bytes(content)
            # The object is there, and what was noted of it as well.
            notes.write(NAME, kept)
            assert store.put(NAME, source).resumed == resumed
            assert b"".join(store.get(NAME)) == content


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_a_session_for_an_object_that_was_replaced_is_begun_anew(cloud: GcsServer, source: Path) -> None:
    """What Google would refuse in the end, since another object is there now, is not gone on with."""
    settings = _settings(cloud)
    with _open(settings, ShortNotes()) as store, open_store(settings) as other:
        _break_off(store, source, 5 * MIB)
        other.put_bytes(NAME, b"somebody else's")
        assert store.put(NAME, source).resumed == 0
        assert b"".join(store.get(NAME)) == DATA


@pytest.mark.parametrize("cloud", ["dropbox"], indirect=True)
def test_a_session_that_stands_elsewhere_than_noted_is_not_believed(cloud: DropboxServer, source: Path) -> None:
    """Dropbox compares no whole file before it makes one: what is not proven is sent anew."""
    with _open(_settings(cloud), ShortNotes()) as store:
        _break_off(store, source, 9 * MIB)
        (session,) = cloud.sessions.values()
        session += b"what is not in the file"
        assert store.put(NAME, source).resumed == 0
        assert b"".join(store.get(NAME)) == DATA
    cloud.sessions.clear()


# ------------------------------------------------------------------------------------------------ other writers, damage


@pytest.mark.parametrize("before", [b"", b"before"], ids=["new", "replaced"])
def test_nothing_is_overwritten_unnoticed(cloud: Server, source: Path, before: bytes) -> None:
    """What somebody else writes under the name while it is being stored stays, and the put fails; a retry may help."""
    # Azurite mixes up a blob that is made while blocks of it are on their way: one at a time, and none is.
    one = {"parallel_blocks": 1} if isinstance(cloud, Azurite) else {}
    settings = _settings(cloud, **one)
    with open_store(settings) as store, open_store(settings) as other:
        if before:
            store.put_bytes(NAME, before)
        written = False

        def meddle(_: int) -> None:
            nonlocal written
            if not written:
                written = True
                other.put_bytes(NAME, b"somebody else's")

        error = _fails(lambda: store.put(NAME, source, meddle))
        assert (error.code, error.retryable) == ("destination-failed", True)
        assert "somebody else" in error.hint
        assert b"".join(store.get(NAME)) == b"somebody else's"


@pytest.mark.parametrize("size", [300_000, len(DATA)], ids=["whole", "chunks"])
@pytest.mark.parametrize("cloud", ["gcs", "dropbox"], indirect=True)
def test_what_was_damaged_on_the_way_is_no_object(cloud: Any, tmp_path: Path, size: int) -> None:
    """A byte that changed on its way is destination-mismatch, and the old object stays."""
    source = tmp_path / "artifact"
    source.write_bytes(DATA[:size])
    with open_store(_settings(cloud)) as store:
        store.put_bytes(NAME, b"old")
        cloud.damage = True
        error = _fails(lambda: store.put(NAME, source))
        assert (error.code, error.retryable) == ("destination-mismatch", True)
        assert not cloud.damage
        assert b"".join(store.get(NAME)) == b"old"


@pytest.mark.parametrize("size", [300_000, len(DATA)], ids=["whole", "blocks"])
@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
def test_azure_refuses_what_was_damaged(cloud: Azurite, tmp_path: Path, size: int) -> None:
    """A byte that changes between here and Azure is destination-mismatch, and the old blob stays."""
    source = tmp_path / "artifact"
    source.write_bytes(DATA[:size])
    settings = _through(cloud)
    port = int(cloud.endpoint.split(":")[2].partition("/")[0])
    with start_proxy("127.0.0.2", port) as proxy, open_store(settings) as store:
        store.put_bytes(NAME, b"old")
        proxy.damage = DATA[1000:1016]
        error = _fails(lambda: store.put(NAME, source))
        assert (error.code, error.retryable) == ("destination-mismatch", True)
        assert b"".join(store.get(NAME)) == b"old"


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_google_says_what_is_locked(cloud: GcsServer) -> None:
    """An object under retention is a LockedError with the moment it ends, for who asks and for who deletes."""
    settings = _settings(cloud)
    until = datetime.now(UTC) + timedelta(days=3)
    with open_store(settings) as store:
        store.put_bytes(NAME, b"x")
        cloud.held[f"{settings.prefix}{NAME}"] = until
        with pytest.raises(LockedError) as caught:
            store.must_be_free(NAME)
        assert caught.value.until is not None
        assert abs(caught.value.until - until) < timedelta(seconds=1)
        with pytest.raises(LockedError):
            store.delete(NAME)
        assert store.stat(NAME) is not None
        cloud.held.clear()
        store.must_be_free(NAME)
        store.delete(NAME)


def test_a_right_that_is_missing_is_named(cloud: Server) -> None:
    """Who may not delete is told so, with what to do about it; writing and reading work."""
    with contextlib.ExitStack() as stack:
        settings = _settings(cloud)
        if isinstance(cloud, Azurite):
            settings = msgspec.structs.replace(settings, account_key=Secret(""), sas_token=cloud.sas("rwlac"))
        store = stack.enter_context(open_store(settings))
        store.put_bytes(NAME, b"x")
        if isinstance(cloud, GcsServer):
            cloud.denied = {"DELETE"}
            stack.callback(cloud.denied.clear)
        elif isinstance(cloud, DropboxServer):
            cloud.scopes.remove("files.content.write")
            stack.callback(cloud.scopes.add, "files.content.write")
        error = _fails(lambda: store.delete(NAME))
        assert (error.code, error.retryable) == ("destination-denied", False)
        assert error.hint
        assert b"".join(store.get(NAME)) == b"x"


# ------------------------------------------------------------------------------------------------ logins


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_application_default_credentials(cloud: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key file in the settings the host's own login is used; where there is none, that is said."""
    file = tmp_path / "key.json"
    file.write_text(cloud.account(cloud.key).reveal())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    settings = _settings(cloud, service_account=Secret(""))
    with open_store(settings) as store:
        assert store.put_bytes(NAME, b"x").proven
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    with open_store(settings) as store:
        error = _fails(lambda: store.put_bytes(NAME, b"x"))
    assert (error.code, error.retryable) == ("destination-auth", False)


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"type":"service_account","private_key":"x"}', "[]"])
@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_a_key_file_that_is_none(cloud: GcsServer, text: str) -> None:
    """What is not the key file of a service account is destination-auth, and says what it should be."""
    with open_store(_settings(cloud, service_account=Secret(text))) as store:
        error = _fails(lambda: store.put_bytes(NAME, b"x"))
    assert (error.code, error.retryable) == ("destination-auth", False)
    assert "service_account" in error.hint


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
def test_logins_of_azure(cloud: Azurite) -> None:
    """A connection string and a SAS do as the key does; a SAS that has ended is destination-auth, without its text."""
    text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={cloud.endpoint};"
    by_string = {"account": "", "account_key": Secret(""), "endpoint_url": "", "connection_string": Secret(text)}
    by_sas = {"account_key": Secret(""), "sas_token": cloud.sas()}
    for changes in (by_string, by_sas):
        with open_store(_settings(cloud, **changes)) as store:
            assert store.put_bytes(NAME, b"x").proven
            assert b"".join(store.get(NAME)) == b"x"
            store.delete(NAME)
    ended = cloud.sas(ended=True)
    with open_store(_settings(cloud, account_key=Secret(""), sas_token=ended)) as store:
        error = _fails(lambda: store.put_bytes(NAME, b"x"))
    assert error.code == "destination-auth"
    assert ended.reveal() not in error.message + error.hint
    assert "sig=" not in error.message


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
def test_tiers_of_azure(cloud: Azurite, source: Path) -> None:
    """A blob is of the tier that the settings name, whether it went up whole or in blocks."""
    settings = _settings(cloud, tier="Cool")
    with open_store(settings) as store, contextlib.closing(cloud.client()) as client:
        store.put_bytes("small", b"x")
        store.put(NAME, source)
        for name in ("small", NAME):
            found = client.get_blob_client(settings.prefix + name).get_blob_properties()
            assert found.blob_tier == "Cool"


@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_storage_classes_of_google(cloud: GcsServer, source: Path) -> None:
    """An object is of the storage class that the settings name, whether it went up whole or in a session."""
    settings = _settings(cloud, storage_class="NEARLINE")
    with open_store(settings) as store:
        store.put_bytes("small", b"x")
        store.put(NAME, source)
    for name in ("small", NAME):
        assert cloud.here()[settings.prefix + name]["storageClass"] == "NEARLINE"


@pytest.mark.parametrize("size", [1000, len(DATA)], ids=["whole", "session"])
@pytest.mark.parametrize("cloud", ["gcs"], indirect=True)
def test_keys_of_google(cloud: GcsServer, source: Path, size: int) -> None:
    """Google is asked to encrypt by the key that the settings name, whether an object goes up whole or in a session."""
    source.write_bytes(DATA[:size])
    cloud.keys.clear()
    with open_store(_settings(cloud, kms_key_name=(key := "projects/p/locations/l/keyRings/r/cryptoKeys/k"))) as store:
        store.put(NAME, source)
    assert f"POST {key}" in cloud.keys


def test_blocks_are_large_enough_for_azure() -> None:
    """No file needs more than 50,000 blocks, and none is smaller than asked for."""
    for size in (1, 50_000 << 20, (50_000 << 20) + 1, 1 << 40, 190 << 40):
        length = block_length(size, 1 << 20)
        assert length >= 1 << 20
        assert -(-size // length) <= 50_000


class _Metadata(BaseHTTPRequestHandler):
    """What a virtual machine of Azure answers to who asks for a token of its managed identity."""

    asked: Final[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        ends = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
            "iat": ends - 7200,
            "nbf": ends - 7200,
            "exp": ends,
        }
        token = ".".join(_unsigned(part) for part in ({"alg": "none", "typ": "JWT"}, claims)) + ".c2lnbmF0dXJl"
        body = json.dumps(
            {
                "access_token": token,
                "expires_in": "3599",
                "expires_on": str(ends),
                "resource": "x",
                "token_type": "Bearer",
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _unsigned(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_the_managed_identity_of_a_host(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any login in the settings the token comes from the host's metadata service, for the identity named."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_", *TRUST_VARIABLES))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{http.server_address[1]}")
    try:
        with start_azurite(tmp_path, certificate) as server:
            settings = _settings(server, account_key=Secret(""), client_id="11111111-2222-3333-4444-555555555555")
            with open_store(settings) as store:
                assert store.put_bytes(NAME, b"x").proven
                assert b"".join(store.get(NAME)) == b"x"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
    assert any("11111111-2222-3333-4444-555555555555" in path for path in _Metadata.asked)
