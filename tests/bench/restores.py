"""What a restore takes beside the commands that the documents give for one by hand. Run in turn, on the same server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Protocol

from tests.bench.measure import settle, timed
from tests.bench.site import DATABASE, Site, median_of
from tests.servers.tools import find_tool

__all__ = ["measure"]

_OURS: Final = "restored_by_us"
_BY_HAND: Final = "restored_by_hand"


class Rows(Protocol):
    """What the bench collects its figures in."""

    def add(self, what: str, measured: float, target: float, *, unit: str = "", least: bool = False) -> None:
        """Add a figure with its target."""

    def fact(self, text: str) -> None:
        """Add a plain fact."""


def measure(folder: Path, site: Site, report: Rows, rounds: int) -> None:
    """Restore the newest backup in both ways, each into a database that is not there yet."""
    *_, record = site.run()
    artifact = site.call("DescribeBackup", backup=record["backup"])["backup"]["manifest"]["artifact"]["name"]
    work = folder / "by-hand"
    unpack = f"tar -xzf '{site.backups / artifact}' -C '{work}'"
    rename = f"--nsFrom '{DATABASE}.*' --nsTo '{_BY_HAND}.*'"
    plain = f"'{find_tool('mongorestore')}' --uri='{site.server.uri}' --nsInclude '{DATABASE}.*' {rename} '{work}'/*"
    ours, unpacked, restored = [], [], []
    for number in range(rounds):
        for way in (0, 1) if number % 2 else (1, 0):
            _forget(site)
            settle()
            if way:
                ours.append(site.backupctl("restore", record["backup"], "--to-db", _OURS, "--yes"))
            else:
                work.mkdir()
                unpacked.append(timed([], shell=unpack))
                restored.append(timed([], shell=plain))
                shutil.rmtree(work)
        times = f"ours {ours[-1]:.2f} s, tar {unpacked[-1]:.2f} s, mongorestore {restored[-1]:.2f} s"
        print(f"    round {number + 1}: {times}", flush=True)
    _forget(site)
    both = [ours / (tar + plain) for ours, tar, plain in zip(ours, unpacked, restored, strict=True)]
    report.add("restore, proven and compared / tar -xzf, then mongorestore", median_of(both), 1.05)
    alone = [ours / plain for ours, plain in zip(ours, restored, strict=True)]
    report.fact(
        f"that restore: {median_of(ours):.1f} s; tar -xzf {median_of(unpacked):.1f} s, mongorestore "
        f"{median_of(restored):.1f} s; to mongorestore of what lies there unpacked it is as {median_of(alone):.2f} to 1"
    )


def _forget(site: Site) -> None:
    with site.server.client() as client:
        for name in (_OURS, _BY_HAND):
            client.drop_database(name)
