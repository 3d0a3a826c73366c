"""What encryption adds to a whole run: workers as the daemon starts them, with and without it in turn."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.settings.schema import (
    JobEncryption,
    LocalDestination,
    MongoSource,
    Paths,
    RunSpec,
    encode_spec,
)
from nanumpay_backupd.system.secrets import Secret
from tests.bench.measure import settle
from tests.bench.site import median_of
from tests.keys import PASSPHRASE, age_key, pgp_key
from tests.servers.mongod import Mongod
from tests.servers.tools import find_tool
from tests.workbench import job_spec

if TYPE_CHECKING:
    from tests.bench.report import Report

__all__ = ["LEAST_ROUNDS", "measure"]

_TARGET: Final = 1.15
LEAST_ROUNDS: Final = 8
"""Fewer say nothing: a whole run of some seconds varies by a tenth here."""


def measure(folder: Path, server: Mongod, database: str, report: Report, rounds: int) -> None:
    """Run every way in turn, forwards and backwards; report the median of the ratios to the same round's run without.

    In rounds and not in a row, because the disk of such a machine changes its speed by a fifth from minute to minute.
    """
    print("Encryption ...", flush=True)
    ways = _ways()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, (encryption, place) in list(ways.items())[:: -1 if number % 2 else 1]:
            times[name].append(_run(folder, server, database, encryption, place=place))
        print(f"    round {number + 1}: " + ", ".join(f"{n} {t[-1]:.2f} s" for n, t in times.items()), flush=True)
    for name, (_, place) in ways.items():
        if name in {"plain", "plain, to a disk"}:
            report.fact(f"a whole run, {name}: {median_of(times[name]):.2f} s (median of {rounds})")
            continue
        before = times["plain, to a disk" if place else "plain"]
        ratios = [with_it / without for with_it, without in zip(times[name], before, strict=True)]
        report.add(f"whole run, {name} / without encryption", median_of(ratios), _TARGET)


def _ways() -> dict[str, tuple[JobEncryption, bool]]:
    """Return the ways, and whether each has a destination."""
    key, native = pgp_key("first"), age_key("first")
    own, other = (str(key.public),), (native.recipient,)
    return {
        "plain": (JobEncryption(), False),
        "OpenPGP, passphrase": (JobEncryption(method="openpgp", passphrase=PASSPHRASE, scope="all"), False),
        "OpenPGP, no key here": (JobEncryption(method="openpgp", recipients=own, scope="all"), False),
        "age key": (
            JobEncryption(method="age", recipients=other, scope="all", decrypt_with=(native.identity,)),
            False,
        ),
        "plain, to a disk": (JobEncryption(), True),
        "OpenPGP passphrase for the copy": (
            JobEncryption(method="openpgp", passphrase=PASSPHRASE, scope="remote"),
            True,
        ),
    }


def _run(folder: Path, server: Mongod, database: str, encryption: JobEncryption, *, place: bool) -> float:
    """Return the seconds of one worker's life."""
    root = Path(tempfile.mkdtemp(prefix="encrypted-", dir=folder))
    (root / "state").mkdir()
    source = MongoSource(uri=Secret(server.uri_for(database)), database=database, mongodump=str(find_tool("mongodump")))
    disk = (LocalDestination(name="disk", path=str(root / "disk")),) if place else ()
    spec = RunSpec(
        run="run1",
        job=job_spec(source=source, destinations=disk, encryption=encryption),
        paths=Paths(backups=root / "backups", state=root / "state", socket=root / "socket"),
        trigger="manual",
    )
    settle()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd", "worker"], input=encode_spec(spec), capture_output=True, check=True
    )
    took = time.perf_counter() - began
    shutil.rmtree(root)
    last = json.loads(done.stdout.splitlines()[-1])
    if last.get("outcome") != "succeeded":
        raise RuntimeError(f"the run did not succeed: {done.stdout.decode()[-2000:]}")
    return took
