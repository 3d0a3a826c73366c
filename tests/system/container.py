"""One booted container: start, commands in it, files, power button. Knows nothing of the daemon that is tested in it.

Its root is an image with a layer of its own over it (overlayfs in a mount namespace that ends with the container; a
copy where that is refused). It dies with this process, and what it leaves on the disk is swept by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from nanumpay_backupd.system.process import die_with_parent
from tests.servers.tools import tools_path
from tests.system.cgroups import enter, make_places, remove_places
from tests.system.image import FOLDER
from tests.system.probe import ALONE, NSPAWN, children, kill, leader_of

__all__ = ["Container", "Done", "sweep", "wait_for"]

T = TypeVar("T")
RUNS: Final = FOLDER / "runs"
_BOOT_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 150.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OVERLAY: Final = ("mount", "-t", "overlay", "overlay", "-o")
_MOUNTED: Final = f'{" ".join(_OVERLAY)} "$1" "$2" && shift 2 && exec "$@"'


def wait_for(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Ask again until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain: {what}")
        time.sleep(0.05)
    return result


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    command: str
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Both streams."""
        return self.out + self.err


class Container:
    """A container of an image; `boot` starts it, `close` ends it and removes what is its own."""

    def __init__(self, image: Path, name: str) -> None:
        self.name = name
        self.leader = 0
        self._image = image
        self._folder = RUNS / f"{name}-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir(parents=True)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._root = self._folder / "root"
        self._places = make_places(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._layered = self._prepare()

    # Power

    def boot(self) -> None:
        """Start it, and wait until all that is to be started has been."""
        assert not self.running, f"{self.name} is running"
        machine = f"--machine={self._folder.name}"
        argv = [*NSPAWN, f"--directory={self._root}", machine]
        if self._layered:
            argv = ["sh", "-c", _MOUNTED, "sh", self._options(), str(self._root), *argv]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*ALONE, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": tools_path(), "LANG": "C.UTF-8"},
                preexec_fn=self._enter,
            )
        process = self._process
        self.leader = wait_for(lambda: leader_of(process) or self._ended(), f"systemd in {self.name}", _BOOT_SECONDS)
        state = self.run("systemctl is-system-running --wait", timeout=_BOOT_SECONDS, check=False).out.strip()
        if state != "running":
            raise AssertionError(f"{self.name} is {state}:\n{self.run('systemctl --failed', check=False).out}")

    @property
    def running(self) -> bool:
        """Tell whether it is switched on."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """Return the file with what the console showed."""
        return self._folder / "console.log"

    def wait_off(self, seconds: float = _STOP_SECONDS) -> None:
        """Wait until it has switched itself off, or was."""
        if self._process is not None:
            self._process.wait(seconds)
            self._gone()

    def start_power_off(self) -> None:
        """Press the power button (SIGTERM to nspawn), and return at once."""
        assert self._process is not None
        (nspawn,) = children(self._process.pid)
        os.kill(nspawn, signal.SIGTERM)

    def power_off(self) -> None:
        """Press the power button and wait for the orderly end."""
        self.start_power_off()
        self.wait_off()

    def cut_power(self) -> None:
        """End everything in it at once."""
        if self._process is not None:
            kill(self._process)
            self._gone()

    def reboot(self) -> None:
        """Switch it off in good order and on again."""
        self.power_off()
        self.boot()

    def close(self) -> None:
        """Switch it off and remove what it wrote; harmless when that was done."""
        self.cut_power()
        remove_places(self._places)
        if self._folder.exists():
            _remove(self._folder)
            os.close(self._lock)

    # In it

    def run(
        self,
        script: str,
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"",
        timeout: float = 60.0,
        check: bool = True,
    ) -> Done:
        """Run a shell script in it as a user with a login's few variables; ``check`` demands exit code 0."""
        done = subprocess.run(
            self._argv(script, user, env or {}, timeout),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=timeout + 15,
            check=False,
        )
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        if done.returncode == 124:
            raise AssertionError(f"on {self.name}, after {timeout:.0f} s: {script}\n{out}{err}")
        if check and done.returncode != 0:
            raise AssertionError(f"on {self.name}, exit code {done.returncode}: {script}\n{out}{err}")
        return Done(script, done.returncode, out, err)

    def start(self, script: str, *, user: str = "root", timeout: float = 120.0) -> subprocess.Popen[str]:
        """Start a shell script in it and return at once; both streams can be read as one."""
        return subprocess.Popen(
            self._argv(script, user, {}, timeout),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=die_with_parent,
        )

    def path(self, name: str) -> Path:
        """Return where one of its files is for us, while it runs; not for ways through absolute links."""
        return Path(f"/proc/{self.leader}/root") / name.lstrip("/")

    def put(self, name: str, content: str | bytes, *, mode: str = "0644", owner: str = "root:root") -> None:
        """Write a file in it."""
        user, group = owner.split(":")
        self.run(f"install -D -m {mode} -o {user} -g {group} /dev/stdin {shlex.quote(name)}", stdin=content)

    def copy_in(self, source: Path, name: str) -> None:
        """Copy a file of ours into it."""
        with source.open("rb") as stream, self.path(name).open("wb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)

    def _argv(self, script: str, user: str, env: Mapping[str, str], timeout: float) -> list[str]:
        assert self.running, f"{self.name} is switched off:\n{self._console()}"
        home = "/root" if user == "root" else "/"
        variables = {"PATH": _PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8", **env}
        argv = ["nsenter", f"--target={self.leader}", "--all", "--", "env", "--ignore-environment"]
        argv += [f"{name}={value}" for name, value in variables.items()]
        argv += ["timeout", "--kill-after=5", str(timeout)]
        if user != "root":
            argv += ["runuser", "-u", user, "--"]
        return [*argv, "bash", "-c", f"cd {home}; {script}"]

    def _enter(self) -> None:
        die_with_parent()
        enter(self._places)

    # On the disk

    def _prepare(self) -> bool:
        """Make the root folder; tells whether it is to be mounted in layers."""
        self._root.mkdir()
        for name in ("upper", "work"):
            (self._folder / name).mkdir()
        mount = [*ALONE, *_OVERLAY, self._options(), str(self._root)]
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            return True
        self._root.rmdir()
        subprocess.run(["cp", "--archive", "--reflink=auto", str(self._image), str(self._root)], check=True)
        return False

    def _options(self) -> str:
        return f"lowerdir={self._image},upperdir={self._folder}/upper,workdir={self._folder}/work"

    def _ended(self) -> int:
        if not self.running:
            raise AssertionError(f"{self.name} did not boot:\n{self._console()}")
        return 0

    def _console(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:] if self.log.exists() else ""

    def _gone(self) -> None:
        """Wait until the last process in it is gone; its root is unmounted then."""
        leader, self.leader = self.leader, 0
        if leader:
            wait_for(lambda: not Path(f"/proc/{leader}").exists(), f"the end of {self.name}", 20)


def sweep() -> None:
    """Remove what containers of dead processes left on the disk."""
    for folder in RUNS.iterdir() if RUNS.is_dir() else ():
        with contextlib.suppress(OSError):
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_places(make_places(folder.name))
                _remove(folder)
            finally:
                os.close(fd)


def _remove(folder: Path) -> None:
    """Remove a folder, which may have no holes left in it by a kernel that is still unmounting."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
