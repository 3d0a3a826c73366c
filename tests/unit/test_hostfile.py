"""The host file: every key is read, everything else is refused with path, reason and fix; the docs tell the truth."""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings import hostfile
from nanumpay_backupd.settings.destination_tables import EXAMPLE_NAMES
from nanumpay_backupd.settings.hostfile import load_host_file, parse_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.mongouri import has_password, uri_database, uri_place
from nanumpay_backupd.settings.options import (
    CHANNEL,
    DESTINATIONS,
    GROUP,
    JOB,
    JOB_ENCRYPTION,
    MONITOR,
    PLACE_MONITOR,
    RETENTION,
    SINGLE,
    TOP,
)
from nanumpay_backupd.settings.reference import example_toml, reference_markdown
from nanumpay_backupd.settings.schema import (
    Channel,
    FtpDestination,
    HealthLimits,
    HostConfig,
    HostJob,
    LocalDestination,
    MongoConnection,
    MongoSource,
    NotifyOptions,
    Retention,
    RetryPolicy,
    S3Destination,
    Tools,
    to_public,
)
from nanumpay_backupd.settings.source_tables import SOURCES
from nanumpay_backupd.settings.sources import SqliteSource
from nanumpay_backupd.system.secrets import Secret

ROOT = Path(__file__).parents[2]


def parse(text: str, **environ: str) -> HostConfig:
    """Read a host file's text with nothing in the environment but what is given."""
    return parse_host_file(text, "host.toml", environ=environ)


def refusal(text: str, **environ: str) -> ConfigError:
    """Return the error with which a text is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    return caught.value


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    """Return the path of a host file that only its owner can read."""
    path = tmp_path / "backupd.toml"
    path.touch(mode=0o600)
    return path


def test_an_empty_file_means_all_defaults() -> None:
    """Without any key everything is as documented."""
    config = parse("")
    assert config == HostConfig(origin="host.toml")
    assert config.mongodb.uri.reveal() == "mongodb://localhost:27017/nanumpay"
    assert config.mongodb.database == "nanumpay"
    assert config.paths.backups == Path("/opt/nanumpay/data/backups")


def test_every_key_is_read(tmp_path: Path) -> None:
    """All scalar tables arrive in the fields that they mean."""
    config = parse(
        """
        timezone = "Asia/Seoul"
        [mongodb]
        uri = "mongodb://db1:27017,db2:27017/pay?replicaSet=rs0"
        database = "other"
        poll_interval = "10s"
        connect_timeout = "1m30s"
        [paths]
        backups = "/srv/b/"
        state = "/srv/s"
        socket = "/srv/c.sock"
        [tools]
        mongodump = "/usr/local/bin/mongodump"
        [control]
        group = "adm"
        admin_group = "sudo"
        [log]
        level = "debug"
        [retry]
        attempts = 5
        delay = "2m"
        [nanumpay]
        enabled = false
        destinations = []
        catch_up = "0s"
        compression_level = 9
        [nanumpay.s3]
        endpoint_url = "https://s3.example.com:9000/"
        path_style = true
        sse = "aws:kms"
        sse_kms_key_id = "alias/x"
        storage_class = "STANDARD_IA"
        ca_file = "/ca.pem"
        [nanumpay.ftp]
        tls_verify = false
        ca_file = "/ca2.pem"
        tls_fingerprint = "{}"
        timeout = "5s"
        """.format(":".join(["AB"] * 32))
    )
    assert config.timezone == "Asia/Seoul"
    assert config.mongodb == MongoConnection(
        uri=Secret("mongodb://db1:27017,db2:27017/pay?replicaSet=rs0"),
        database="other",
        poll_interval=10.0,
        connect_timeout=90.0,
    )
    assert config.paths.backups == Path("/srv/b")
    assert (config.paths.state, config.paths.socket) == (Path("/srv/s"), Path("/srv/c.sock"))
    assert config.tools.mongodump == "/usr/local/bin/mongodump"
    assert (config.control.group, config.control.admin_group) == ("adm", "sudo")
    assert config.log.level == "debug"
    assert config.retry == RetryPolicy(attempts=5, delay=120.0)
    job = config.nanumpay
    assert (job.enabled, job.destinations, job.catch_up, job.compression_level) == (False, (), 0.0, 9)
    assert (job.s3.endpoint_url, job.s3.path_style, job.s3.sse) == ("https://s3.example.com:9000", True, "aws:kms")
    assert (job.s3.sse_kms_key_id, job.s3.storage_class, job.s3.ca_file) == ("alias/x", "STANDARD_IA", "/ca.pem")
    assert (job.ftp.tls_verify, job.ftp.ca_file, job.ftp.timeout) == (False, "/ca2.pem", 5.0)
    assert job.ftp.tls_fingerprint == "ab" * 32


def test_destinations_and_jobs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each type of destination and a further job arrive complete, defaults filled in."""
    monkeypatch.setenv("S3_SECRET", "from-environment\n")
    config = parse(
        """
        [nanumpay]
        destinations = ["usb"]
        [destination.offsite]
        type = "s3"
        bucket = "b-1"
        access_key_id = "AKIA"
        secret_access_key = { env = "S3_SECRET" }
        part_size = "32MiB"
        parallel_parts = 5
        [destination.old]
        type = "ftp"
        host = "ftp.example.com"
        password = "plain-password"
        secure = true
        [destination.usb]
        type = "local"
        path = "/mnt/usb/"
        require_mount = true
        [[job]]
        name = "shop"
        uri = "mongodb://shop-db/shop"
        schedule = ["0 3 * * *", "0  15 * * 1-5"]
        destinations = ["offsite", "usb"]
        retention = { count = 3 }
        compress = false
        compression_level = 0
        enabled = false
        catch_up = "1h"
        [[job]]
        name = "everything"
        database = "*"
        schedule = "@daily"
        """.replace('schedule = "@daily"', 'schedule = "0 0 * * sun"')
    )
    offsite, old, usb = config.destinations
    assert offsite == S3Destination(
        name="offsite",
        bucket="b-1",
        access_key_id="AKIA",
        secret_access_key=Secret("from-environment"),
        part_size=32 << 20,
        parallel_parts=5,
    )
    assert old == FtpDestination(name="old", host="ftp.example.com", password=Secret("plain-password"), secure=True)
    assert usb == LocalDestination(name="usb", path="/mnt/usb", require_mount=True)
    assert config.nanumpay.destinations == ("usb",)
    shop, everything = config.jobs
    assert shop == HostJob(
        name="shop",
        source=MongoSource(uri=Secret("mongodb://shop-db/shop"), database="shop"),
        schedule=("0 3 * * *", "0 15 * * 1-5"),
        destinations=("offsite", "usb"),
        retention=Retention(count=3),
        compress=False,
        compression_level=0,
        enabled=False,
        catch_up=3600.0,
    )
    assert everything.source == MongoSource(uri=config.mongodb.uri, database="")


def test_what_counts_as_well_is_inherited_key_by_key() -> None:
    """Of a job at a place, the most special table that says a key counts: place, job, all; else the default."""
    config = parse(
        """
        [monitor]
        at = "never"
        max_age = "30h"
        disk_days = 20
        [nanumpay]
        destinations = ["usb"]
        [nanumpay.monitor]
        max_age = "0s"
        shrink_factor = 0
        grow_factor = 2.5
        [[job]]
        name = "shop"
        monitor = { max_total_size = "5GB" }
        [destination.usb]
        type = "local"
        path = "/mnt/usb"
        [destination.usb.monitor]
        max_age = "9d"
        expires = 2027-01-31
        [destination.local.monitor]
        expiry_days = 30
        [destination.app.retention]
        count = 3
        [destination.app.monitor]
        expires = "2028-02-29"
        """
    )
    assert config.monitor.at == ()
    own, shop = build_jobs(config, None)
    assert own.health == HealthLimits(max_age=0.0, disk_days=20, shrink_factor=0.0, grow_factor=2.5)
    assert own.health_at("usb") == msgspec.structs.replace(own.health, max_age=9 * 86400.0, expires=date(2027, 1, 31))
    assert own.health_at("local") == msgspec.structs.replace(own.health, expiry_days=30)
    assert own.health_at("elsewhere") == own.health
    assert shop.health == HealthLimits(max_age=108_000.0, disk_days=20, max_total_size=5_000_000_000)
    assert config.monitors["app"].expires == date(2028, 2, 29)
    assert build_jobs(parse(""), None)[0].health == HealthLimits()


def test_how_people_are_told_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels, their rules and the heartbeats of jobs arrive; an address is a secret like any other."""
    monkeypatch.setenv("SLACK", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    config = parse(
        """
        [notify]
        language = "ko"
        remind = "12h"
        quiet = "9:00 - 07:30"
        max_per_hour = 5
        report = "never"
        database = true
        [channel.team]
        address = { env = "SLACK" }
        severity = "none"
        events = ["failed", "report"]
        jobs = ["nanumpay", "shop"]
        [channel.ops-mail]
        address = "mailtos://ops:pw-of-ops@mail.example.com?to=a@example.com"
        language = "en"
        timeout = "30s"
        [nanumpay]
        heartbeat = "https://hc.example.com/4f6f"
        [[job]]
        name = "shop"
        heartbeat = "http://10.0.0.1:8000/ping/77"
        """
    )
    options = NotifyOptions(language="ko", remind=43200.0, quiet="09:00-07:30", max_per_hour=5, report=())
    assert config.notify == msgspec.structs.replace(options, database=True)
    team, mail = config.channels
    assert team == Channel(
        name="team",
        address=Secret("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"),
        severity="none",
        events=("failed", "report"),
        jobs=("nanumpay", "shop"),
    )
    assert (mail.severity, mail.events, mail.jobs, mail.language, mail.timeout) == ("warning", (), (), "en", 30.0)
    assert config.nanumpay.heartbeat.reveal() == "https://hc.example.com/4f6f"
    assert config.jobs[0].heartbeat.reveal() == "http://10.0.0.1:8000/ping/77"
    assert not any(word in repr(config) for word in ("TIiajk", "pw-of-ops", "4f6f", "ping/77"))


@pytest.mark.parametrize(
    "text,path,reason,fix",
    [
        ('[mongodb]\nur = "x"', "mongodb.ur", "is not a known key", "did you mean mongodb.uri?"),
        ('[mongodb]\npoll_intervall = "5s"', "mongodb.poll_intervall", "not a known key", "mongodb.poll_interval?"),
        ("[mongodb]\nxyz = 1", "mongodb.xyz", "not a known key", "known keys here: connect_timeout, database"),
        ("attempts = 3", "attempts", "not a known key", "attempts belongs under [retry]"),
        ('[mongodb]\ntimezone = "UTC"', "mongodb.timezone", "not a known key", "before the first [table]"),
        ('[mongo]\nuri = "x"', "mongo", "is not a table", "did you mean [mongodb]?"),
        ('[[jobs]]\nname = "x"', "jobs", "is not a table", "did you mean [job]?"),
        ("[nanumpay.ftps]\nx = 1", "nanumpay.ftps", "not a known key", ""),
        ('mongodb = "x"', "mongodb", "must be a table", "[mongodb]"),
        ("[nanumpay]\ns3 = 1", "nanumpay.s3", "must be a table", "[nanumpay.s3]"),
        ("timezone = [1]", "timezone", "is a list", ""),
        ('timezone = "Asia/Soul"', "timezone", "not the name of a time zone", "timedatectl"),
        ('timezone = "../../etc/passwd"', "timezone", "not the name of a time zone", ""),
        ("[mongodb]\npoll_interval = 5", "mongodb.poll_interval", "is 5, but must be a duration", '"60s"'),
        ('[mongodb]\npoll_interval = "5"', "mongodb.poll_interval", 'is "5"', '"60s"'),
        ('[mongodb]\npoll_interval = "0s"', "mongodb.poll_interval", 'from "1s" to "1h"', ""),
        ('[mongodb]\nuri = "localhost"', "mongodb.uri", "is not usable", "mongodb://localhost"),
        ("[mongodb]\nuri = 5", "mongodb.uri", "is of type int", ""),
        ('[mongodb]\ndatabase = "a/b"', "mongodb.database", 'is "a/b"', ""),
        ('[paths]\nbackups = "backups"', "paths.backups", "absolute path", ""),
        ('[paths]\nstate = "/a/../b"', "paths.state", "absolute path", ""),
        ('[log]\nlevel = "verbose"', "log.level", 'must be "debug", "info", "warning" or "error"', ""),
        ("[retry]\nattempts = 0", "retry.attempts", "from 1 to 100", ""),
        ("[retry]\nattempts = 3.0", "retry.attempts", "is 3.0", ""),
        ("[retry]\nattempts = true", "retry.attempts", "is true", ""),
        ("[nanumpay]\nenabled = 1", "nanumpay.enabled", "true or false", ""),
        ("[nanumpay]\ncompression_level = 10", "nanumpay.compression_level", "from 0 to 9", ""),
        ('[nanumpay]\ndestinations = "usb"', "nanumpay.destinations", "a list of names", ""),
        ('[nanumpay]\ndestinations = ["a", "a"]', "nanumpay.destinations", "twice", ""),
        ('[nanumpay]\ndestinations = ["usb"]', "nanumpay.destinations", "there is no [destination.usb]", "add a table"),
        ('[nanumpay.s3]\nendpoint_url = "s3.example.com"', "nanumpay.s3.endpoint_url", "https://", ""),
        ('[nanumpay.s3]\nsse_kms_key_id = "x"', "nanumpay.s3.sse_kms_key_id", "without its mode", 'sse = "aws:kms"'),
        ('[nanumpay.ftp]\ntls_fingerprint = "ab"', "nanumpay.ftp.tls_fingerprint", "64 hexadecimal", ""),
        ('[destination.x]\nbucket = "b"', "destination.x.type", "is missing", '"s3", "ftp", "local"'),
        ('[destination.x]\ntype = "tape"', "destination.x.type", 'is "tape"', ""),
        ('[destination.x]\ntype = "s3"', "destination.x.bucket", "is missing", 'bucket = "my-backups"'),
        ('[destination.x]\ntype = "ftp"', "destination.x.host", "is missing", "host = "),
        ('[destination.x]\ntype = "local"', "destination.x.path", "is missing", "path = "),
        ('[destination.x]\ntype = "local"\npath = "/a"\nhost = "h"', "destination.x.host", "not a known key", ""),
        ('[destination.Up]\ntype = "local"\npath = "/a"', "destination.Up", "lower-case", ""),
        ('[destination.app]\ntype = "local"\npath = "/a"', "destination.app", "uses itself", "another name"),
        ('[destination.local]\ntype = "local"\npath = "/a"', "destination.local", "uses itself", ""),
        (
            '[destination.x]\ntype = "local"\npath = "/opt/nanumpay/data/backups/x"',
            "destination.x.path",
            "in the backups folder itself",
            "another disk",
        ),
        ('[destination.x]\ntype = "s3"\nbucket = "b1"\npart_size = "1MiB"', "destination.x.part_size", "5MiB", ""),
        ("[destination]\nx = 1", "destination.x", "must be a table", ""),
        ("destination = 1", "destination", "must be a table", ""),
        ('[job]\nname = "x"', "job", "must be a list of tables", "[[job]]"),
        ("[[job]]\n", "job[1].name", "is missing", "name = "),
        ('[[job]]\nname = "nanumpay"', "job.nanumpay.name", "application's own", ""),
        ('[[job]]\nname = "a"\n[[job]]\nname = "a"', "job.a.name", "used twice", ""),
        ('[[job]]\nname = "Über"', "job.Über.name", "lower-case", ""),
        ('[[job]]\nname = "a"\nschedule = "61 * * * *"', "job.a.schedule", "cron expression", '"0 3 * * *"'),
        ('[[job]]\nname = "a"\nschedule = "* * * * * *"', "job.a.schedule", "five fields", ""),
        ('[[job]]\nname = "a"\nschedule = "R 3 * * *"', "job.a.schedule", "cron expression", ""),
        ('[[job]]\nname = "a"\nschedule = "0 0 30 2 *"', "job.a.schedule", "never due", ""),
        ('[[job]]\nname = "a"\nschedule = []', "job.a.schedule", "cron expression", ""),
        ('[[job]]\nname = "a"\nretention = 5', "job.a.retention", "must be a table", ""),
        ('[[job]]\nname = "a"\nretention = { weeks = 5 }', "job.a.retention.weeks", "not a known key", ""),
        ('[[job]]\nname = "a"\nretention = { count = 0 }', "job.a.retention.count", "from 1 to 365", ""),
        ("[nanumpay.retention]\nweeks = 5", "nanumpay.retention.weeks", "not a known key", ""),
        ("[nanumpay]\nretention = 5", "nanumpay.retention", "must be a table", ""),
        ("[nanumpay.retention]\nkeep_all_for_days = 0", "nanumpay.retention.keep_all_for_days", "from 1 to 3650", ""),
        ('[nanumpay.retention]\nmax_total_size = "50"', "nanumpay.retention.max_total_size", "with a unit", '"16MiB"'),
        (
            "[nanumpay.retention]\ndays = 30\nkeep_all_for_days = 7",
            "nanumpay.retention.days",
            "contradicts keep_all_for_days",
            "keep count and days, or the keep_… keys",
        ),
        (
            '[[job]]\nname = "a"\nretention = { keep_daily_for_days = 9 }',
            "job.a.retention.keep_all_for_days",
            "is missing: keep_daily_for_days begins where that window ends",
            "add for example: keep_all_for_days = 7",
        ),
        (
            "[destination.local.retention]\ncount = 2\nmin_keep = 3",
            "destination.local.retention.min_keep",
            "is 3, but count keeps only 2",
            "min_keep = 2 or less",
        ),
        ('[nanumpay]\ndestinations = ["local"]\n[destination.local.retention]\ncount = 2',
         "nanumpay.destinations", "there is no [destination.local]", ""),
        ("[destination.usb.retention]\ncount = 2", "destination.usb.type", "is missing", ""),
        ("[monitor]\nshrink_factor = 1.5", "monitor.shrink_factor", "0, or a number from 0.01 to 1", ""),
        ("[monitor]\ngrow_factor = true", "monitor.grow_factor", "0, or a number from 1 to 1000", ""),
        ("[nanumpay.monitor]\nexpires = 2027-01-31", "nanumpay.monitor.expires", "not a known key", ""),
        ("[destination.app.monitor]\nshrink_factor = 0.5", "destination.app.monitor.shrink_factor", "not a known", ""),
        ("[destination.app.monitor]\nexpires = 2027-01-31T10:00:00", "destination.app.monitor.expires", "a day", ""),
        ('[destination.app.monitor]\nexpires = "31.1.2027"', "destination.app.monitor.expires", "YYYY-MM-DD", ""),
        ("[destination.usb.monitor]\ndisk_days = 2", "destination.usb.type", "is missing", ""),
        ('[[job]]\nname = "a"\ndestinations = ["usbb"]\n[destination.usb]\ntype="local"\npath="/a"',
         "job.a.destinations", "no [destination.usbb]", "did you mean usb?"),
        ('[notify]\nlanguage = "kr"', "notify.language", 'must be "en" or "ko"', ""),
        ('[notify]\nquiet = "22:00"', "notify.quiet", "HH:MM-HH:MM", "22:00-07:00"),
        ('[notify]\nquiet = "22:00-22:00"', "notify.quiet", "HH:MM-HH:MM", ""),
        ('[notify]\nquiet = "22:00-25:00"', "notify.quiet", "HH:MM-HH:MM", ""),
        ("[notify]\nmax_per_hour = 0", "notify.max_per_hour", "from 1 to 1000", ""),
        ("[channel.x]\n", "channel.x.address", "is missing", "address = "),
        ("[channel.x]\naddress = 5", "channel.x.address", "is of type int", ""),
        ('[channel.x]\naddress = "ops@example.com"', "channel.x.address", "apprise address", "slack://"),
        ('[channel.x]\naddress = "slack:// a"', "channel.x.address", "apprise address", ""),
        ('[channel.x]\naddress = "a://b"\nevents = ["fail"]', "channel.x.events", 'names "fail"', "mean failed?"),
        ('[channel.x]\naddress = "a://b"\nevents = ["test"]', "channel.x.events", 'names "test"', ""),
        ('[channel.x]\naddress = "a://b"\nseverity = "none"', "channel.x", "is told nothing", "name the events"),
        ('[channel.x]\naddress = "a://b"\njobs = ["nanumpa"]', "channel.x.jobs", "no such job", "mean nanumpay?"),
        ('[channel.database]\naddress = "a://b"', "channel.database", "uses itself", "another name"),
        ('[channel.Ops]\naddress = "a://b"', "channel.Ops", "lower-case", ""),
        ("[channel]\nx = 1", "channel.x", "must be a table", ""),
        ("channel = 1", "channel", "must be a table", "[channel.NAME]"),
        ('[nanumpay]\nheartbeat = "ftp://h/x"', "nanumpay.heartbeat", "https:// or http://", ""),
        ('[mongodb]\nuri = { env = "NOT_SET_HERE" }', "mongodb.uri", "NOT_SET_HERE is not set", ""),
        ("[mongodb]\nuri = { env = 5 }", "mongodb.uri", "not a text", ""),
        ('[mongodb]\nuri = { vault = "x" }', "mongodb.uri", "exactly one of credential, env or file", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text: str, path: str, reason: str, fix: str) -> None:
    """One mistake gives one problem: the file, the key's path, the reason and the fix."""
    error = refusal(text)
    assert error.code == "config-invalid"
    assert re.match(rf"host\.toml: {re.escape(path)}[: ]", error.message)
    assert reason in error.message
    assert "more:" not in error.message
    assert error.hint
    assert fix in error.hint


def test_all_problems_are_told_together() -> None:
    """A file with several mistakes is mended in one go, not in as many reloads."""
    error = refusal("[retry]\nattempts = 0\ndelay = 1\n[log]\nlevel = 'x'\n[foo]")
    assert "; and 3 more: " in error.message
    assert all(path in error.message for path in ("retry.attempts", "retry.delay", "log.level", "foo"))


@pytest.mark.parametrize(
    "text,line", [("[mongodb\n", 1), ('\n\nuri = "x', 3), ("a = 1\na = 2\n", 2), ("x = \n", 1), ('[a]\nx = """\n', 3)]
)
def test_bad_toml_is_refused_by_file_and_line(text: str, line: int) -> None:
    """The message begins with file:line, as an editor wants it."""
    assert re.match(rf"host\.toml:{line}: not valid TOML: ", refusal(text).message)


def test_a_missing_default_file_means_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a host file runs with the defaults."""
    monkeypatch.setattr(hostfile, "DEFAULT_HOST_FILE", tmp_path / "none.toml")
    assert load_host_file(environ={}) == HostConfig()


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    """A file that somebody named must be there."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_host_file(tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    "content,reason",
    [(b"\xff\xfe", ":1: not UTF-8"), (b"a = 1\n# \xe9\n", ":2: not UTF-8"), (b"#" * (1 << 20) + b"##", "larger")],
)
def test_files_that_are_no_host_files_are_refused(host_file: Path, content: bytes, reason: str) -> None:
    """Binary and huge files are refused in a sentence."""
    host_file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load_host_file(host_file, environ={})


def test_a_folder_is_no_host_file(tmp_path: Path) -> None:
    """What cannot be read is refused in a sentence."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_host_file(tmp_path, environ={})


def test_a_file_that_anybody_can_change_is_refused(host_file: Path) -> None:
    """Whoever writes the host file commands the daemon, so that is not left to everybody."""
    host_file.chmod(0o602)
    with pytest.raises(ConfigError, match="can be changed by every user") as caught:
        load_host_file(host_file, environ={})
    assert str(host_file) in caught.value.hint


@pytest.mark.parametrize(
    "text,allowed",
    [
        ('[mongodb]\nuri = "mongodb://localhost/nanumpay"', True),
        ('[mongodb]\nuri = "mongodb://user@localhost/nanumpay"', True),
        ('[mongodb]\nuri = "mongodb://user:secret-pw@localhost/nanumpay"', False),
        ('[destination.x]\ntype = "ftp"\nhost = "h"\npassword = "secret-pw"', False),
        ('[destination.x]\ntype = "s3"\nbucket = "b1"\nsecret_access_key = "secret-pw"', False),
        ('[channel.x]\naddress = "discord://webhook/secret-pw"', False),
        ('[nanumpay]\nheartbeat = "https://hc.example.com/secret-pw"', False),
    ],
)
def test_plain_secrets_need_a_private_file(host_file: Path, text: str, allowed: bool) -> None:
    """A plain secret is accepted while ordinary users cannot read the file, refused otherwise, and not shown."""
    host_file.write_text(text)
    load_host_file(host_file, environ={})
    host_file.chmod(0o644)
    if allowed:
        load_host_file(host_file, environ={})
        return
    with pytest.raises(ConfigError, match="every user of this host can read") as caught:
        load_host_file(host_file, environ={})
    assert "secret-pw" not in caught.value.message + caught.value.hint


def test_secrets_by_reference_are_fine_in_a_readable_file(
    host_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credential, environment and private file work although everybody can read the host file."""
    (tmp_path / "uri").write_text("mongodb://u:p%40ss@h/db1\n")
    (tmp_path / "pw").touch(mode=0o600)
    (tmp_path / "pw").write_text("from-file\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KEY", "from-environment")
    host_file.write_text(
        f"""
        [mongodb]
        uri = {{ credential = "uri" }}
        [destination.a]
        type = "ftp"
        host = "h"
        password = {{ file = "{tmp_path}/pw" }}
        [destination.b]
        type = "s3"
        bucket = "b1"
        secret_access_key = {{ env = "KEY" }}
        """
    )
    host_file.chmod(0o644)
    config = load_host_file(host_file, environ={})
    assert config.mongodb.uri.reveal() == "mongodb://u:p%40ss@h/db1"
    assert config.mongodb.database == "db1"
    ftp, s3 = config.destinations
    assert isinstance(ftp, FtpDestination)
    assert ftp.password.reveal() == "from-file"
    assert isinstance(s3, S3Destination)
    assert s3.secret_access_key.reveal() == "from-environment"
    assert not any(word in repr(config) for word in ("p%40ss", "from-file", "from-environment"))


def test_a_world_readable_secret_file_is_refused(host_file: Path, tmp_path: Path) -> None:
    """The file behind a reference must be private; the message names the key and the command that mends it."""
    secret = tmp_path / "pw"
    secret.write_text("from-file\n")
    secret.chmod(0o644)
    host_file.write_text(f'[mongodb]\nuri = {{ file = "{secret}" }}')
    with pytest.raises(ConfigError, match=r"mongodb.uri: .* can be read or written by every user") as caught:
        load_host_file(host_file, environ={})
    assert caught.value.hint == f"run: chmod o-rwx {secret}"


def test_the_environment_is_honoured_and_the_file_wins() -> None:
    """MONGODB_URI and BACKUP_PATH count where the file does not set the key."""
    environ = {"MONGODB_URI": "mongodb://env-host/envdb", "BACKUP_PATH": "/env/backups"}
    config = parse("", **environ)
    assert (config.mongodb.uri.reveal(), config.mongodb.database) == ("mongodb://env-host/envdb", "envdb")
    assert config.paths.backups == Path("/env/backups")
    config = parse('[mongodb]\nuri = "mongodb://file-host/filedb"\n[paths]\nbackups = "/file"', **environ)
    assert (config.mongodb.uri.reveal(), config.mongodb.database) == ("mongodb://file-host/filedb", "filedb")
    assert config.paths.backups == Path("/file")
    assert parse("", MONGODB_URI="", BACKUP_PATH="") == HostConfig(origin="host.toml")


@pytest.mark.parametrize("name,value", [("MONGODB_URI", "localhost:27017"), ("BACKUP_PATH", "backups")])
def test_a_bad_environment_is_refused(name: str, value: str) -> None:
    """A variable that cannot be used is named."""
    assert f"environment variable {name} " in refusal("", **{name: value}).message


@pytest.mark.parametrize(
    "uri,database,place,password",
    [
        ("mongodb://localhost", "", "localhost/x", False),
        ("mongodb://localhost/", "", "localhost/x", False),
        ("mongodb://h1:1,h2:2/db?replicaSet=rs0", "db", "h1:1,h2:2/x", False),
        ("mongodb://u:p%2F%3A@h/db", "db", "h/x", True),
        ("mongodb+srv://u:p@cluster.example.com/?w=majority", "", "cluster.example.com/x", True),
        ("mongodb://u@h/db%C3%A4", "db\u00e4", "h/x", False),
        ("mongodb://[::1]:27017/db", "db", "[::1]:27017/x", False),
        ("mongodb://h/db?authMechanismProperties=x&tlsCertificateKeyFilePassword=y", "db", "h/x", True),
    ],
)
def test_connection_strings(uri: str, database: str, place: str, password: bool) -> None:
    """Database, place without secrets, and whether there is a password are read off a connection string."""
    assert (uri_database(uri), uri_place(uri, "x"), has_password(uri)) == (database, place, password)


@pytest.mark.parametrize(
    "uri", ["", "http://h/db", "mongodb://", "mongodb:///db", "mongodb://u:pa/ss@h/db", "mongodb://h/a b"]
)
def test_bad_connection_strings_are_refused_without_showing_them(uri: str) -> None:
    """Whatever is wrong with it, a connection string may hold a password."""
    error = refusal(f'[mongodb]\nuri = "{uri}"')
    assert "mongodb.uri is not usable" in error.message
    assert "pa/ss" not in error.message + error.hint


def test_the_tables_describe_every_field() -> None:
    """No field of a record lacks its key in the host file, and each key fills a field of its table's record."""
    named_elsewhere = {
        "origin",
        "name",
        "retention",
        "retentions",
        "monitors",
        "destinations",
        "jobs",
        "s3",
        "ftp",
        "channels",
        "groups",
    }
    named_elsewhere |= {table.path for table in SINGLE}
    for table in (
        TOP,
        *SINGLE,
        *DESTINATIONS.values(),
        CHANNEL,
        JOB,
        RETENTION,
        MONITOR,
        PLACE_MONITOR,
        JOB_ENCRYPTION,
        GROUP,
    ):
        fields = {field.name for field in msgspec.structs.fields(table.record)}
        keys = {option.target for option in table.options}
        assert keys <= fields, table.path
        assert fields - keys <= named_elsewhere, table.path
    common = {option.key for option in JOB.options} | {option.target for option in JOB.options}
    from_tools = {*Tools.__struct_fields__, "parallel_collections"}
    for kind, table in SOURCES.items():
        fields = {field.name for field in msgspec.structs.fields(table.record)}
        keys = {option.target for option in table.options}
        assert keys <= fields, kind
        assert fields - keys <= from_tools, kind
        assert not common & (keys | {option.key for option in table.options}), kind


def test_the_reference_is_up_to_date() -> None:
    """docs/configuration.md is what the tables say (else run python -m nanumpay_backupd.settings.reference docs)."""
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == reference_markdown()


def test_the_example_is_up_to_date_and_changes_nothing() -> None:
    """docs/backupd.toml.example is what the tables say, and as it is it means all defaults."""
    text = (ROOT / "docs/backupd.toml.example").read_text(encoding="utf-8")
    assert text == example_toml()
    assert parse(text) == parse("")


def test_every_line_of_the_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its comment signs taken away the example is accepted as it stands, secrets provided."""
    secrets = {"s3-secret": "secret-value", "shop-uri": "mongodb://h/shop", "pbm-uri": "mongodb://h/"}
    secrets |= {"heartbeat": "https://hc.example.com/1", "ops-mail": "mailto://ops:pw@example.com"}
    secrets |= {"old-passphrase": "that of last year", "shop-db": "secret-value"}
    secrets |= dict.fromkeys(("azure-sas", "dropbox-app", "dropbox-token"), "secret-value")
    secrets |= {"n8n-key": "secret-value", "n8n-encryption-key": "secret-value"}
    secrets |= dict.fromkeys(("nas-key", "nas-passphrase", "nas-password", "webdav-password"), "secret-value")
    secrets |= dict.fromkeys(("restic-password", "rest-password", "b2-key"), "secret-value")
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    password = tmp_path / "ftp-password"
    password.touch(mode=0o600)
    password.write_text("secret-value")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = re.sub(r"(?m)^#(?=[^ ])", "", example_toml())
    # aws:kms instead of the example's AES256: the two keys exclude each other, as passphrase and recipients do.
    text = text.replace('"AES256"', '"aws:kms"').replace("/etc/nanumpay/ftp-password", str(password))
    # A host's keys are pinned or stand in a file.
    text = re.sub(r"(?m)^known_hosts = .*$", "", text)
    # A server is reached by its host or its socket, and password hashes are of accounts that are saved.
    text = re.sub(r'(?m)^(?:socket = ".run.mysqld|accounts = false).*$', "", text)
    text = re.sub(r"(?m)^passphrase = .*$", "", text).replace("/etc/nanumpay/backup-key.sec", str(password))
    # One login only.
    text = re.sub(r"(?m)^(?:connection_string|account_key|client_id) = .*$", "", text)
    text = text.replace("/etc/nanumpay/gcs-key.json", str(password))
    config = parse(text)
    assert [job.name for job in config.jobs] == ["shop", *list(SOURCES)[1:]]
    assert [destination.name for destination in config.destinations] == list(EXAMPLE_NAMES.values())
    keys: list[Any] = re.findall(r"(?m)^#([a-z_0-9]+) = ", example_toml())
    tables = (TOP, *SINGLE, *DESTINATIONS.values(), CHANNEL, JOB, *SOURCES.values(), RETENTION, MONITOR, PLACE_MONITOR)
    count = sum(len(table.options) for table in (*tables, JOB_ENCRYPTION, GROUP))
    assert len(keys) == count + 2 + len(DESTINATIONS) + 2 * (len(SOURCES) - 1)


def test_root_reads_what_root_owns(host_file: Path) -> None:
    """The mode counts, not who asks: a private file of the service is read."""
    assert os.stat(host_file).st_mode & 0o777 == 0o600
    assert load_host_file(host_file, environ={}).origin == str(host_file)


@pytest.mark.parametrize(
    "keys,key,reason,fix",
    [
        ('type = "oracle"\npath = "/a"', "type", 'must be "mongodb"', ""),
        ("type = 5", "type", "must be", ""),
        ('type = "sqlite"', "path", "is missing", "path = "),
        ('type = "sqlite"\npath = "/a"\nuri = "mongodb://h/"', "uri", 'is a key of type = "mongodb"', "take it out"),
        ('path = "/a"', "path", 'is a key of type = "sqlite" or "files", and this is "mongodb"', 'type = "sqlite" or'),
        ('type = "sqlite"\npath = "a.db"', "path", "an absolute path", '["/srv/app/*.db"]'),
        ('type = "sqlite"\npath = []', "path", "an absolute path", ""),
        ('type = "sqlite"\npath = "/a/../b"', "path", "an absolute path", ""),
        ('type = "sqlite"\npaht = "/a"\npath = "/a"', "paht", "is not a known key", "did you mean job.a.path?"),
        ('type = "sqlite"\npath = "/a"\npitr = "60s"', "pitr", "is not for a job that saves sqlite", "take it out"),
        ('before = ["touch"]', "before", "must be a command", ""),
        ("before = 5", "before", "must be a command", ""),
    ],
)
def test_what_a_job_saves_is_said_by_its_type(keys: str, key: str, reason: str, fix: str) -> None:
    """A type that there is not, a key of another type and one that is missing are told with their path and the fix."""
    error = refusal(f'[[job]]\nname = "a"\n{keys}')
    assert f"job.a.{key}" in error.message
    assert reason in error.message
    assert fix in error.hint + error.message


def test_a_job_of_another_type_is_read() -> None:
    """Its own keys are in its source, those of all jobs in the job; of the others there is nothing."""
    config = parse(
        '[[job]]\nname = "a"\ntype = "sqlite"\npath = "/srv/a.db"\nexclude = ["/srv/b"]\nschedule = "0 3 * * *"'
    )
    (job,) = config.jobs
    assert job.source == SqliteSource(path=("/srv/a.db",), exclude=("/srv/b",))
    assert job.schedule == ("0 3 * * *",)
    assert config.mongodb.uri.reveal() not in str(to_public(job))
