"""``python -m tests.fault`` runs the whole fault suite, some modules side by side; `make test-fault` calls it.

Each module has a pytest of its own: most of the time a test waits for a server or a child. What is left on the line is
given to every pytest.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.servers.tools import PROJECT

SIDE_BY_SIDE: Final = int(os.environ.get("NANUMPAY_TEST_PARTS", "3"))
_TIMES: Final = PROJECT / ".pytest_cache" / "fault-seconds.json"
_TALLY: Final = re.compile(r"^tally: ([0-9]+) (.+?)(?: \(.*\))?$", re.MULTILINE)
_NOTHING: Final = 5
"""pytest's exit code where no test was chosen."""


def modules() -> list[Path]:
    """Return tests/fault and every module with a test that is marked fault_long."""
    own = sorted((PROJECT / "tests" / "fault").glob("test_*.py"))
    marked = [
        path
        for path in sorted((PROJECT / "tests").glob("*/test_*.py"))
        if path not in own and "pytest.mark.fault_long" in path.read_text(encoding="utf-8") and "unit" not in path.parts
    ]
    return own + marked


def run(path: Path, arguments: list[str]) -> tuple[int, str]:
    """Run one module; returns pytest's exit code and what it said."""
    name = path.relative_to(PROJECT).as_posix()
    chosen = [] if path.parent.name == "fault" else ["-m", "fault_long"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            "faulthandler_timeout=0",
            "-o",
            f"cache_dir=.pytest_cache/{path.stem}",
            name,
            *chosen,
            *arguments,
        ],
        cwd=PROJECT,
        env={**os.environ, "NANUMPAY_TEST_FAULT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def main(arguments: list[str]) -> int:
    """Run all, the longest of the last time first; returns the exit code."""
    _TIMES.parent.mkdir(exist_ok=True)
    seconds: dict[str, float] = json.loads(_TIMES.read_text(encoding="utf-8")) if _TIMES.exists() else {}
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in sorted(modules(), key=lambda path: -seconds.get(path.stem, 1e9)):
        waiting.put(path)
    failed: list[str] = []
    tallies: Counter[str] = Counter()
    saying = threading.Lock()

    def work() -> None:
        while True:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.monotonic()
            code, said = run(path, arguments)
            with saying:
                seconds[path.stem] = round(time.monotonic() - began, 1)
                for count, what in _TALLY.findall(said):
                    tallies[what] += int(count)
                if code not in (0, _NOTHING):
                    failed.append(path.stem)
                    print(said)
                last = said.strip().splitlines()[-1:] or [""]
                print(f"{seconds[path.stem]:7.1f} s  {path.stem}: {last[0]}", flush=True)

    before = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _TIMES.write_text(json.dumps(seconds), encoding="utf-8")
    print(
        f"{time.monotonic() - before:.0f} s", *(f"{count} {what}" for what, count in sorted(tallies.items())), sep=", "
    )
    if failed:
        print(f"FAILED: {', '.join(sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
