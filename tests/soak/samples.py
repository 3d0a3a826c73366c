"""What a soak measures every few seconds: memory, descriptors, threads, children of daemon and page; sizes of folders.

What it comes to is worked out by `tests.soak.report`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Final

from tests.soak.house import House

__all__ = ["FILLER", "family", "orphans", "process_figures", "take"]

Document = dict[str, Any]
FILLER: Final = ".filler"
_MARK: Final = "NANUMPAY_TEST_SITE="


def process_figures(pid: int) -> Document | None:
    """Return what a process takes (bytes, counts), None when it has gone."""
    root = Path(f"/proc/{pid}")
    try:
        lines = (root / "status").read_text(encoding="ascii").splitlines()
        status = dict(line.partition(":")[::2] for line in lines)
        if status["State"].split()[0] in "ZX":
            return None
        descriptors = len(os.listdir(root / "fd"))
        words = (root / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        memory = int(status["VmRSS"].split()[0]) * 1024
        anonymous = int(status["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError, IndexError):
        return None
    processor = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    figures = {"pid": pid, "rss": memory, "anon": anonymous, "fds": descriptors, "threads": int(status["Threads"])}
    return {**figures, "cpu": round(processor, 1), **_children(pid)}


def _children(pid: int) -> Document:
    found, dead = 0, 0
    for child in family(pid, deep=False):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            found += 1
            dead += state == "Z"
    return {"children": found, "zombies": dead}


def family(pid: int, *, deep: bool = True) -> list[int]:
    """Return what a process started, and, unless ``deep`` is false, what that started."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(word) for word in task.read_text(encoding="ascii").split()]
                found += children
                waiting += children if deep else []
    return found


def orphans(house: House) -> dict[int, str]:
    """Return the processes that a daemon of this house started and that no living one has."""
    process = house.site.process
    alive = {process.pid, *family(process.pid)} if process is not None else set()
    mark = f"{_MARK}{house.site.folder}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in alive:
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if command and mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")[:200]
    return found


def size_of(folder: Path) -> tuple[int, int]:
    """Return bytes and number of the files in a folder, without what the soak itself fills a disk with."""
    total = count = 0
    waiting = [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.name != FILLER:
                        total += entry.stat(follow_symlinks=False).st_size
                        count += 1
    return total, count


def take(house: House) -> None:
    """Take one sample and write it down."""
    site = house.site
    process = site.process
    daemon = process_figures(process.pid) if process is not None and process.poll() is None else None
    page = process_figures(house.page.pid) if house.page is not None else None
    began = time.monotonic()
    try:
        status = site.status()
    except Exception:  # a daemon that is down is a figure too
        status = None
    answer = time.monotonic() - began
    folders = {
        "backups": site.backups,
        "staging": site.backups / ".backupd" / "staging",
        "state": site.state,
        "usb": house.usb,
        "cloud": house.s3.root,
        "office": house.ftp.home / "backup",
        "nas": house.ssh.home / "backup",
        "web": site.folder / "web",
    }
    sizes = {name: size_of(folder) for name, folder in folders.items()}
    singles = {
        "catalog": site.state / "catalog.db",
        "wal": site.state / "catalog.db-wal",
        "journal": site.log_file,
        "web_journal": site.folder / "web.log",
    }
    files = {name: path.stat().st_size if path.exists() else 0 for name, path in singles.items()}
    house.diary.sample(
        daemon=daemon,
        page=page,
        answer=round(answer, 3) if status else None,
        health=status["health"] if status else None,
        problems=[str(item)[:160] for item in status["problems"]] if status else None,
        sizes={name: found[0] for name, found in sizes.items()},
        counts={name: found[1] for name, found in sizes.items()},
        files=files,
        letters=len(house.web.requests),
        writes=house.book.writes,
        load=os.getloadavg()[0],
    )
