"""A breakpoint for worker processes: Python itself loads this at start when its folder is on PYTHONPATH.

The folder named by NANUMPAY_TEST_HOLD may hold a file ``point`` that says ``module:function`` (or
``module:Class.method``), with ``:after`` when the stop is to be behind it. A worker that gets there writes ``held`` and
waits until ``point`` is gone. Nothing is replaced: what happens to the waiting worker (SIGKILL, SIGTERM) happens to the
real one. With ``:exit=N`` it ends there, without a word, with that exit code.

The file ``clock`` in that folder holds how many seconds the wall clock of the site's Python processes is ahead; it may
be changed while they run. The time that passes stays the real one, and no time server is said to keep the clock right.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any


def _hold(folder: Path) -> None:
    (folder / "held").touch()
    while (folder / "point").exists():
        time.sleep(0.01)


def _arm(folder: Path) -> None:
    module, _, rest = (folder / "point").read_text(encoding="ascii").partition(":")
    name, _, side = rest.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, last)

    @functools.wraps(original)
    def held(*args: Any, **options: Any) -> Any:
        if side.startswith("exit="):
            os._exit(int(side.removeprefix("exit=")))
        if side != "after":
            _hold(folder)
        result = original(*args, **options)
        if side == "after":
            _hold(folder)
        return result

    setattr(owner, last, held)


def _shift(clock: Path) -> None:
    import nanumpay_backupd.pipeline.ageing
    import nanumpay_backupd.system.clock

    real = nanumpay_backupd.system.clock.SystemClock.now

    def now(self: nanumpay_backupd.system.clock.SystemClock) -> datetime:
        return real(self) + timedelta(seconds=float(clock.read_text(encoding="ascii")))

    nanumpay_backupd.system.clock.SystemClock.now = now  # type: ignore[method-assign]
    nanumpay_backupd.pipeline.ageing.kept_right = lambda: None  # type: ignore[attr-defined]


if "NANUMPAY_TEST_HOLD" in os.environ and (_clock := Path(os.environ["NANUMPAY_TEST_HOLD"]) / "clock").exists():
    _shift(_clock)
if "worker" in sys.orig_argv and "NANUMPAY_TEST_HOLD" in os.environ:
    _folder = Path(os.environ["NANUMPAY_TEST_HOLD"])
    if (_folder / "point").exists():
        _arm(_folder)
