"""``python -m tests.fault.stable``: has all of the worker's modules loaded, and forks for each run that it is told.

`workers` is the other side. An order is a line of JSON; the fork says when strace may take hold of it, and waits.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import importlib
import json
import os
import resource
import sys
import threading
import traceback
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd import worker
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.process import die_with_parent

_LOADED: Final = (
    "pipeline.backup pipeline.bringback pipeline.copying pipeline.drill pipeline.increment pipeline.prune "
    "pipeline.recheck pipeline.rehearse pipeline.restore pipeline.slices sources.files sources.files_target "
    "sources.mongodb sources.sqlite sources.sqlite_target stores.local"
).split()
_TELLER: Final = 100
_real: Final = SystemClock.now


class Point:
    """Where a run waits for strace: once, in the thread that gets there first."""

    def __init__(self, go: int, teller: int) -> None:
        self._go, self._teller = go, teller
        self.reached = False

    def wait(self) -> None:
        """Say which thread waits, and wait."""
        if not self.reached:
            self.reached = True
            self.tell(threading.get_native_id())
            os.read(self._go, 1)

    def tell(self, thread: int) -> None:
        """Say which thread waits; 0: none did."""
        os.write(self._teller, f"prepared {thread}\n".encode())

    def put_before(self, where: str) -> None:
        """Make ``module:function`` wait here first."""
        module, _, name = where.partition(":")
        owner = importlib.import_module(module)
        original = getattr(owner, name)

        @functools.wraps(original)
        def held(*args: Any, **options: Any) -> Any:
            self.wait()
            return original(*args, **options)

        setattr(owner, name, held)


def _size() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _run(order: dict[str, Any], go: int) -> int:
    """Be the worker process of an order; returns its exit code."""
    die_with_parent()
    os.setsid()
    shift = timedelta(seconds=order["later"])

    def later(self: SystemClock) -> datetime:
        return _real(self) + shift

    SystemClock.now = later  # type: ignore[method-assign]
    given = os.memfd_create("spec")
    os.write(given, base64.b64decode(order["spec"]))
    os.lseek(given, 0, os.SEEK_SET)
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    point = Point(go, fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _TELLER))
    for source, target in ((given, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    os.close(given)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    for name, value in order["limits"].items():
        has = _size() if name == "RLIMIT_AS" else 0
        resource.setrlimit(getattr(resource, name), (has + value, has + value))
    if order["hold"]:
        point.put_before(order["hold"])
    else:
        point.wait()
    code = 70
    try:
        code = worker.main()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if not point.reached:
        point.tell(0)
    return code


def main() -> None:
    """Fork for each line of standard input."""
    for name in _LOADED:
        importlib.import_module(f"nanumpay_backupd.{name}")
    for line in sys.stdin:
        go, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            os._exit(_run(json.loads(line), go))
        os.close(go)
        sys.stdin.readline()
        with contextlib.suppress(BrokenPipeError):
            os.write(ready, b"x")
        os.close(ready)
        _, status = os.waitpid(pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
