"""The faults of a soak: each kind does its harm, ends it, and says what it did. The conductor draws which and when.

Faults that end the daemon are marked: a growth can only be seen in a daemon that lives long (`tests.soak.conductor`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymongo.errors import PyMongoError

from tests.soak.house import House
from tests.soak.samples import FILLER, family

__all__ = ["FAULTS", "Fault"]

_SLACK: Final = 200_000


@dataclass(frozen=True)
class Fault:
    """A kind of fault. ``work`` gets the house, a die and how long (seconds) it may last; returns what it did."""

    name: str
    work: Callable[[House, random.Random, float], str]
    ends_daemon: bool = False
    weight: int = 2


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _descendants(house: House, part: str) -> list[int]:
    process = house.site.process
    return [pid for pid in family(process.pid) if part in _command(pid)] if process is not None else []


def _wait_for(house: House, part: str, seconds: float) -> list[int]:
    """Wait for a process of the daemon's with ``part`` on its command line; a run is begun for it."""
    with contextlib.suppress(Exception):
        house.site.begin("nanumpay" if part != "gpg" else "sealed")
    deadline = time.monotonic() + seconds
    while not (found := _descendants(house, part)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def _kill(part: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, seconds: float) -> str:
        found = _wait_for(house, part, min(seconds, 15.0))
        if not found:
            return "nobody was there"
        time.sleep(dice.random() * 0.6)
        pid = dice.choice(found)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return f"SIGKILL to {_command(pid)[:60] or part}"

    return work


def _freeze_worker(house: House, _dice: random.Random, seconds: float) -> str:
    found = _wait_for(house, "nanumpay_backupd worker", min(seconds, 15.0))
    if not found:
        return "nobody was there"
    group = [found[0], *family(found[0])]
    for pid in group:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    time.sleep(min(seconds, 12.0))
    for pid in group:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return f"{len(group)} processes stood"


def _end_daemon(number: signal.Signals) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, _seconds: float) -> str:
        if dice.random() < 0.7:
            with contextlib.suppress(Exception):
                house.site.begin(dice.choice(["nanumpay", "tree", "cache", "sealed"]))
            time.sleep(dice.random() * 3)
        house.end_daemon(number)
        return number.name

    return work


def _stop_catalog(how: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, _dice: random.Random, _seconds: float) -> str:
        house.end_daemon(signal.SIGTERM, stay_down=True)
        try:
            for path in house.site.state.glob("catalog.db*"):
                if how == "deleted":
                    path.unlink()
                elif path.suffix == ".db":
                    with path.open("r+b") as file:
                        file.write(b"not a database at all" * 100)
        finally:
            house.held_down.clear()
        return how

    return work


def _freeze_place(name: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, seconds: float) -> str:
        program = house.programs[name]
        with contextlib.suppress(Exception):
            house.site.begin()
        time.sleep(dice.random() * 3)
        program.freeze()
        time.sleep(seconds * (0.4 + 0.6 * dice.random()))
        program.freeze(on=False)
        return "SIGSTOP, SIGCONT"

    return work


def _kill_place(name: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, seconds: float) -> str:
        program = house.programs[name]
        with contextlib.suppress(Exception):
            house.site.begin()
        time.sleep(dice.random() * 3)
        program.kill()
        time.sleep(seconds * dice.random())
        program.start()
        return "SIGKILL, started again"

    return work


def _mongod(how: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, seconds: float) -> str:
        if dice.random() < 0.7:
            with contextlib.suppress(Exception):
                house.site.begin()
            time.sleep(dice.random() * 2)
        house.mongod.kill() if how == "killed" else house.mongod.stop()
        time.sleep(seconds * dice.random())
        house.mongod.start()
        house.mongod.wait_writable()
        return how

    return work


def _step_down(house: House, _dice: random.Random, _seconds: float) -> str:
    with house.mongod.direct() as client, contextlib.suppress(PyMongoError):
        client.admin.command({"replSetStepDown": 5, "force": True})
    time.sleep(1)
    house.mongod.wait_writable()
    return "stepped down for 5 s"


def _redis(house: House, dice: random.Random, seconds: float) -> str:
    house.redis.stop()
    time.sleep(seconds * dice.random())
    house.redis.start()
    return "SIGKILL, started again"


def _full_disk(which: str) -> Callable[[House, random.Random, float], str]:
    def work(house: House, dice: random.Random, seconds: float) -> str:
        folder = house.site.backups if which == "backups" else house.site.state
        free = os.statvfs(folder)
        room = free.f_bavail * free.f_frsize
        left = dice.choice([0, 4096, _SLACK])
        filler = folder / FILLER
        try:
            with filler.open("wb") as file, contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(room - left, 1))
            for job in ("nanumpay", "cache"):
                with contextlib.suppress(Exception):
                    house.site.begin(job)
            time.sleep(max(3.0, seconds * dice.random()))
        finally:
            filler.unlink(missing_ok=True)
        return f"{left} bytes left"

    return work


def _garbage(house: House, dice: random.Random, seconds: float) -> str:
    deadline = time.monotonic() + min(seconds, 8.0)
    sent = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(2)
            link.connect(str(house.site.socket))
            kind = dice.randrange(4)
            if kind == 0:
                link.sendall(dice.randbytes(dice.randrange(1, 4000)) + b"\0")
            elif kind == 1:
                link.sendall(b'{"method":"com.nanumpay.Backup.GetStatus","parameters":' + b"[" * 5000 + b"\0")
            elif kind == 2:
                link.sendall(b'{"method":"com.nanumpay.Backup.ListRuns","parameters":{"limit":"many"}}\0')
                link.recv(1000)
            else:
                link.sendall(b'{"method":"com.nanumpay.Backup.Watch","more":true}\0' * 3)
            sent += 1
        time.sleep(0.02)
    return f"{sent} callers with garbage"


def _crowd(house: House, _dice: random.Random, seconds: float) -> str:
    links: list[socket.socket] = []
    try:
        for _ in range(400):
            link = socket.socket(socket.AF_UNIX)
            links.append(link)
            link.settimeout(0.5)
            with contextlib.suppress(OSError):
                link.connect(str(house.site.socket))
                link.send(b'{"method":"com.nanumpay')
        time.sleep(min(seconds, 10.0))
    finally:
        for link in links:
            link.close()
    return f"{len(links)} connections that said half a word"


def _kill_page(house: House, _dice: random.Random, _seconds: float) -> str:
    if house.page is not None:
        house.page.kill()
        house.page.wait()
    house.start_page()
    return "SIGKILL, started again"


def _reload(house: House, _dice: random.Random, _seconds: float) -> str:
    if house.site.process is not None:
        house.site.process.send_signal(signal.SIGHUP)
    return "SIGHUP"


FAULTS: Final = (
    Fault("worker killed", _kill("nanumpay_backupd worker"), weight=3),
    Fault("mongodump killed", _kill("mongodump"), weight=3),
    Fault("gpg killed", _kill("gpg")),
    Fault("worker frozen", _freeze_worker),
    Fault("S3 frozen", _freeze_place("cloud")),
    Fault("FTP frozen", _freeze_place("office")),
    Fault("SFTP frozen", _freeze_place("nas")),
    Fault("S3 killed", _kill_place("cloud")),
    Fault("FTP killed", _kill_place("office")),
    Fault("SFTP killed", _kill_place("nas")),
    Fault("mongod killed", _mongod("killed")),
    Fault("mongod restarted", _mongod("restarted")),
    Fault("stepdown", _step_down),
    Fault("Redis killed", _redis),
    Fault("backups disk full", _full_disk("backups"), weight=3),
    Fault("state disk full", _full_disk("state")),
    Fault("garbage at the socket", _garbage),
    Fault("crowd at the socket", _crowd),
    Fault("page killed", _kill_page, ends_daemon=True, weight=1),
    Fault("reload", _reload, weight=1),
    Fault("daemon killed", _end_daemon(signal.SIGKILL), ends_daemon=True, weight=4),
    Fault("daemon restarted", _end_daemon(signal.SIGTERM), ends_daemon=True),
    Fault("catalog deleted", _stop_catalog("deleted"), ends_daemon=True),
    Fault("catalog destroyed", _stop_catalog("destroyed"), ends_daemon=True),
)
