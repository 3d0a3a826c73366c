"""What is logged: journald's native protocol on a socket of our own, readable lines elsewhere, no secret in either."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from nanumpay_backupd.messages import Message
from nanumpay_backupd.system.journal import JOURNAL_SOCKET, configure, under_journald
from nanumpay_backupd.system.secrets import Secret
from tests.servers.tools import PROJECT

Entry = dict[str, bytes]
MARKER = "Passwort-zum-Wiedererkennen"
_ALL_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journald:
    """The receiving end as systemd-journald is: datagrams, and sealed memory files for what does not fit into one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)
        self.by_file = 0

    def entry(self) -> Entry:
        """Return the next entry's fields."""
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        if fds:
            assert not data
            # journald refuses a memory file that its sender could still change.
            assert fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) == _ALL_SEALS
            self.by_file += 1
            with os.fdopen(fds[0], "rb") as stream:
                stream.seek(0)
                data = stream.read()
        return parse(data)


def parse(data: bytes) -> Entry:
    """Read the native format (systemd.io/JOURNAL_NATIVE_PROTOCOL): KEY=value lines, or KEY, length, bytes."""
    fields: Entry = {}
    stream = io.BytesIO(data)
    while line := stream.readline():
        assert line.endswith(b"\n")
        name, equals, value = line[:-1].partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", stream.read(8))
            value = stream.read(length)
            assert len(value) == length
            assert stream.read(1) == b"\n"
        assert name.decode("ascii").replace("_", "").isalnum()
        assert name.isupper()
        assert not name.startswith(b"_")
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """A receiver, and logging set up to send there."""
    receiver = Journald(tmp_path / "socket")
    configure("debug", journald=True, socket_path=str(receiver.path))
    with receiver.socket:
        yield receiver


def log() -> Any:
    """Return a logger as the program's rooms have it."""
    return structlog.get_logger()


class TestNative:
    """Entries as journald takes them."""

    def test_fields(self, journald: Journald) -> None:
        """Run, job, stage and code are fields of their own; the rest stands in the message too, and nothing is None."""
        log().error("it failed", run="20261121-020000-ab12", job="nanumpay", stage="dump", code="no-space", hint=None)
        assert journald.entry() == {
            "PRIORITY": b"3",
            "SYSLOG_IDENTIFIER": b"nanumpay-backupd",
            "RUN_ID": b"20261121-020000-ab12",
            "JOB": b"nanumpay",
            "STAGE": b"dump",
            "ERROR_CODE": b"no-space",
            "MESSAGE": b"it failed",
        }
        log().warning("settings are in force", frequency="daily", count=7)
        assert journald.entry() == {
            "PRIORITY": b"4",
            "SYSLOG_IDENTIFIER": b"nanumpay-backupd",
            "NANUMPAY_FREQUENCY": b"daily",
            "NANUMPAY_COUNT": b"7",
            "MESSAGE": b"settings are in force frequency=daily count=7",
        }

    def test_main_events(self, journald: Journald) -> None:
        """A main event has its MESSAGE_ID, and all fields that the catalog names; the unknown is a dash."""
        log().error("run failed", message=Message.RUN_FAILED, run="r1", job="nanumpay", code=None)
        entry = journald.entry()
        assert entry["MESSAGE_ID"].decode() == Message.RUN_FAILED.id
        assert entry["MESSAGE"] == b"run failed"
        assert (entry["RUN_ID"], entry["JOB"], entry["ERROR_CODE"]) == (b"r1", b"nanumpay", b"-")
        log().info("run started", message=None)
        assert "MESSAGE_ID" not in journald.entry()

    @pytest.mark.parametrize("level, priority", [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3")])
    def test_priority(self, journald: Journald, level: str, priority: bytes) -> None:
        """Levels are syslog's priorities, so that journalctl -p finds them."""
        getattr(log(), level)("text")
        assert journald.entry()["PRIORITY"] == priority

    def test_several_lines(self, journald: Journald) -> None:
        """A value of several lines arrives whole, with its Korean, and does not smuggle in a field."""
        log().info("첫 줄\nPRIORITY=0\n", job="a\nb")
        entry = journald.entry()
        assert entry["MESSAGE"].decode() == "첫 줄\nPRIORITY=0\n"
        assert entry["JOB"] == b"a\nb"
        assert entry["PRIORITY"] == b"6"

    def test_traceback(self, journald: Journald) -> None:
        """A defect's traceback is part of the message, once."""
        try:
            raise ValueError("the reason")
        except ValueError:
            log().exception("broken", code="internal")
        entry = journald.entry()
        assert entry["MESSAGE"].startswith(b"broken\nTraceback (most recent call last)")
        assert entry["MESSAGE"].count(b"ValueError: the reason") == 1
        assert entry["ERROR_CODE"] == b"internal"

    def test_very_large(self, journald: Journald) -> None:
        """An entry that no datagram can hold arrives as a sealed memory file, and the next one as usual."""
        large = "가나다\n" * 400_000
        log().info(large, run="r1")
        entry = journald.entry()
        assert entry["MESSAGE"].decode() == large
        assert entry["RUN_ID"] == b"r1"
        assert journald.by_file == 1
        log().info("small")
        assert journald.entry()["MESSAGE"] == b"small"
        assert journald.by_file == 1

    def test_libraries_log_there_too(self, journald: Journald) -> None:
        """What a library warns of by the standard logging arrives as an entry."""
        logging.getLogger("some.library").warning("beware of %s", "this")
        assert journald.entry()["MESSAGE"] == b"beware of this logger=some.library"

    def test_secrets_are_masked(self, journald: Journald) -> None:
        """A secret is masked in every field, also inside of objects and tracebacks."""
        Secret(MARKER)
        try:
            raise ValueError(f"mongodb://u:{MARKER}@h/")
        except ValueError as error:
            log().exception(f"no {MARKER}", job=MARKER, reason=error, listed=[MARKER], uri="mongodb://u:other@h/")
        entry = journald.entry()
        assert MARKER.encode() not in b"".join(entry.values())
        assert b"other" not in b"".join(entry.values())
        assert entry["NANUMPAY_URI"] == b"mongodb://u:***@h/"

    def test_without_a_journal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Where the journal cannot be reached nothing is lost: a readable line goes to standard error."""
        configure("info", journald=True, socket_path=str(tmp_path / "nobody"))
        log().error("it failed", run="r1", where="here")
        assert capsys.readouterr().err == "it failed where=here\n"


class TestTerminal:
    """Lines for people."""

    def test_readable_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line has time, level, text and what is known; what is not known is not in it."""
        configure("info", journald=False)
        about = {"run": "r1", "job": "nanumpay", "stage": None, "code": None, "hint": None}
        log().info("run succeeded in 4.1 s", message=Message.RUN_SUCCEEDED, **about)
        line = capsys.readouterr().err
        assert line.endswith("] run succeeded in 4.1 s job=nanumpay run=r1\n")
        assert "[info" in line
        assert "None" not in line

    def test_level(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Less than the level is not logged, and the level can be changed while running."""
        configure("warning", journald=False)
        log().info("unseen")
        log().warning("seen")
        configure("debug", journald=False)
        log().debug("seen now")
        text = capsys.readouterr().err
        assert "unseen" not in text
        assert "seen" in text
        assert "seen now" in text

    def test_secrets_are_masked(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A secret is masked in text, in values, inside of objects and in tracebacks."""
        Secret(MARKER)
        configure("info", journald=False)
        try:
            raise ValueError(MARKER)
        except ValueError as error:
            log().exception(f"no {MARKER}", reason=error, listed=[MARKER], table={"key": MARKER})
        text = capsys.readouterr().err
        assert "***" in text
        assert "ValueError" in text
        assert MARKER not in text


class TestWhere:
    """Which of the two it is."""

    def _asked(self, stream: Callable[[int], str]) -> str:
        """Ask a process whose standard error is a pipe, with a JOURNAL_STREAM made from that pipe."""
        reading, writing = os.pipe()
        program = "from nanumpay_backupd.system.journal import under_journald; print(under_journald())"
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=writing,
            env={**os.environ, "JOURNAL_STREAM": stream(writing), "PYTHONPATH": str(PROJECT)},
            text=True,
            timeout=60,
        )
        os.close(reading)
        os.close(writing)
        return done.stdout.strip()

    def test_journal_is_recognised(self) -> None:
        """Only when JOURNAL_STREAM names our very standard error is it the journal's."""
        assert self._asked(lambda fd: f"{os.fstat(fd).st_dev}:{os.fstat(fd).st_ino}") == "True"
        assert self._asked(lambda fd: f"{os.fstat(fd).st_dev}:{os.fstat(fd).st_ino + 1}") == "False"
        assert not under_journald()

    def test_place(self) -> None:
        """The socket is where systemd has it."""
        assert JOURNAL_SOCKET == "/run/systemd/journal/socket"
