"""The doctor at real places: what was tried, how long it took, which right is missing, where credentials come from."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.doctor import Check, check_destination
from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.secrets import Secret
from tests.servers.ftp import start_pyftpdlib
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3

pytestmark = pytest.mark.servers

STEPS: Final = ["put", "list", "get", "range", "delete"]


def examine(destination: Destination) -> list[Check]:
    """Return what the doctor says of a place."""
    return list(check_destination("nanumpay", destination, open_store))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run one S3 server for all."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def test_each_step_has_its_time_and_nothing_stays(s3: S3Server) -> None:
    """All five steps are told with their seconds, in words too; the bucket's settings follow; it is empty then."""
    tried, *others = examine(s3.destination(prefix="steps/"))
    assert [step.step for step in tried.steps] == STEPS
    assert all(step.state == "ok" and step.seconds > 0 for step in tried.steps)
    assert tried.state == "ok"
    assert all(f"{step} " in tried.message for step in STEPS)
    topics = [check.name.rpartition(": ")[2] for check in others]
    assert topics[:5] == ["credentials", "resuming", "versioning", "lifecycle", "lock"]
    assert {check.state for check in others} == {"ok"}
    with open_store(s3.destination(prefix="steps/")) as store:
        assert list(store.list()) == []
        assert "Uploads" not in store._connect().list_multipart_uploads(Bucket=s3.bucket)  # type: ignore[attr-defined]


# pyftpdlib's letters: e change folder, l list, r read, a append, d delete, f rename, m make, w write, M T times.
@pytest.mark.parametrize(
    "permissions, failed, right",
    [
        ("elradfmMT", ["put"], "STOR"),
        ("elafmwMTd", ["get", "range"], "RETR"),
        ("elrafmwMT", ["delete"], "DELE"),
    ],
    ids=["no write", "no read", "no delete"],
)
def test_a_right_that_is_missing_is_named(tmp_path: Path, permissions: str, failed: list[str], right: str) -> None:
    """What the account may not do fails and is named as FTP calls it; the other steps are tried all the same."""
    with start_pyftpdlib(tmp_path / "root", permissions=permissions) as server:
        server.folder.mkdir(parents=True)
        tried = examine(server.destination())[0]
    assert tried.state == "failed"
    assert [step.step for step in tried.steps if step.state == "failed"] == failed
    assert all(step.code == "destination-denied" for step in tried.steps if step.state == "failed")
    assert "missing: to " in tried.hint
    assert right in tried.hint


def test_a_place_that_cannot_be_reached_ends_it(s3: S3Server) -> None:
    """A wrong key would fail everywhere: told once, and nothing else is asked."""
    (tried,) = examine(s3.destination(secret_access_key=Secret("wrong")))
    assert (tried.state, [step.step for step in tried.steps]) == ("failed", ["put"])
    assert tried.steps[0].code == "destination-auth"


# ------------------------------------------------------------------------------------------------- credentials

_STS: Final = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>
<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>a:s</AssumedRoleId></AssumedRoleUser>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@contextlib.contextmanager
def credentials_service() -> Iterator[str]:
    """Answer what AWS's services for credentials answer: machine's and container's role (JSON), web identity (XML)."""
    keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "t", "Code": "Success"}
    keys |= {"Expiration": "2099-01-01T00:00:00Z", "Type": "AWS-HMAC"}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, text: str) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self._answer("backup-role" if self.path.endswith("/security-credentials/") else json.dumps(keys))

        def do_PUT(self) -> None:
            self._answer("a token of the metadata service")

        def do_POST(self) -> None:
            self._answer(_STS.format(ACCESS_KEY, SECRET_KEY))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "way, told",
    [
        ("env", "the environment"),
        ("profile", "~/.aws/credentials of the service's user, profile backups"),
        ("web", "a web identity"),
        ("container", "the role of this container"),
        ("machine", "the role of this machine"),
    ],
)
def test_without_keys_the_credentials_are_found_and_it_is_told_where(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, told: str
) -> None:
    """Each way that AWS knows opens the bucket, and the doctor names it."""
    changes: dict[str, Any] = {}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with credentials_service() as service:
        if way == "env":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        elif way == "profile":
            changes["profile"] = "backups"
            text = f"[backups]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
            (tmp_path / "credentials").write_text(text, encoding="ascii")
        elif way == "web":
            (tmp_path / "token").write_text("token of an identity provider", encoding="ascii")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service)
        elif way == "container":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service}/role")
        else:
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service)
        settings = s3.destination(access_key_id="", secret_access_key=Secret(""), prefix=f"{way}/", **changes)
        found = {check.name.rpartition(": ")[2]: check for check in examine(settings)}
    assert found["destination cloud"].state == "ok", found["destination cloud"].message
    assert told in found["credentials"].message


def test_a_profile_that_there_is_not_is_told(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is in the message, and it counts as a wrong key."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    settings = s3.destination(access_key_id="", secret_access_key=Secret(""), profile="no-such-profile")
    (tried,) = examine(settings)
    assert tried.state == "failed"
    assert "no-such-profile" in tried.message
    assert tried.steps[0].code == "destination-auth"


def test_two_accounts_at_once(s3: S3Server, tmp_path: Path) -> None:
    """Each destination has credentials of its own: one that is wrong is not saved by the other's."""
    good = s3.destination(name="one", prefix="one/")
    bad = msgspec.structs.replace(good, name="two", access_key_id="AKIAOTHER")
    with open_store(good) as one, open_store(bad) as two:
        one.put_bytes("a", b"x")
        assert examine(bad)[0].steps[0].code == "destination-auth"
        with pytest.raises(Exception, match="two"):
            two.stat("a")
        assert one.stat("a") is not None
