"""`--from PLACE`: which destination a word stands for, and which words are refused, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.destinations import AzureDestination, DropboxDestination, GcsDestination
from nanumpay_backupd.settings.place import (
    AZURE_CONNECTION,
    AZURE_KEY,
    AZURE_SAS,
    DROPBOX_LOGIN,
    FTP_PASSWORD,
    SFTP_KEY_FILE,
    SFTP_PASSPHRASE,
    SFTP_PASSWORD,
    WEBDAV_PASSWORD,
    read_place,
)
from nanumpay_backupd.settings.schema import (
    Destination,
    FtpDestination,
    HostConfig,
    LocalDestination,
    S3Destination,
    SftpDestination,
    WebdavDestination,
)
from nanumpay_backupd.system.secrets import Secret, redact

PASSWORD: Final = "geheim+fuer%Tests"
ENVIRONMENT: Final = dict.fromkeys((FTP_PASSWORD, SFTP_PASSWORD, WEBDAV_PASSWORD, AZURE_SAS, *DROPBOX_LOGIN), PASSWORD)
OFFSITE: Final = S3Destination(name="offsite", bucket="host-file")
HOST: Final = HostConfig(destinations=(OFFSITE, LocalDestination(name="usb", path="/mnt/usb")))
FINGERPRINT: Final = "ab" * 32


def s3(**settings: Any) -> S3Destination:
    """Return a bucket as a word without more stands for it."""
    return S3Destination(**{"name": "s3://my-backups/", "bucket": "my-backups", "prefix": "", **settings})


def azure(**settings: Any) -> AzureDestination:
    """Return a container as a word stands for it, with the SAS that the environment has."""
    usual = {"name": "azure://acct/backups/x/", "account": "acct", "container": "backups", "prefix": "x/"}
    return AzureDestination(**{**usual, "sas_token": Secret(PASSWORD), **settings})


def dropbox(**settings: Any) -> DropboxDestination:
    """Return a folder of a Dropbox as a word stands for it."""
    usual = {"name": "dropbox:/a/b", "path": "/a/b", "app_key": PASSWORD}
    return DropboxDestination(
        **{**usual, "app_secret": Secret(PASSWORD), "refresh_token": Secret(PASSWORD), **settings}
    )


def ftp(**settings: Any) -> FtpDestination:
    """Return an FTP folder as a word without more stands for it."""
    usual = {"name": "ftp://backup@nas/files", "host": "nas", "username": "backup", "path": "/files"}
    return FtpDestination(**{**usual, "password": Secret(PASSWORD), **settings})


@pytest.mark.parametrize(
    "word,destination",
    [
        ("s3://my-backups", s3()),
        ("s3://my-backups/", s3()),
        ("S3://my-backups/a", s3(name="s3://my-backups/a/", prefix="a/")),
        ("s3://my-backups/a/b/", s3(name="s3://my-backups/a/b/", prefix="a/b/")),
        ("s3://my-backups/%ED%95%9C%EA%B8%80:x", s3(name="s3://my-backups/한글:x/", prefix="한글:x/")),
        (
            "s3://my-backups?endpoint_url=https://s3.example.com:9000/",
            s3(endpoint_url="https://s3.example.com:9000", path_style=True),
        ),
        (
            "s3://my-backups/?endpoint_url=http://127.0.0.1:1&path_style=false&region=eu-west-1",
            s3(endpoint_url="http://127.0.0.1:1", path_style=False, region="eu-west-1"),
        ),
        ("s3://my-backups?path_style=True&timeout=5s", s3(path_style=True, timeout=5.0)),
        ("s3://my-backups?ca_file=/etc/ca.pem", s3(ca_file="/etc/ca.pem")),
        (
            f"sftp://backup@nas/files?host_key=SHA256:{'a+/' * 14}b",
            SftpDestination(
                name="sftp://backup@nas/files",
                host="nas",
                username="backup",
                password=Secret(PASSWORD),
                path="/files",
                host_key=(f"SHA256:{'a+/' * 14}b",),
            ),
        ),
        (
            "sftp://backup@nas:2222/~/a/b?known_hosts=/etc/known",
            SftpDestination(
                name="sftp://backup@nas:2222/~/a/b",
                host="nas",
                port=2222,
                username="backup",
                password=Secret(PASSWORD),
                path="a/b",
                known_hosts="/etc/known",
            ),
        ),
        (
            "webdavs://backup@cloud/remote.php/a%20b/",
            WebdavDestination(
                name="webdavs://backup@cloud/remote.php/a%20b/",
                url="https://cloud:443/remote.php/a%20b",
                username="backup",
                password=Secret(PASSWORD),
                path="",
            ),
        ),
        (
            "webdav://[::1]:8080",
            WebdavDestination(name="webdav://[::1]:8080", url="http://[::1]:8080", path=""),
        ),
        ("gs://my-backups", GcsDestination(name="gs://my-backups/", bucket="my-backups", prefix="")),
        (
            "GS://my-backups/a/b?endpoint_url=https://gcs.example.com&timeout=5s",
            GcsDestination(
                name="gs://my-backups/a/b/",
                bucket="my-backups",
                prefix="a/b/",
                endpoint_url="https://gcs.example.com",
                timeout=5.0,
            ),
        ),
        ("azure://acct/backups", azure(name="azure://acct/backups/", prefix="")),
        ("azure://acct/backups/a%20b/", azure(name="azure://acct/backups/a b/", prefix="a b/")),
        ("azure://acct/backups/x?client_id=1-2", azure(client_id="1-2")),
        ("dropbox:", dropbox(name="dropbox:/", path="")),
        ("dropbox:/", dropbox(name="dropbox:/", path="")),
        ("dropbox:/a/b/", dropbox()),
        ("Dropbox:/a/b?endpoint_url=http://127.0.0.1:1", dropbox(endpoint_url="http://127.0.0.1:1")),
        ("ftp://backup@nas/files", ftp()),
        ("ftp://backup@nas:2121/files", ftp(name="ftp://backup@nas:2121/files", port=2121)),
        ("ftps://backup@nas/files", ftp(name="ftps://backup@nas/files", secure=True)),
        ("ftp://backup@nas", ftp(name="ftp://backup@nas", path="")),
        ("ftp://backup@nas/", ftp(name="ftp://backup@nas/", path="/")),
        ("ftp://nas/files", ftp(name="ftp://nas/files", username="", password=Secret(""))),
        ("ftp://a%40b.kr@nas/files", ftp(name="ftp://a%40b.kr@nas/files", username="a@b.kr")),
        ("ftp://a@b.kr@nas/files", ftp(name="ftp://a@b.kr@nas/files", username="a@b.kr")),
        ("ftp://backup@nas/f%20%40%23%3f", ftp(name="ftp://backup@nas/f%20%40%23%3f", path="/f @#?")),
        ("ftp://backup@[::1]:2121/files", ftp(name="ftp://backup@[::1]:2121/files", host="::1", port=2121)),
        (
            f"ftps://backup@nas/files?tls_fingerprint={FINGERPRINT}&timeout=7s&tls_verify=false",
            ftp(
                name="ftps://backup@nas/files",
                secure=True,
                tls_fingerprint=FINGERPRINT,
                timeout=7.0,
                tls_verify=False,
            ),
        ),
        ("offsite", OFFSITE),
        ("/", LocalDestination(name="/", path="/")),
        ("file:///", LocalDestination(name="/", path="/")),
        ("file://localhost/", LocalDestination(name="/", path="/")),
    ],
)
def test_what_a_word_stands_for(word: str, destination: Destination) -> None:
    """Each way of writing a place gives exactly these settings; secrets come from the environment."""
    assert read_place(word, HOST, ENVIRONMENT) == destination


@pytest.mark.parametrize(
    "environment,settings",
    [
        ({"AWS_ENDPOINT_URL": "http://one"}, {"endpoint_url": "http://one", "path_style": True}),
        ({"AWS_ENDPOINT_URL": "http://one", "AWS_ENDPOINT_URL_S3": "http://two"}, {"endpoint_url": "http://two"}),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, {"region": "eu-west-1"}),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "us-east-1"}, {"region": "us-east-1"}),
        ({"AWS_REGION": ""}, {}),
    ],
)
def test_what_the_environment_says_of_a_bucket(environment: dict[str, str], settings: dict[str, Any]) -> None:
    """The variables that AWS's own tools read are honoured, and what the word says goes before them."""
    path_style = bool(settings.get("endpoint_url"))
    assert read_place("s3://my-backups", HOST, environment) == s3(**{"path_style": path_style, **settings})
    word = "s3://my-backups?endpoint_url=http://word&region=word&path_style=false"
    assert read_place(word, HOST, environment) == s3(endpoint_url="http://word", region="word", path_style=False)


def test_the_keys_in_the_environment_are_masked_from_now_on() -> None:
    """The driver takes the keys from the environment by itself; that they are secrets is known nevertheless."""
    read_place("s3://my-backups", HOST, {"AWS_SECRET_ACCESS_KEY": "kein/Mensch+darf=es", "AWS_SESSION_TOKEN": "marke9"})
    assert redact("SignatureDoesNotMatch: kein/Mensch+darf=es, marke9") == "SignatureDoesNotMatch: ***, ***"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be written from the root, from here, with a colon in it, or as a URL."""
    folder = tmp_path / "a:b @c"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for word in (str(folder), "a:b @c", "./a:b @c", f"file://{tmp_path}/a:b%20%40c"):
        assert read_place(word, HOST, {}) == LocalDestination(name=str(folder), path=str(folder))


@pytest.mark.parametrize(
    "word,says",
    [
        ("", "is neither a folder nor a destination (offsite, usb in the host file)"),
        ("nowhere", "'nowhere' is neither a folder nor a destination (offsite, usb in the host file)"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("file://elsewhere/folder", "names more than a folder"),
        ("gopher://host/x", "gopher:// is no kind of place"),
        ("s3://", "has no bucket"),
        ("s3:///prefix", "has no bucket"),
        ("s3://x", 'the bucket\'s name is "x", but must be'),
        ("s3://my-backups/a#b", "has a # in it"),
        ("s3://my-backups/#", "has a # in it"),
        ("s3://my-backups?sse=AES256", "cannot be said there"),
        ("s3://my-backups?bucket=other", "cannot be said there"),
        ("s3://my-backups?path_style=perhaps", 'path_style is "perhaps", but must be true or false'),
        ("s3://my-backups?timeout=5", "timeout is "),
        ("s3://my-backups?endpoint_url=s3.example.com", "endpoint_url must be an address"),
        ("ftp://", "is not of the form user@host:port/path"),
        ("ftp://nas:99999/x", "is not of the form user@host:port/path"),
        ("ftp://nas:0/x", "is not of the form user@host:port/path"),
        ("ftp://nas/a@b", "is not of the form user@host:port/path"),
        ("ftp://[::1/x", "cannot be read"),
        ("ftp://nas/a%0d%0aDELE%20x", "a control character"),
        ("file:///a%00b", "a control character"),
    ],
)
def test_what_is_refused(word: str, says: str) -> None:
    """What makes no sense is refused with its reason and with what to write instead."""
    with pytest.raises(ConfigError) as caught:
        read_place(word, HOST, ENVIRONMENT)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_file_is_no_place(tmp_path: Path) -> None:
    """Whoever names the archive itself is told how to name it and its folder."""
    file = tmp_path / "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
    file.touch()
    with pytest.raises(ConfigError, match="is a file") as caught:
        read_place(str(file), HOST, {})
    assert f"restore {file.name} --from {tmp_path}" in caught.value.hint


def test_a_user_without_a_password() -> None:
    """It is said which variable is missing, before anybody is asked."""
    with pytest.raises(ConfigError, match="there is no password for backup at nas") as caught:
        read_place("ftp://backup@nas/files", HOST, {})
    assert FTP_PASSWORD in caught.value.hint


SECRET: Final = "hunter2"


@pytest.mark.parametrize(
    "word",
    [
        f"ftp://backup:{SECRET}@nas/files",
        f"ftps://backup:{SECRET}@nas:21",
        f"ftp://backup:{SECRET}",
        f"ftp://backup:21/{SECRET}@nas/files",
        f"ftp://backup:x/{SECRET}@nas/files",
        f"ftp://backup:x@{SECRET}/x@nas/files",
        f"ftp://backup:x?{SECRET}@nas/files",
        f"ftp://backup:x#{SECRET}@nas/files",
        f"ftp://backup:[{SECRET}@nas/files",
        f"ftp://backup@nas/files?password={SECRET}",
        f"ftp://backup@nas/files?{SECRET}=1",
        f"s3://AKIA:{SECRET}@my-backups/",
        f"s3://AKIA:x/{SECRET}@my-backups/",
        f"s3://AKIA:x%2F{SECRET}@my-backups/",
        f"s3://AKIA:{SECRET}",
        f"s3://{SECRET}@my-backups/x",
        f"s3://my-backups?secret_access_key={SECRET}",
        f"s3://my-backups?access_key_id={SECRET}",
        f"s3://my-backups?endpoint_url=https://key:{SECRET}@s3.example.com",
        f"sftp://backup:{SECRET}@nas/files",
        f"gs://key:{SECRET}@my-backups/x",
        f"gs://my-backups/x?service_account={SECRET}",
        f"azure://acct:{SECRET}@backups/x",
        f"azure://acct/backups/{SECRET}@x",
        f"azure://acct/backups?sas_token={SECRET}",
        f"azure://acct/backups?{SECRET}",
        f"azure://AccountKey={SECRET}/backups",
        f"azure://acct/{SECRET}=x/backups",
        f"dropbox://{SECRET}@x/y",
        f"dropbox:/x?refresh_token={SECRET}",
        f"mongodb://root:{SECRET}@db/admin",
        f"file://backup:{SECRET}@nas/files",
        f"backup:{SECRET}@nas:/files",
    ],
)
def test_a_password_in_the_word_is_refused_and_not_shown(word: str) -> None:
    """Wherever somebody may think that a password belongs, it is refused, and no text of ours repeats it."""
    with pytest.raises(ConfigError) as caught:
        read_place(word, HOST, ENVIRONMENT)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_a_key_of_sftp_comes_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    """Its text and its passphrase are in the settings; a file that others may read is refused."""
    key = tmp_path / "key"
    key.write_text("the text of a key\n")
    key.chmod(0o600)
    place = read_place("sftp://backup@nas/files", HOST, {SFTP_KEY_FILE: str(key), SFTP_PASSPHRASE: PASSWORD})
    assert isinstance(place, SftpDestination)
    assert (place.private_key, place.passphrase) == (Secret("the text of a key"), Secret(PASSWORD))
    key.chmod(0o644)
    with pytest.raises(ConfigError):
        read_place("sftp://backup@nas/files", HOST, {SFTP_KEY_FILE: str(key)})


@pytest.mark.parametrize("word", ["sftp://nas/files", "sftp://backup@nas/files", "webdavs://backup@cloud/x"])
def test_a_login_that_is_missing_is_told(word: str) -> None:
    """Without a user or a secret the place is refused, and the variables are named."""
    with pytest.raises(ConfigError) as caught:
        read_place(word, HOST, {})
    assert "NANUMPAY_" in caught.value.hint


def test_the_login_for_azure_is_one() -> None:
    """Of several that the environment has the first counts; one of another account is refused, and so is no name."""
    key, string = (
        "a2V5",
        "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5;EndpointSuffix=core.windows.net",
    )
    by_key = read_place("azure://acct/backups/x", HOST, {AZURE_KEY: key})
    assert by_key == azure(sas_token=Secret(""), account_key=Secret(key))
    everything = {AZURE_KEY: key, AZURE_SAS: "sv=1", AZURE_CONNECTION: string}
    both = read_place("azure://acct/backups/x", HOST, everything)
    assert both == azure(sas_token=Secret(""), connection_string=Secret(string))
    assert read_place("azure://acct/backups/x", HOST, {}) == azure(sas_token=Secret(""))
    for word in ("azure://other/backups", "azure://acct/backups?endpoint_url=https://x.example.com"):
        with pytest.raises(ConfigError):
            read_place(word, HOST, everything)


@pytest.mark.parametrize(
    "word", ["azure://acct", "azure://acct/", "azure:///backups", "gs://", "dropbox://a/b", "gs://a_*"]
)
def test_a_cloud_that_is_half_named_is_told(word: str) -> None:
    """What lacks a part, or has one too many, is refused."""
    with pytest.raises(ConfigError):
        read_place(word, HOST, ENVIRONMENT)


def test_a_dropbox_takes_a_login() -> None:
    """Without the app's key or the token the variables are named; the app's secret is not needed."""
    with pytest.raises(ConfigError) as caught:
        read_place("dropbox:/a/b", HOST, {DROPBOX_LOGIN[0]: "key"})
    assert "DROPBOX_REFRESH_TOKEN" in caught.value.hint
    login = {DROPBOX_LOGIN[0]: "key", DROPBOX_LOGIN[2]: "token"}
    expected = dropbox(app_key="key", app_secret=Secret(""), refresh_token=Secret("token"))
    assert read_place("dropbox:/a/b", HOST, login) == expected


@given(st.text(max_size=60) | st.text(":/@?#[]%&=.s3ftpile-", max_size=40).map("ftp://{}".format) | st.text(max_size=9))
def test_nonsense_is_a_mistake_and_no_crash(word: str) -> None:
    """Whatever is typed either stands for a place or is refused."""
    try:
        read_place(word, HOST, ENVIRONMENT)
    except ConfigError:
        return
