"""Host file plus application settings make jobs: whose word counts for what."""

from __future__ import annotations

import pytest

from nanumpay_backupd.model import Policy, Tiers
from nanumpay_backupd.settings.document import parse_document
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import application_destination, build_jobs
from nanumpay_backupd.settings.schema import (
    AppSettings,
    FtpDestination,
    HostConfig,
    LocalDestination,
    MongoSource,
    Paths,
    RetryPolicy,
    RunSpec,
    S3Destination,
    Schedule,
    decode_spec,
    encode_spec,
    to_public,
)
from nanumpay_backupd.system.secrets import Secret

HOST_TEXT = """
timezone = "Asia/Seoul"
[mongodb]
uri = "mongodb://user:uri-password@localhost/pay"
[tools]
mongodump = "/usr/bin/mongodump"
[retry]
attempts = 5
delay = "10s"
[nanumpay]
destinations = ["usb"]
catch_up = "1d"
compression_level = 6
[nanumpay.s3]
endpoint_url = "https://s3.example.com"
path_style = true
sse = "aws:kms"
sse_kms_key_id = "key-1"
storage_class = "GLACIER"
ca_file = "/ca-s3.pem"
[nanumpay.ftp]
tls_verify = false
ca_file = "/ca-ftp.pem"
tls_fingerprint = "%s"
timeout = "5s"
[destination.usb]
type = "local"
path = "/mnt/usb"
[[job]]
name = "shop"
database = "shop"
schedule = "0 3 * * *"
destinations = ["usb"]
retention = { count = 3, days = 9 }
compress = false
compression_level = 1
enabled = false
catch_up = "2h"
[[job]]
name = "on-demand"
""" % ("cd" * 32)

S3_SETTINGS = {
    "frequency": "weekly",
    "retention": {"count": 2, "days": 3, "compress": False},
    "storage": {
        "type": "s3",
        "s3": {"region": "r-1", "bucket": "b-1", "accessKeyId": "AK", "secretAccessKey": "s3-password", "prefix": "p/"},
        "ftp": {"host": "not-chosen"},
    },
}
FTP_SETTINGS = {
    "storage": {
        "type": "ftp",
        "ftp": {
            "host": "h",
            "port": 2121,
            "username": "u",
            "password": "ftp-password",
            "remotePath": "/r",
            "secure": True,
        },
        "s3": {"bucket": "not-chosen"},
    }
}


@pytest.fixture
def host() -> HostConfig:
    """Return a host configuration that sets nearly everything."""
    return parse_host_file(HOST_TEXT, "host.toml", environ={})


def test_the_applications_job_comes_first_and_unites_both_sources(host: HostConfig) -> None:
    """Schedule and retention are the application's, the rest is the host's."""
    job = build_jobs(host, parse_document(S3_SETTINGS))[0]
    assert job.name == "nanumpay"
    uri = Secret("mongodb://user:uri-password@localhost/pay")
    assert job.source == MongoSource(uri=uri, database="pay", mongodump="/usr/bin/mongodump")
    assert job.schedule == Schedule(cron=("0 2 * * 0",), timezone="Asia/Seoul")
    assert (job.retention, job.compress, job.compression_level) == (Policy(count=2, days=3), False, 6)
    assert (job.enabled, job.catch_up, job.retry) == (True, 86400.0, RetryPolicy(attempts=5, delay=10.0))
    assert [destination.name for destination in job.destinations] == ["app", "usb"]
    assert job.warnings == ()


def test_the_bucket_of_the_form_gets_the_hosts_extras(host: HostConfig) -> None:
    """What the form says and what only the host file can say make one S3 destination."""
    assert application_destination(host, parse_document(S3_SETTINGS)) == S3Destination(
        name="app",
        bucket="b-1",
        region="r-1",
        access_key_id="AK",
        secret_access_key=Secret("s3-password"),
        prefix="p/",
        endpoint_url="https://s3.example.com",
        path_style=True,
        sse="aws:kms",
        sse_kms_key_id="key-1",
        storage_class="GLACIER",
        ca_file="/ca-s3.pem",
    )


def test_the_ftp_server_of_the_form_gets_the_hosts_extras(host: HostConfig) -> None:
    """What the form says and what only the host file can say make one FTP destination."""
    assert application_destination(host, parse_document(FTP_SETTINGS)) == FtpDestination(
        name="app",
        host="h",
        port=2121,
        username="u",
        password=Secret("ftp-password"),
        path="/r",
        secure=True,
        tls_verify=False,
        ca_file="/ca-ftp.pem",
        tls_fingerprint="cd" * 32,
        timeout=5.0,
    )


@pytest.mark.parametrize(
    "storage,warnings", [({"type": "ftp"}, 1), ({"type": "s3"}, 1), ({"type": "none"}, 0), ({"type": "local"}, 0)]
)
def test_no_remote_place_yet_is_no_destination(storage: dict[str, str], warnings: int) -> None:
    """An empty host or bucket leaves the job without a remote place, and warns; none and local do not."""
    job = build_jobs(HostConfig(), parse_document({"storage": storage}))[0]
    assert job.destinations == ()
    assert len(job.warnings) == warnings


def test_warnings_of_the_watch_join_those_of_the_settings() -> None:
    """Whatever there is to be said about the settings stands with the job."""
    job = build_jobs(HostConfig(), parse_document({}), ["two administrators differ"])[0]
    assert len(job.warnings) == 2
    assert job.warnings[1] == "two administrators differ"


def test_without_settings_the_job_exists_but_never_runs_by_itself(host: HostConfig) -> None:
    """A fresh install can be backed up by hand before anybody saved settings."""
    job = build_jobs(host, None, ["no settings yet"])[0]
    assert (job.name, job.schedule, job.retention, job.warnings) == ("nanumpay", None, Policy(), ("no settings yet",))
    assert [destination.name for destination in job.destinations] == ["usb"]


def test_switched_off_settings_keep_their_plan_but_are_not_enabled() -> None:
    """`enabled: false` stops the job; what it would do stays visible."""
    job = build_jobs(HostConfig(), AppSettings(enabled=False))[0]
    assert not job.enabled
    assert job.schedule is not None


def test_the_host_can_switch_the_applications_job_off() -> None:
    """A host without the application has only its own jobs."""
    host = parse_host_file('[nanumpay]\nenabled = false\n[[job]]\nname = "shop"', "host.toml", environ={})
    assert [job.name for job in build_jobs(host, AppSettings())] == ["shop"]


def test_further_jobs_are_the_hosts_alone(host: HostConfig) -> None:
    """A job of the host file takes nothing from the application's settings."""
    _, shop, on_demand = build_jobs(host, parse_document(S3_SETTINGS))
    assert shop.source == MongoSource(uri=host.mongodb.uri, database="shop", mongodump="/usr/bin/mongodump")
    assert shop.schedule == Schedule(cron=("0 3 * * *",), timezone="Asia/Seoul")
    assert shop.destinations == (LocalDestination(name="usb", path="/mnt/usb"),)
    assert (shop.retention, shop.compress, shop.compression_level) == (Policy(count=3, days=9), False, 1)
    assert (shop.enabled, shop.catch_up, shop.retry) == (False, 7200.0, host.retry)
    assert on_demand.schedule is None
    assert isinstance(on_demand.source, MongoSource)
    assert on_demand.source.database == "pay"


KEPT = """
[nanumpay]
destinations = ["usb"]
[nanumpay.retention]
max_total_size = "50GB"
[destination.usb]
type = "local"
path = "/mnt/usb"
[destination.usb.retention]
keep_all_for_days = 7
keep_monthly_for_months = 12
[destination.local.retention]
count = 3
[destination.app.retention]
max_total_size = "0KiB"
min_keep = 2
[[job]]
name = "shop"
destinations = ["usb"]
retention = { keep_all_for_days = 2, min_keep = 4 }
"""


def test_whose_word_counts_on_how_long_to_keep() -> None:
    """The place's table, then the job's, then the form: for the rule, the size and what always stays each by itself."""
    application, shop = build_jobs(parse_host_file(KEPT, "host.toml", environ={}), parse_document(S3_SETTINGS))
    size = 50 * 10**9
    assert application.retention == Policy(count=2, days=3, max_total_size=size)
    monthly = Tiers(keep_all_for_days=7, keep_monthly_for_months=12)
    assert {place: application.policy_at(place) for place in ("app", "usb", "local", "elsewhere")} == {
        "app": Policy(count=2, days=3, min_keep=2),
        "usb": Policy(count=2, days=3, tiers=monthly, max_total_size=size),
        "local": Policy(count=3, days=30, max_total_size=size),
        "elsewhere": application.retention,
    }
    assert shop.retention == Policy(tiers=Tiers(keep_all_for_days=2), min_keep=4)
    assert shop.policy_at("usb") == Policy(tiers=monthly, min_keep=4)
    assert shop.policy_at("local") == Policy(count=3, days=30, min_keep=4)
    assert decode_spec(encode_spec(spec := RunSpec(run="r", job=shop, paths=Paths(), trigger="manual"))) == spec


def test_a_job_reaches_the_worker_whole_and_people_without_secrets(host: HostConfig) -> None:
    """The worker gets every secret through its pipe; what people are shown has none."""
    job = build_jobs(host, parse_document(FTP_SETTINGS))[0]
    spec = RunSpec(run="r-1", job=job, paths=host.paths, trigger="manual")
    assert decode_spec(encode_spec(spec)) == spec
    assert not any(word in repr(to_public(spec)) for word in ("uri-password", "ftp-password"))
