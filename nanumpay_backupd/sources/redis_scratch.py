"""A drill's own redis-server: in a folder of its own, reached by a socket only, gone with this process."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Comparison, Goal, Restoring, Scratch, Wanted
from nanumpay_backupd.sources.redis_aof_compare import compare_aof
from nanumpay_backupd.sources.redis_compare import compare_keys
from nanumpay_backupd.sources.redis_folder import FolderRestore
from nanumpay_backupd.sources.redis_link import Link, look_at, read_version
from nanumpay_backupd.sources.redis_target import RedisTarget, files_of, plan_of
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.process import Child, find_tool, run_text
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["ScratchRedis", "find_server"]

_INSTALL_HINT: Final = (
    "install redis-server on this host (it need not run), or set [tools] redis_server in backupd.toml"
)
_VERSION: Final = re.compile(r"v=(\d+\.\d+\.\d+)")
_NAP: Final = 0.02
_START_SECONDS: Final = 30.0
_LOAD_SECONDS: Final = 3600.0
_NUMBERS: Final = 16


class ScratchRedis(Scratch):
    """A server that loads the backup as a server of the user's would, or is given its keys."""

    def __init__(self, settings: RedisSource, folder: Path, manifest: Manifest) -> None:
        """Find the server; ``folder`` (not there yet) gets its data. Raises ToolError."""
        self._tool, version = find_server(settings, manifest.source.server_version)
        self._folder = folder
        self.manifest = manifest
        self._child: Child | None = None
        self.described = f"a redis-server {version} of its own"
        self._data = folder / "data"
        self._door: int | None = None
        self._target: RedisTarget | None = None
        self.settings = settings

    def start(self, check: Callable[[], None]) -> None:
        """See `Scratch.start`. A server that loads files is started once they are there."""
        self._data.mkdir(mode=0o700, parents=True)
        self._folder.chmod(0o700)
        self.run()
        while not self.answers():
            check()
            if self.gone:
                raise self.fault("could not be started")
            assert self._child is not None, "it was started"
            self._child.wait(_NAP)

    def run(self, *, load: bool = False) -> None:
        """Start the server; with ``load`` it loads what is in its folder."""
        if self._child is not None:
            self._child.kill()
        (self._folder / "redis.sock").unlink(missing_ok=True)
        if self._door is None:
            self._door = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # The folder's path may be longer than a socket's can be: the server names it from within its own folder, and
        # we by a descriptor of ours.
        url = f"unix:///proc/self/fd/{self._door}/redis.sock"
        self.settings = RedisSource(url=Secret(url), redis_server=self.settings.redis_server)
        argv = [
            str(self._tool),
            *("--port", "0"),
            *("--unixsocket", "../redis.sock", "--unixsocketperm", "600"),
            *("--dir", str(self._data), "--dbfilename", "dump.rdb"),
            *("--save", "", "--databases", str(self._databases())),
            *("--daemonize", "no", "--protected-mode", "no"),
            *(self._aof() if load else ("--appendonly", "no")),
        ]
        self._child = Child(argv, both=True)

    def _databases(self) -> int:
        numbers = [int(name[2:]) for name in self.manifest.source.databases if name[2:].isdecimal()]
        return max([_NUMBERS, *(number + 1 for number in numbers)])

    def _aof(self) -> tuple[str, ...]:
        if self.manifest.source.facts.get("mode") != RedisMode.AOF:
            return ("--appendonly", "no")
        manifest = Path(self.manifest.source.facts.get("manifest", ""))
        if not manifest.name:
            return ("--appendonly", "yes", "--aof-load-truncated", "no")
        return (
            *("--appendonly", "yes", "--aof-load-truncated", "no"),
            *("--appenddirname", str(manifest.parent), "--appendfilename", manifest.name.removesuffix(".manifest")),
        )

    def answers(self) -> bool:
        """Tell whether it takes commands, which it does not while it loads."""
        with contextlib.suppress(BackupdError), Link(self.settings) as link:
            look_at(link)
            return True
        return False

    @property
    def data(self) -> Path:
        """Return its data folder."""
        return self._data

    @property
    def gone(self) -> bool:
        """See `Scratch.gone`."""
        return self._child is None or not self._child.running

    def pause(self, timeout: float) -> None:
        """Wait for its end, up to so many seconds."""
        assert self._child is not None, "it was started"
        self._child.wait(timeout)

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        if self._child is None:
            return "it was not started"
        if self._child.running:
            return ""
        return f"it ended with code {self._child.wait()}{self._last_words()}"

    def fault(self, what: str) -> ToolError:
        """Return what to say when it ended."""
        return ToolError(
            f"the scratch redis-server {what}: {self.trouble() or 'it does not answer'}",
            hint=f"try it by hand: {self._tool} --version; is there room in {self._folder.parent}?",
            code="scratch-failed",
            retryable=True,
        )

    def stop(self) -> None:
        """See `Scratch.stop`."""
        if self._child is not None:
            self._child.kill()
        if self._door is not None:
            os.close(self._door)
            self._door = None
        remove_tree(self._folder)

    def target(self) -> RedisTarget:
        """See `Scratch.target`."""
        if self._target is None:
            logical = self.manifest.source.facts.get("mode") == RedisMode.LOGICAL
            self._target = RedisTarget(self.settings) if logical else _Loading(self)
        return self._target

    def _last_words(self) -> str:
        lines = [] if self._child is None else self._child.tail.splitlines()
        # Of severity warning, which its log marks with a number sign behind the time.
        told = [line.partition(" # ")[2] or line for line in lines if " # " in line or "FATAL" in line]
        return f" ({redact(told[-1])[:300]})" if told else ""


class _Loading(RedisTarget):
    """The scratch server as a target that loads the files of a backup when it starts."""

    def __init__(self, scratch: ScratchRedis) -> None:
        super().__init__(scratch.settings)
        self._scratch = scratch

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:  # noqa: ARG002
        """See `Target.look`: its folder is empty."""
        return Goal(server=self._scratch.described, place=str(self._scratch.data), parts=manifest.source.parts)

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        plan = plan_of(manifest, Wanted(to=str(self._scratch.data)))
        return _Load(self._scratch, FolderRestore(folder, manifest, plan))

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002
        """Compare the keys one by one; of an AOF those that no command can have changed."""
        settings, folder = self._scratch.settings, self._scratch.data
        if manifest.source.facts.get("mode") != RedisMode.SNAPSHOT:
            return compare_aof(settings, folder, manifest)
        plan = plan_of(manifest, Wanted())
        return compare_keys(settings, files_of(folder, manifest, plan), plan)


class _Load(Restoring):
    """A server that loads what was brought into its folder."""

    def __init__(self, scratch: ScratchRedis, files: FolderRestore) -> None:
        self._scratch = scratch
        self._files = files
        self._up = False
        # What it wrote while it was empty is no part of the backup; it is stopped before the files come.
        scratch.run(load=True)

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._files.documents if self._up else 0

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return ""

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        if not self._up and not self._scratch.gone and not self._scratch.answers():
            self._scratch.pause(timeout)
            return False
        self._up = True
        return True

    def kill(self) -> None:
        """See `Restoring.kill`; the server itself ends with its scratch."""

    def judge(self) -> int:
        """See `Restoring.judge`."""
        count = self._files.judge()
        if self._scratch.gone:
            raise ToolError(
                f"the scratch redis-server did not load the backup: {self._scratch.trouble()}",
                hint="another backup: backupctl list",
                code="restore-failed",
            )
        return count


def find_server(settings: RedisSource, oldest: str = "") -> tuple[Path, str]:
    """Find redis-server and return it with its version; raises ToolError (``tool-missing``, ``tool-too-old``)."""
    name = settings.redis_server
    tool = find_tool(name, hint=_INSTALL_HINT)
    match = _VERSION.search(run_text([str(tool), "--version"]))
    if match is None:
        raise ToolError(f"{tool} does not look like redis-server: it tells no version", hint=_INSTALL_HINT)
    if oldest and read_version(match[1]) < read_version(oldest):
        raise ToolError(
            f"{tool} is of version {match[1]}, but the backup is of a server of version {oldest}",
            hint="install a redis-server of that version or a newer one, and name it in [tools] redis_server",
            code="tool-too-old",
        )
    return tool, match[1]
