"""The hidden command complete: the words that only the daemon knows, for the shells' completion. Never a fault.

``backupctl complete [--socket PATH] WHAT…`` prints a word a line, and what is to be said about it behind a tab. It is
called while somebody presses the Tab key, so nothing is loaded that can be done without; and whatever goes wrong (no
daemon, an older one, no permission) is silence, because a complaint would land in the middle of what is being typed.
"""

from __future__ import annotations

import os
import sys

from nanumpay_backupd.cli.options import DEFAULT_SOCKET
from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import EXIT_OK

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Words = Iterator[tuple[str, str]]

__all__ = ["WORDS", "complete"]

# A Tab key that does nothing for longer is worse than one that offers nothing.
_PATIENCE = 1.0
_BACKUPS = 300
_RUNS = 50


def _jobs(client: Client) -> Words:
    for job in client.call("ListJobs")["jobs"]:
        yield job["name"], job["source"] if job["enabled"] else f"{job['source']}, disabled"


def _running(client: Client) -> Words:
    for job in client.call("ListJobs")["jobs"]:
        if job.get("running"):
            yield job["running"], f"of job {job['name']}"


def _destinations(client: Client) -> Words:
    of: dict[str, list[str]] = {"local": []}
    for job in client.call("ListJobs")["jobs"]:
        for name in job["destinations"]:
            of.setdefault(name, []).append(job["name"])
    for name, jobs in of.items():
        yield name, f"of job {', '.join(jobs)}" if jobs else "the backups folder"


def _remote(client: Client) -> Words:
    return (item for item in _destinations(client) if item[0] != "local")


def _named(client: Client) -> Words:
    """Those of the host file: the application's own one cannot be named without the daemon."""
    return (item for item in _destinations(client) if item[0] not in {"local", "app"})


def _backups(client: Client) -> Words:
    for backup in client.call("ListBackups", {"limit": _BACKUPS})["backups"]:
        yield backup["id"], f"{backup['kind']} of {backup['job']}, {backup['state']}, {_size(backup['size'])}"


def _groups(client: Client) -> Words:
    for group in client.call("ListJobs").get("groups") or ():
        yield group["name"], f"group of {', '.join(group['jobs'])}"


def _made(client: Client) -> Words:
    """What runs of groups made."""
    for made in client.call("ListBackups", {"limit": _BACKUPS}).get("groups") or ():
        yield made["id"], f"group {made['group']}, {made['state']}"


def _runs(client: Client) -> Words:
    for run in client.call("ListRuns", {"limit": _RUNS})["runs"]:
        yield run["id"], f"{run.get('action') or 'backup'} of {run['job']}, {run.get('outcome') or 'running'}"


def _collections(client: Client) -> Words:
    manifest = client.call("DescribeBackup", {"backup": "latest"})["backup"].get("manifest") or {}
    source = manifest.get("source", {})
    several = len(source.get("databases", ())) > 1
    for held in source.get("collections", ()):
        name = f"{held['database']}.{held['name']}" if several else held["name"]
        yield name, f"{held['documents']:,} documents"


def _swaps(client: Client) -> Words:
    for swap in client.call("ListSwaps")["swaps"]:
        yield swap["stamp"], f"of {swap['database']}, {swap['state']}"


def _channels(client: Client) -> Words:
    for channel in client.call("ListNotices", {"limit": 1})["channels"]:
        yield channel["name"], f"{channel['type']}, {channel['state']}"


WORDS: dict[str, Callable[[Client], Words]] = {
    "backups": _backups,
    "channels": _channels,
    "collections": _collections,
    "destinations": _destinations,
    "groups": _groups,
    "jobs": _jobs,
    "made": _made,
    "named": _named,
    "remote": _remote,
    "running": _running,
    "runs": _runs,
    "swaps": _swaps,
}


def complete(argv: list[str]) -> int:
    """Print the words of the kinds that are named; returns 0 whatever happens."""
    socket = os.environ.get("NANUMPAY_BACKUPD_SOCKET") or DEFAULT_SOCKET
    kinds = iter(argv)
    client = None
    for kind in kinds:
        if kind == "--socket":
            socket = next(kinds, socket)
            continue
        # The shells hand over what was typed. pathlib would be a tenth of the whole time.
        client = client or Client(os.path.expanduser(socket), timeout=_PATIENCE)  # noqa: PTH111
        try:
            found = [f"{word}\t{remark}" for word, remark in WORDS[kind](client) if f"{word}{remark}".isprintable()]
        except Exception:  # noqa: BLE001, S112 - silence, see above
            continue
        _write("".join(f"{line}\n" for line in found))
    return EXIT_OK


def _write(text: str) -> None:
    """Write as far as somebody reads it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _size(size: float) -> str:
    """Write bytes roughly; `words` would cost more than the question to the daemon."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
