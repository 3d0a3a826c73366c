"""Brings keys back into a running server, by RESTORE; and the plan of what goes where. Compares nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, CancelledError, InternalError, SourceError, ToolError
from nanumpay_backupd.model import Part
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Restoring
from nanumpay_backupd.sources.redis_keys import FUNCTIONS, Key, keys_in
from nanumpay_backupd.sources.redis_link import Link, Refusal, command, fault_of

__all__ = ["KeysRestore", "Plan", "wanted_keys"]

_BATCH: Final = 1000
_BATCH_BYTES: Final = 1 << 20


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes where. ``folder``: a data folder, empty: the running server; ``database`` None: each where it was.

    ``patterns`` are, of the parts of which not all is wanted, those of the names. ``existing`` is empty, replace or
    skip. ``narrow``: less than all that the backup holds, or somewhere else.
    """

    parts: tuple[Part, ...]
    patterns: dict[str, tuple[str, ...]] = {}
    folder: str = ""
    database: int | None = None
    prefix: bytes = b""
    existing: str = "empty"
    narrow: bool = False

    def number(self, part: Part) -> int:
        """Return the number of the database into which a part goes."""
        return int(part.name.removeprefix("db")) if self.database is None else self.database

    @property
    def numbers(self) -> dict[int, int]:
        """Return that by the number in the backup."""
        return {int(part.name.removeprefix("db")): self.number(part) for part in self.parts}


def wanted_keys(files: list[Path], plan: Plan) -> Iterator[Key | bytes]:
    """Yield the wanted keys with the database and name that they get, then functions as RESTORE takes them."""
    numbers = plan.numbers
    for path in files:
        if path.name == FUNCTIONS:
            yield path.read_bytes().split(b"\r\n", 6)[6].rpartition(b"\r\n$7\r\nREPLACE\r\n")[0]
            continue
        for key in keys_in(path):
            if isinstance(key, bytes):
                if not plan.narrow and not plan.patterns:
                    yield key
                continue
            if key.database not in numbers:
                continue
            patterns = plan.patterns.get(f"db{key.database}")
            if patterns is not None:
                name = key.name.decode("utf-8", "surrogateescape")
                if not any(fnmatchcase(name, pattern) for pattern in patterns):
                    continue
            yield Key(numbers[key.database], plan.prefix + key.name, key.expiry, key.payload)


class KeysRestore(Restoring):
    """Keys on their way into a server, in batches: while it works on one, the next is made ready."""

    def __init__(self, settings: RedisSource, files: list[Path], plan: Plan) -> None:
        self._link = Link(settings)
        self._files = files
        self._plan = plan
        self._count = 0
        self._skipped = 0
        self._killed = False
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="redis-restore", daemon=True)
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._count

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return f"{self._skipped:,} keys were there and stayed" if self._skipped else ""

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        return self._ended.wait(timeout)

    def kill(self) -> None:
        """See `Restoring.kill`."""
        self._killed = True
        self._link.close()
        self._thread.join()

    def judge(self) -> int:
        """See `Restoring.judge`."""
        self._thread.join()
        if self._error is None:
            return self._count
        if isinstance(self._error, BackupdError):
            raise self._error
        raise InternalError(f"restoring Redis failed: {type(self._error).__name__}: {self._error}") from self._error

    def _run(self) -> None:
        try:
            with self._link.faults():
                self._restore()
        except BaseException as error:  # noqa: BLE001 - told by judge
            self._error = CancelledError("the restore was stopped") if self._killed else error
        finally:
            self._link.close()
            self._ended.set()

    def _restore(self) -> None:
        link, plan = self._link, self._plan
        if plan.existing == "empty":
            for number in sorted(set(plan.numbers.values())):
                link.ask("SELECT", number)
                link.ask("FLUSHDB", "ASYNC")
        database, functions = -1, b""
        batch: list[bytes] = []
        names: list[bytes | None] = []
        sent: list[bytes | None] = []
        size = 0
        end = b"$6\r\nABSTTL\r\n" if plan.existing == "skip" else b"$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"
        begin = b"*%d\r\n$7\r\nRESTORE\r\n$" % (5 if plan.existing == "skip" else 6)
        for key in wanted_keys(self._files, plan):
            if isinstance(key, bytes):
                functions = key
                continue
            if key.database != database:
                database = key.database
                batch.append(command("SELECT", database))
                names.append(None)
            when = b"%d" % key.expiry
            batch.append(
                b"%b%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
                % (begin, len(key.name), key.name, len(when), when, len(key.payload), key.payload, end)
            )
            names.append(key.name)
            size += len(key.payload)
            if len(names) >= _BATCH or size >= _BATCH_BYTES:
                link.send(b"".join(batch))
                self._answers(sent)
                sent, batch, names, size = names, [], [], 0
        link.send(b"".join(batch))
        self._answers(sent)
        self._answers(names)
        if functions:
            self._functions(functions)

    def _answers(self, names: list[bytes | None]) -> None:
        readline = self._link.file.readline
        for name in names:
            answer = readline()
            if answer == b"+OK\r\n":
                self._count += name is not None
            elif answer.startswith(b"-BUSYKEY"):
                self._skipped += 1
            elif not answer:
                raise EOFError
            else:
                raise self._refused(Refusal(answer[1:].strip().decode("utf-8", "replace")), name)

    def _functions(self, payload: bytes) -> None:
        try:
            self._link.ask("FUNCTION", "RESTORE", payload, *(["REPLACE"] if self._plan.existing != "skip" else []))
        except Refusal as refusal:
            if not (self._plan.existing == "skip" and "already exists" in refusal.text):
                raise self._refused(refusal, None) from None

    def _refused(self, refusal: Refusal, name: bytes | None) -> BackupdError:
        place = self._link.place
        what = f"the key {name.decode('utf-8', 'backslashreplace')[:100]!r}" if name is not None else "a database"
        if refusal.code == "OOM":
            return SourceError(
                f"Redis at {place.address} has no memory left for {what}: {refusal.text}",
                hint="raise its maxmemory, then restore again",
                retryable=False,
            )
        if refusal.code == "NOPERM":
            return fault_of(refusal, place)
        return ToolError(
            f"Redis at {place.address} did not take {what}: {refusal.text}",
            hint="is it of the backup's version or a newer one, and does it have the same modules?",
            code="restore-failed",
        )
