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
from nanumpay_backupd.sources.redis_keys import FUNCTIONS, Keys, keys_in
from nanumpay_backupd.sources.redis_link import Link, Refusal, command, fault_of

__all__ = ["KeysRestore", "Plan", "wanted_keys"]

_OK: Final = b"+OK\r\n"
_FOR_EVER: Final = b"%b%%d\r\n%%b\r\n$1\r\n0\r\n$%%d\r\n%%b\r\n%b"
_UNTIL: Final = b"%b%%d\r\n%%b\r\n$%%d\r\n%%d\r\n$%%d\r\n%%b\r\n%b"
_REPLACING: Final = (b"*6\r\n$7\r\nRESTORE\r\n$", b"$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n")
_SKIPPING: Final = (b"*5\r\n$7\r\nRESTORE\r\n$", b"$6\r\nABSTTL\r\n")


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


def wanted_keys(files: list[Path], plan: Plan) -> Iterator[Keys | bytes]:
    """Yield the wanted keys with the database and names that they get, then functions as RESTORE takes them."""
    numbers = plan.numbers
    for path in files:
        if path.name == FUNCTIONS:
            yield path.read_bytes().split(b"\r\n", 6)[6].rpartition(b"\r\n$7\r\nREPLACE\r\n")[0]
            continue
        for keys in keys_in(path):
            if isinstance(keys, bytes):
                if not plan.narrow and not plan.patterns:
                    yield keys
            elif keys.database in numbers and (found := _named(keys, plan)).names:
                found.database = numbers[keys.database]
                if plan.prefix:
                    found.names = [plan.prefix + name for name in found.names]
                yield found


def _named(keys: Keys, plan: Plan) -> Keys:
    """Return those whose names are wanted."""
    patterns = plan.patterns.get(f"db{keys.database}")
    if patterns is None:
        return keys
    names = [name.decode("utf-8", "surrogateescape") for name in keys.names]
    return keys.at([at for at, name in enumerate(names) if any(fnmatchcase(name, pattern) for pattern in patterns)])


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
        begin, end = _SKIPPING if plan.existing == "skip" else _REPLACING
        for_ever, until = _FOR_EVER % (begin, end), _UNTIL % (begin, end)
        functions, sent = b"", Keys(-1)
        for keys in wanted_keys(self._files, plan):
            if isinstance(keys, bytes):
                functions = keys
                continue
            pieces = [command("SELECT", keys.database)]
            pieces += [
                until % (len(name), name, len(str(expiry)), expiry, len(payload), payload)
                if expiry
                else for_ever % (len(name), name, len(payload), payload)
                for name, expiry, payload in zip(keys.names, keys.expiries, keys.payloads, strict=True)
            ]
            link.send(b"".join(pieces))
            self._answers(sent)
            sent = keys
        self._answers(sent)
        if functions:
            self._functions(functions)

    def _answers(self, keys: Keys) -> None:
        """Read the answers to a batch: OK for the database, and mostly for each key."""
        if not keys.names:
            return
        count, readline = len(keys.names), self._link.file.readline
        # No answer is shorter than OK: so much there is to read in any case.
        answers = self._link.exactly(len(_OK) * (count + 1))
        if answers == _OK * (count + 1):
            self._count += count
            return
        lines = answers.splitlines(keepends=True)
        if not lines[-1].endswith(b"\r\n"):
            lines[-1] += readline()
        lines += [readline() for _ in range(count + 1 - len(lines))]
        for name, answer in zip([None, *keys.names], lines, strict=True):
            if answer == _OK:
                self._count += name is not None
            elif answer.startswith(b"-BUSYKEY"):
                self._skipped += 1
            elif not answer.endswith(b"\r\n"):
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
