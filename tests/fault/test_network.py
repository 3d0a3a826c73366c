"""Bad networks under a real daemon: one destination behind each of them, another one that is good.

What each kind of destination does by itself with such faults is in tests/contract/test_faults.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.servers.bad_network import FAULTS, bad_server
from tests.servers.daemon import Site, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3

pytestmark = [pytest.mark.servers, pytest.mark.fault_long]

OTHERS: Final = "A destination that fails, hangs or lies never counts as having a copy, and the others go on."
NOBODY: Final = "http://backups.invalid:9000"
CODES: Final = {
    "expired certificate": {"destination-tls"},
    "503 storm": {"destination-unreachable", "destination-failed", "deadline"},
    "429 storm": {"destination-unreachable", "destination-failed", "deadline"},
    "another protocol": {"destination-unreachable", "destination-failed"},
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for the time when the network is good again."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod, s3: S3Server) -> Iterator[Site]:
    """A daemon with a folder and a bucket as destinations."""
    with open_site(mongod_rs) as site:
        (site.folder / "disk").mkdir()
        point(site, s3, s3.endpoint)
        site.start()
        yield site


def point(site: Site, s3: S3Server, endpoint: str, trust: str = "") -> None:
    """Have the bucket looked for at an address."""
    site.write_config(
        "[retry]\nattempts = 50\ndelay = '1s'\n[limits]\nupload = '4s'\n"
        "[nanumpay]\ndrill = 'never'\ndestinations = ['bucket', 'disk']\n"
        f"[destination.disk]\ntype = 'local'\npath = '{site.folder / 'disk'}'\n"
        f"[destination.bucket]\ntype = 's3'\nbucket = '{s3.bucket}'\nendpoint_url = '{endpoint}'\npath_style = true\n"
        f"access_key_id = '{ACCESS_KEY}'\nsecret_access_key = '{SECRET_KEY}'\ntimeout = '1s'\n"
        + (f"ca_file = '{trust}'\n" if trust else ""),
        top="timezone = 'UTC'",
    )
    if site.process is not None:
        site.call("Reload")


def copies(site: Site, backup: str) -> dict[str, dict[str, Any]]:
    """Return the copies of a backup by their places."""
    return {copy["destination"]: copy for copy in site.call("DescribeBackup", backup=backup)["backup"]["copies"]}


def others_go_on(site: Site, codes: set[str]) -> str:
    """Make a backup that reaches the good place only; returns it."""
    wait_for(lambda: not site.job().get("running"), "the end of what ran before")
    run = site.run()
    assert (run["outcome"], run["error"]["code"] in codes) == ("degraded", True), run["error"]
    assert run["error"]["hint"]
    found = copies(site, run["backup"])
    assert (found["local"]["state"], found["disk"]["state"]) == ("verified", "uploaded")
    assert found["bucket"]["state"] == "pending"
    assert (site.folder / "disk" / f"{run['backup']}.tar.gz.manifest.json").exists()
    assert "waits" in "\n".join(map(str, site.status()["problems"]))
    assert run["error"]["message"].split(":")[0][:30] in site.log()
    return str(run["backup"])


def arrives(site: Site, s3: S3Server, backup: str) -> None:
    """See that the copy comes when the network is good again, and that the next backup succeeds."""
    wait_for(lambda: copies(site, backup)["bucket"]["state"] in {"uploaded", "verified"}, "the copy that was queued")
    (artifact,) = (s3.root / s3.bucket).rglob(f"{backup}.tar.gz")
    assert artifact.read_bytes() == (site.backups / artifact.name).read_bytes()
    wait_for(lambda: not site.job().get("running"), "the end of the run that brought it")
    assert site.run()["outcome"] == "succeeded"
    assert "Traceback" not in site.log()


@pytest.mark.promise(OTHERS, item=4)
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_bad_network_before_one_destination(site: Site, s3: S3Server, tmp_path: Path, fault: str) -> None:
    """The run is degraded by a fault with a code, the other destination has its copy; mended, the copy arrives."""
    with bad_server(fault, tmp_path) as (endpoint, trust):
        point(site, s3, endpoint, trust)
        backup = others_go_on(site, CODES.get(fault, {"destination-unreachable", "deadline"}))
        point(site, s3, s3.endpoint)
    arrives(site, s3, backup)


@pytest.mark.promise(OTHERS, item=4)
def test_a_name_that_nobody_knows(site: Site, s3: S3Server) -> None:
    """DNS fails: as a server that is away."""
    point(site, s3, NOBODY)
    backup = others_go_on(site, {"destination-unreachable"})
    point(site, s3, s3.endpoint)
    arrives(site, s3, backup)


@pytest.mark.promise(OTHERS, item=4)
def test_a_server_that_is_frozen(site: Site, s3: S3Server) -> None:
    """Stopped as a host without memory: given up in time; it goes on, and nothing has to be mended."""
    s3.program.freeze()
    try:
        backup = others_go_on(site, {"destination-unreachable", "deadline"})
    finally:
        with contextlib.suppress(ProcessLookupError):
            s3.program.freeze(on=False)
    arrives(site, s3, backup)
