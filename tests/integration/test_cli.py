"""`backupctl` as an operator uses it: a process of its own, talking to a real control socket with made-up answers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import BackupdError, NotFoundError
from tests.servers.canned_backupd import (
    BACKUP,
    LIVE,
    NOW,
    RUN,
    SLICE,
    SWAP,
    UPLOAD_FAULT,
    CannedDaemon,
    canned_daemon,
    job,
    protection,
    run,
    status,
)

_PATIENCE = 20.0
OTHER = "nanumpay-backup-2026-11-19T17-00-00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Say where the control socket is."""
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(path: Path) -> Iterator[CannedDaemon]:
    """Serve the made-up answers of a healthy daemon."""
    with canned_daemon(path) as server:
        yield server


def environment(path: Path, **more: str) -> dict[str, str]:
    """Make an environment in which nothing but what a test says decides about the output."""
    ours = {"NANUMPAY_BACKUPD_SOCKET": str(path), "TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "BACKUPCTL_DEBUG"}}
    return kept | ours | more


def backupctl(path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal."""
    command = [sys.executable, "-m", "nanumpay_backupd.cli", *words]
    return subprocess.run(
        command,
        env=environment(path, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )


class Terminal:
    """A command in a pseudo-terminal, to type at and to read from."""

    program = "nanumpay_backupd.cli"

    def __init__(self, path: Path, *words: str, **more: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", self.program, *words]
        self.process = subprocess.Popen(
            command,
            env=environment(path, **more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # Its own terminal: what Ctrl-C reaches are all processes of the command.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text: str) -> None:
        """Read until a text has come."""
        deadline = time.monotonic() + _PATIENCE
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.text!r}"
            assert self._read(), f"{text!r} did not come before the end: {self.text!r}"

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.master, text.encode())

    def interrupt(self) -> int:
        """Press Ctrl-C until it is heard, and return the exit code: one that comes just before a read begins is not."""
        deadline = time.monotonic() + _PATIENCE
        open_still = True
        while open_still and self.process.poll() is None and time.monotonic() < deadline:
            self.process.send_signal(signal.SIGINT)
            pause = time.monotonic() + 2.0
            while open_still and self.process.poll() is None and time.monotonic() < pause:
                open_still = self._read()
        return self.end()

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + _PATIENCE
        while self._read() and time.monotonic() < deadline:
            pass
        return self.process.wait(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.mark.parametrize("health,code", [("ok", 0), ("warning", 0), ("failing", 8), ("empty", 0)])
def test_status_tells_health_by_its_exit_code(path: Path, health: str, code: int) -> None:
    """A monitoring script needs only the exit code: 8 when the daemon is failing."""
    with canned_daemon(path, health):
        done = backupctl(path, "status")
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout.startswith("● ")
        assert backupctl(path, "status", "--json").returncode == code


@pytest.mark.parametrize(
    "words,method",
    [
        (("status",), "GetStatus"),
        (("jobs",), "ListJobs"),
        (("runs",), "ListRuns"),
        (("list",), "ListBackups"),
        (("show", "latest"), "DescribeBackup"),
        (("show", RUN), "DescribeRun"),
        (("ls", "latest"), "ListFiles"),
        (("settings",), "GetSettings"),
        (("doctor",), "Doctor"),
        (("test", "app"), "TestDestination"),
        (("reload",), "Reload"),
        (("rebuild",), "RebuildCatalog"),
        (("cancel",), "Cancel"),
        (("wait", "--restores"), "ListJobs"),
        (("prune",), "Prune"),
        (("send", OTHER, "--to", "nas"), "Send"),
        (("sync",), "Sync"),
        (("copies", "latest"), "ListCopies"),
        (("copy", OTHER, "nas"), "CopyBackup"),
        (("prune", "--at", "in 30 days", "--assume-schedule"), "Prune"),
        (("pin", OTHER), "Pin"),
        (("unpin", OTHER), "Unpin"),
        (("delete", OTHER, "--yes"), "Delete"),
        (("restore", "latest", "--dry-run"), "Restore"),
        (("restore", "latest", "--at", "04:30:10", "--dry-run"), "Restore"),
        (("timeline",), "Timeline"),
        (("verify",), "Verify"),
        (("drill", "--no-wait"), "Drill"),
        (("list", "--slices"), "ListBackups"),
        (("show", SLICE), "DescribeBackup"),
        (("swaps",), "ListSwaps"),
        (("swaps", "undo", SWAP, "--yes"), "UndoSwap"),
        (("swaps", "drop", SWAP, "--yes"), "DropSwap"),
        (("run", "--no-wait"), "Run"),
        (("run",), "Run"),
    ],
)
def test_json_is_what_the_daemon_answered(
    daemon: CannedDaemon, path: Path, words: tuple[str, ...], method: str
) -> None:
    """With --json exactly one document comes out, indented by two; without it, text that is not JSON."""
    done = backupctl(path, *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    reply = json.loads(done.stdout)
    assert done.stdout == json.dumps(reply, indent=2, ensure_ascii=False) + "\n"
    assert method in [name for name, _ in daemon.calls]
    human = backupctl(path, *words)
    assert (human.returncode, human.stderr) == (0, "")
    assert human.stdout.strip()
    assert not human.stdout.startswith("{")


def test_a_restore_is_planned_asked_about_and_followed(daemon: CannedDaemon, path: Path) -> None:
    """The plan is shown; what was shown is what is ordered; without consent nothing is."""
    assert backupctl(path, "restore", "latest").returncode == 7
    assert backupctl(path, "restore", "latest", "--json").returncode == 7
    assert daemon.calls == []
    words = ("restore", "latest", "--collection", "users", "--from", "nas", "--no-safety-backup")
    done = backupctl(path, *words, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "12,345 documents" in done.stdout
    assert "no safety backup is made" in done.stdout
    wanted = {"collection": "users", "source": "nas", "safety": False}
    asked = [params for name, params in daemon.calls if name == "Restore"]
    assert asked == [{"backup": "latest", "dry_run": True, **wanted}, {"backup": BACKUP, **wanted}]
    for answer, code in (("n\n", 7), ("nanumpay\n", 7), ("y\n", 0)):
        with Terminal(path, "restore", "latest", "--to-db", "other") as terminal:
            terminal.wait_for("Restore it? [y/N]")
            terminal.type(answer)
            assert terminal.end() == code


def ordered(daemon: CannedDaemon) -> list[dict[str, object]]:
    """Return what restores were asked for, plans included, and forget it."""
    asked = [params for name, params in daemon.calls if name == "Restore"]
    daemon.calls.clear()
    return asked


def test_a_restore_to_a_moment_is_told_in_words(daemon: CannedDaemon, path: Path) -> None:
    """The plan says from which full, with how many slices, as of when in both zones, and until when it could be."""
    done = backupctl(path, "restore", "latest", "--at", "04:30:10", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"restore    the full {BACKUP}, copy: local",
        "replays    the changes after it, from 3 slices, up to that moment",
        "as of      2026-11-21 04:30:10 KST (2026-11-20 19:30:10 UTC), 30 min ago",
        "latest     recoverable until 2026-11-21 04:59:48 KST, 12 s ago",
        "brings     12,345 documents, 1.12 GB before the replay: admins, users, weeklypaymentplans",
        "into       database nanumpay at localhost:27017",
        "there now  12,001 documents in 3 collections; collections of the same name are replaced",
        "before     a safety backup of what is there is made",
        "! not in the backup, stays as it is: drafts",
        "",
        "Nothing was done.",
    ]
    assert ordered(daemon) == [{"backup": "latest", "at": "2026-11-20T19:30:10Z", "dry_run": True}]


def test_what_was_shown_of_a_moment_is_what_is_ordered(daemon: CannedDaemon, path: Path) -> None:
    """The full and the moment of the plan are ordered, and no place is forced on the slices; a slice stays a slice."""
    assert backupctl(path, "restore", "latest", "--at", "latest", "--job", "nanumpay", "--yes").returncode == 0
    wanted = {"job": "nanumpay"}
    assert ordered(daemon) == [
        {"backup": "latest", "at": "latest", "dry_run": True, **wanted},
        {"backup": BACKUP, "at": "2026-11-20T20:00:00Z", **wanted},
    ]
    assert backupctl(path, "restore", OTHER, "--at", "1795204800:4", "--from", "app", "--yes").returncode == 0
    shown = {"backup": OTHER, "at": "1795204800:4", "source": "app"}
    assert ordered(daemon) == [{**shown, "dry_run": True}, shown]
    plan = json.loads(backupctl(path, "restore", "latest", "--at", "04:30", "--dry-run", "--json").stdout)["plan"]
    daemon.replies["Restore"] = {"plan": plan, "run": run(action="restore")}
    daemon.calls.clear()
    assert backupctl(path, "restore", SLICE, "--yes").returncode == 0
    assert ordered(daemon) == [{"backup": SLICE, "dry_run": True}, {"backup": SLICE}]


def test_a_swap_is_asked_about_by_name(daemon: CannedDaemon, path: Path) -> None:
    """What is kept and what changes places is said; the question names the database, and only its name agrees."""
    for answer, code in (("y\n", 7), ("nanumpay\n", 0)):
        with Terminal(path, "restore", "latest", "--at", "5m ago", "--swap") as terminal:
            terminal.wait_for(
                "This puts another state in the place of nanumpay. To go on, type the name of the database:"
            )
            terminal.type(answer)
            assert terminal.end() == code
    assert "happens    restored beside that and checked; then the two change places" in terminal.text
    assert "before     " not in terminal.text
    assert "12,345 documents restored into nanumpay; nanumpay was there before" in terminal.text
    assert ordered(daemon)[-1] == {"backup": BACKUP, "at": "2026-11-20T19:55:00Z", "swap": True}
    with Terminal(path, "restore", "latest", "--at", "5m ago", "--to-db", "other") as terminal:
        terminal.wait_for("Restore it into database other? [y/N]")
        terminal.type("n\n")
        assert terminal.end() == 7


def test_a_doubled_hour_is_remarked_on_before_the_plan(daemon: CannedDaemon, path: Path) -> None:
    """Which of two moments is meant is said where a person reads it, and JSON stays JSON."""
    daemon.replies["GetStatus"] = status(timezone="Europe/Berlin", now="2026-10-25T20:00:00Z")
    words = ("restore", "latest", "--at", "2026-10-25 02:30", "--dry-run")
    done = backupctl(path, *words)
    assert done.stdout.startswith(
        "! The clocks showed 02:30:00 twice on 2026-10-25: the first is meant (CEST, 00:30:00 UTC)"
    )
    assert "\nas of      2026-10-25 02:30:00 CEST (00:30:00 UTC)" in done.stdout
    assert json.loads(backupctl(path, *words, "--json").stdout)["plan"]["moment"] == "2026-10-25T00:30:00Z"


def test_a_moment_is_not_guessed_at(daemon: CannedDaemon, path: Path) -> None:
    """When the daemon does not tell its zone, no time is read in another one."""
    daemon.replies["GetStatus"] = BackupdError("not now")
    done = backupctl(path, "restore", "latest", "--at", "04:30", "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert ordered(daemon) == []


def test_a_plan_without_a_timeline(daemon: CannedDaemon, path: Path) -> None:
    """That the newest moment cannot be told is no reason not to restore an older one."""
    daemon.replies["Timeline"] = BackupdError("not now")
    done = backupctl(path, "restore", "latest", "--at", "04:30", "--dry-run")
    assert done.returncode == 0
    assert "latest  " not in done.stdout


def test_a_swap_is_named_asked_about_and_changed(daemon: CannedDaemon, path: Path) -> None:
    """What is kept is shown before it is changed or deleted; without consent, or without its name, nothing is done."""
    for words, code in (
        (("drop", SWAP), 7),
        (("undo", SWAP), 7),
        (("undo",), 2),
        (("redo", "--yes"), 2),
        (("eat",), 2),
    ):
        assert backupctl(path, "swaps", *words).returncode == code
    assert daemon.calls == []
    listed = backupctl(path, "swaps", COLUMNS="160").stdout
    assert SWAP in listed
    assert "12,001 documents" in listed
    assert "what was restored" in listed
    for words, question, answer, code in (
        (("drop", SWAP), "Delete what was there before, for good? [y/N]", "n\n", 7),
        (("drop", SWAP), "Delete what was there before, for good? [y/N]", "y\n", 0),
        (("undo", SWAP), "Make what was there before the restore live in nanumpay?", "y\n", 0),
        (("redo", SWAP), "Make what was restored live in nanumpay?", "y\n", 0),
    ):
        with Terminal(path, "swaps", *words) as terminal:
            terminal.wait_for(question)
            assert "it keeps 3 collections, 12,001 documents" in terminal.text
            terminal.type(answer)
            assert terminal.end() == code, terminal.text
    asked = [(name, params) for name, params in daemon.calls if name in {"UndoSwap", "DropSwap"}]
    undo, redo = ("UndoSwap", {"swap": SWAP}), ("UndoSwap", {"swap": SWAP, "redo": True})
    assert asked == [("DropSwap", {"swap": SWAP}), undo, redo]
    with Terminal(path, "swaps", "drop", "2020-01-01T00-00-00") as terminal:
        assert terminal.end() == 6
    daemon.replies["ListSwaps"] = {"swaps": [], "problems": [UPLOAD_FAULT]}
    done = backupctl(path, "swaps")
    assert (done.returncode, done.stdout) == (1, "No restore keeps anything.\n")
    assert UPLOAD_FAULT["message"] in done.stderr


def test_parameters_reach_the_daemon(daemon: CannedDaemon, path: Path) -> None:
    """What is typed is what is asked; what is not typed is left out."""
    for words in (
        ("runs", "nanumpay", "-n", "3"),
        ("list", "-n", "2"),
        ("prune", "nanumpay", "--apply", "--yes"),
        ("prune", "--at", "2027-03-01 02:00"),
        ("prune", "nanumpay", "--at", "2027-03-01", "--assume-schedule"),
        ("pin", OTHER, "--reason", "before the move"),
        ("pin", "latest"),
        ("unpin", OTHER, "--all"),
        ("delete", "latest", "--from", "nas", "--force", "--yes"),
        ("run", "shop", "--force", "--no-wait"),
        ("run", "--kind", "incremental", "--no-wait"),
        ("run", "shop", "--only-db", "--only-to", "nas, app", "--only-to", "local", "--no-wait"),
        ("send", "latest", "--to", "nas"),
        ("sync", "app", "--job", "nanumpay"),
        ("copies", OTHER),
        ("copy", OTHER, "nas", "--from", "app", "--move", "--no-wait"),
        ("runs", "--slices"),
        ("list", "nanumpay", "--slices"),
        ("timeline", "nanumpay"),
        ("ls", "latest", "/srv/app/public"),
        ("ls", BACKUP, "--recursive"),
        ("verify", "latest", "--job", "nanumpay", "--level", "structure", "--from", "nas", "--no-wait"),
        ("drill", "nanumpay", "--backup", OTHER, "--from", "nas", "--no-wait"),
        ("cancel", "r9"),
        ("test", "app"),
    ):
        assert backupctl(path, *words).returncode == 0
    asked = [call for call in daemon.calls if call[0] not in {"GetStatus", "DescribeBackup"}]
    assert asked == [
        ("ListRuns", {"job": "nanumpay", "limit": 3}),
        ("ListBackups", {"limit": 2}),
        ("Prune", {"job": "nanumpay", "apply": True, "together": True}),
        ("Prune", {"at": "2027-02-28T17:00:00Z", "together": True}),
        ("Prune", {"job": "nanumpay", "at": "2027-02-28T15:00:00Z", "assume_schedule": True, "together": True}),
        ("Pin", {"backup": OTHER, "reason": "before the move"}),
        ("Pin", {"backup": "latest"}),
        ("Unpin", {"backup": OTHER, "all": True}),
        ("Delete", {"backup": BACKUP, "destination": "nas", "force": True}),
        ("Run", {"job": "shop", "force": True}),
        ("Run", {"kind": "incremental"}),
        ("Run", {"job": "shop", "holds": "database", "only_to": ["nas", "app", "local"]}),
        ("Send", {"backup": "latest", "destination": "nas"}),
        ("Sync", {"destination": "app", "job": "nanumpay"}),
        ("ListCopies", {"backup": OTHER}),
        ("CopyBackup", {"backup": OTHER, "destination": "nas", "source": "app", "move": True}),
        ("ListRuns", {"slices": True}),
        ("ListBackups", {"job": "nanumpay", "slices": True}),
        ("Timeline", {"job": "nanumpay"}),
        ("ListFiles", {"backup": "latest", "path": "/srv/app/public"}),
        ("ListFiles", {"backup": BACKUP, "recursive": True}),
        ("ListFiles", {"backup": BACKUP, "recursive": True, "skip": 3}),
        ("Verify", {"backup": "latest", "job": "nanumpay", "level": "structure", "source": "nas"}),
        ("Drill", {"job": "nanumpay", "backup": OTHER, "source": "nas"}),
        ("Cancel", {"run": "r9"}),
        ("TestDestination", {"destination": "app"}),
    ]


@pytest.mark.parametrize(
    "words,code,error",
    [
        (("list", "nope"), 6, ["there is no job 'nope'", "  → the jobs are: nanumpay", "  (code not-found)"]),
        (
            ("show", "nope"),
            6,
            ["there is no backup and no run with the id 'nope'", "  → ids are in", "  (code not-found)"],
        ),
        (
            ("delete", "nope", "--yes"),
            6,
            ["there is no backup 'nope'", "  → see: backupctl list", "  (code not-found)"],
        ),
        (("delete", "latest", "--yes"), 7, [f"{BACKUP} is the newest", "  → add --force", "  (code refused)"]),
        (("timeline", "nope"), 6, ["there is no job 'nope'", "  → the jobs are: nanumpay", "  (code not-found)"]),
        (("verify", "--job", "busy"), 5, ["a verification of job busy", "  → watch it", "  (code busy)"]),
        (
            ("restore", "latest", "--at", "soon", "--yes"),
            2,
            ["'soon' is no time that is understood here", "  → for example: 10:30:59", "  (code usage)"],
        ),
        (
            ("restore", "latest", "--job", "shop", "--yes"),
            2,
            ["--job goes with --at", "  → see: backupctl list", "  (code usage)"],
        ),
        (("run", "busy"), 5, ["a run of job busy is going on already", "  → watch it", "  (code busy)"]),
        (("stauts",), 2, ["unknown command 'stauts'", "  → did you mean 'status'?", "  (code usage)"]),
        ((), 2, ["a command is missing", "  → try: backupctl status", "  (code usage)"]),
        (("--socket", "/nowhere/c.sock", "status"), 4, ["", "  → start it", "  (code daemon-unreachable)"]),
    ],
)
def test_faults_in_three_lines(
    daemon: CannedDaemon, path: Path, words: tuple[str, ...], code: int, error: list[str]
) -> None:
    """Every fault has its exit code, and on standard error a sentence, what to do, and its code; never a traceback."""
    done = backupctl(path, *words)
    assert (done.returncode, done.stdout) == (code, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(
        line.startswith(start) for line, start in zip(lines, [f"backupctl: {error[0]}", *error[1:]], strict=True)
    )


@pytest.mark.parametrize("words", [("delete", OTHER), ("prune", "--apply"), ("delete", OTHER, "--json")])
def test_nothing_is_deleted_without_consent(daemon: CannedDaemon, path: Path, words: tuple[str, ...]) -> None:
    """Where nobody can be asked, deleting needs --yes: nothing is even asked of the daemon."""
    done = backupctl(path, *words)
    assert (done.returncode, done.stdout) == (7, "")
    assert "nobody can be asked" in done.stderr
    assert "add --yes" in done.stderr
    assert daemon.calls == []


@pytest.mark.parametrize(
    "words,answer,code,method",
    [
        (("delete", "latest", "--force"), "y\n", 0, "Delete"),
        (("delete", "latest", "--force"), f"{BACKUP}\n", 0, "Delete"),
        (("delete", "latest", "--force"), "latest\n", 7, ""),
        (("delete", "latest", "--force"), "\n", 7, ""),
        (("delete", "latest", "--force"), "\x04", 7, ""),
        (("prune", "--apply"), "yes\n", 0, "Prune"),
        (("prune", "--apply"), "n\n", 7, ""),
    ],
)
def test_a_question_on_the_terminal(
    daemon: CannedDaemon, path: Path, words: tuple[str, ...], answer: str, code: int, method: str
) -> None:
    """On a terminal it is asked first, naming what would go; only a clear yes deletes anything."""
    with Terminal(path, *words) as terminal:
        terminal.wait_for("[y/N] ")
        assert "for good?" in terminal.text
        terminal.type(answer)
        assert terminal.end() == code
    deleting = [call for call in daemon.calls if call[0] == "Delete" or call[1].get("apply")]
    assert [name for name, _ in deleting] == ([method] if method else [])
    assert ("Nothing was deleted." in terminal.text) is (code == 7)


def test_ctrl_c_at_the_question_deletes_nothing(daemon: CannedDaemon, path: Path) -> None:
    """Ctrl-C is a no, with the exit code of an interruption and no traceback."""
    with Terminal(path, "delete", OTHER) as terminal:
        terminal.wait_for("[y/N] ")
        assert terminal.interrupt() == 130
        assert "Traceback" not in terminal.text
    assert "Delete" not in [name for name, _ in daemon.calls]


def test_a_look_ahead_says_what_will_be(daemon: CannedDaemon, path: Path) -> None:
    """What is assumed is marked; what will be there and what will be gone is summed up; nothing can be applied."""
    done = backupctl(path, "prune", "--at", "2027-03-01", "--assume-schedule")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nanumpay-backup-2027-01-01T17-00-00 (assumed)  app    keep" in done.stdout
    assert "By 2027-03-01 00:00 KST, with the backups that are scheduled until then: 2 copies (321 MB) are there." in (
        done.stdout
    )
    assert "Of what is there now, 2 copies (321 MB) will be gone." in done.stdout
    assert "--apply" not in done.stdout
    alone = backupctl(path, "prune", "--at", "2027-03-01").stdout
    assert "On 2027-03-01 00:00 KST, if nothing is made or deleted before: 2 copies (321 MB) to be deleted" in alone


def test_what_is_locked_and_what_cannot_fit_is_told(daemon: CannedDaemon, path: Path) -> None:
    """With and without --apply: until when, and that nothing has to be done; notes of the daemon are shown."""
    until = {"locked_until": "2026-12-24T05:00:00Z"}
    line = {"backup": OTHER, "destination": "app", "action": "locked", "reason": "locked there", "size": 10**9}
    daemon.replies["Prune"] = {"lines": [line | until, line], "applied": True, "notes": ["at app, 2.00 GB stay"]}
    for words in (("prune",), ("prune", "--apply", "--yes")):
        shown = backupctl(path, *words).stdout
        assert (
            "Locked at their place: 2 copies (2.00 GB); the first until 2026-12-24 14:00 KST, and deleted after"
            in shown
        )
        assert "at app, 2.00 GB stay" in shown


def test_a_pin_of_the_daemon_stays_and_is_told(daemon: CannedDaemon, path: Path) -> None:
    """Who lets go of his own pin hears why the backup is still kept, and how to insist."""
    assert f"backupctl unpin {OTHER}" in backupctl(path, "pin", OTHER).stdout
    kept = backupctl(path, "unpin", OTHER).stdout
    assert f"{OTHER} stays pinned by the daemon" in kept
    assert "is corrupt; this is the next older good one" in kept
    assert f"backupctl unpin {OTHER} --all" in kept
    assert backupctl(path, "unpin", OTHER, "--all").stdout == f"{OTHER} is not pinned (any more).\n"


def test_nothing_to_prune_is_not_asked_about(path: Path) -> None:
    """When retention deletes nothing, --apply says so and asks nothing."""
    with canned_daemon(path, "empty") as daemon:
        with Terminal(path, "prune", "--apply") as terminal:
            assert terminal.end() == 0
        assert "Nothing is to be deleted." in terminal.text
        assert daemon.calls == [("Prune", {"together": True})]


@pytest.mark.parametrize(
    "job,code,last",
    [
        ("nanumpay", 0, "Copies: local✓ app✓ nas✓"),
        ("shop", 3, f"Details: backupctl show {RUN}   log: backupctl logs {RUN}"),
        ("broken", 1, f"Details: backupctl show {RUN}   log: backupctl logs {RUN}"),
        ("late", 5, "Skipped: nothing was done."),
    ],
)
def test_a_run_and_its_outcome(daemon: CannedDaemon, path: Path, job: str, code: int, last: str) -> None:
    """The exit code of a run is its outcome, and the last line is what matters then."""
    done = backupctl(path, "run", job)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == last
    assert backupctl(path, "run", job, "--json").returncode == code


def test_the_summary_of_a_run(daemon: CannedDaemon, path: Path) -> None:
    """A run ends with a sentence that names the artifact, its size and where its copies are."""
    done = backupctl(path, "run")
    assert f"\nSucceeded after 5.0 s: {BACKUP}.tar.gz (160 MB, 12,345 documents, verified)\nCopies: " in done.stdout
    assert "! admins 1 and 2 carry different settings\n" in done.stdout
    failed = backupctl(path, "run", "broken")
    assert "Failed after 5.0 s; no backup was made.\n" in failed.stdout
    assert failed.stderr.splitlines() == [
        "backupctl: mongodump ended with exit code 1: auth failed",
        "  → check the user's rights: backupctl doctor",
        "  (code tool-failed)",
    ]
    degraded = backupctl(path, "run", "shop")
    assert "The backup on this host is good." in degraded.stdout
    assert UPLOAD_FAULT["message"] in degraded.stderr


def test_a_slice_that_was_made_and_one_that_was_not(daemon: CannedDaemon, path: Path) -> None:
    """A slice is told by its entries, and that nothing was new is a success and no missing backup."""
    made = backupctl(path, "run", "--kind", "incremental")
    assert f"\nSucceeded after 0.2 s: {SLICE}.bson.zst (12.3 kB, 12 oplog entries, verified)\n" in made.stdout
    idle = backupctl(path, "run", "idle", "--kind", "differential")
    assert (made.returncode, idle.returncode) == (0, 0)
    assert idle.stdout.splitlines()[-1] == "Succeeded after 0.2 s: nothing new up to 2026-11-20 19:59:06 UTC."


@pytest.mark.parametrize(
    "words,code,last",
    [
        (
            ("verify",),
            0,
            "Succeeded after 58 s: the copies of job nanumpay were read back and found good (14 copies, 2.25 GB read",
        ),
        (("verify", OTHER), 0, f"Succeeded after 58 s: {OTHER} was read back and found good (14 copies"),
        (("drill",), 0, "The restore took 41 s; RTO 1h: kept."),
        (("verify", "--level", "restore"), 0, "The restore took 41 s; RTO 1h: kept."),
        (("verify", "--job", "shop"), 3, "Degraded after 58 s: not all of the copies of job shop could be proven."),
        (("drill", "shop"), 3, f"Degraded after 58 s: not all of {BACKUP} could be proven."),
        (("verify", "--job", "broken"), 1, "Failed after 58 s: the copies of job broken were not proven."),
        (("drill", "broken"), 1, f"Failed after 58 s: {BACKUP} was not proven."),
    ],
)
def test_a_proof_and_its_outcome(
    daemon: CannedDaemon, path: Path, words: tuple[str, ...], code: int, last: str
) -> None:
    """A verification and a drill end with a sentence and the exit code of their outcome, and promise no more."""
    done = backupctl(path, *words)
    assert done.returncode == code
    summary = [line for line in done.stdout.splitlines() if not line.startswith("Details: ")][-1]
    assert summary.startswith(last)
    assert ("a new full is made by itself" in done.stderr) is (code == 1)
    assert "The backup on this host is good" not in done.stdout
    assert backupctl(path, *words, "--json").returncode == code


def test_a_drill_whose_time_is_not_known(daemon: CannedDaemon, path: Path) -> None:
    """A drill that passed is told as such also where its time cannot be asked for any more."""
    daemon.replies["ListJobs"] = BackupdError("not now")
    done = backupctl(path, "drill")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith(f"Succeeded after 58 s: {BACKUP} was restored into a scratch place")


def test_slices_are_hidden_until_they_are_asked_for(daemon: CannedDaemon, path: Path) -> None:
    """A listing says how many slices it leaves out and how to see them; with --slices they are there."""
    plain = backupctl(path, "list").stdout.splitlines()
    assert plain[-1] == "143 slices are not shown (backupctl list --slices; backupctl timeline)"
    assert "slice-" not in "".join(plain[:-1])
    named = backupctl(path, "list", "nanumpay").stdout.splitlines()
    assert named[-1] == "143 slices are not shown (backupctl list nanumpay --slices; backupctl timeline nanumpay)"
    shown = backupctl(path, "list", "--slices").stdout
    assert SLICE in shown
    assert "not shown" not in shown
    daemon.replies["ListBackups"] = {"backups": [], "hidden_slices": 1}
    assert backupctl(path, "list").stdout.splitlines()[1:] == [
        "1 slice is not shown (backupctl list --slices; backupctl timeline)"
    ]


def test_a_timeline_in_a_pipe_and_on_a_terminal(daemon: CannedDaemon, path: Path) -> None:
    """The drawing is as wide as the terminal and 80 columns in a pipe; what it says does not need colours."""
    piped = backupctl(path, "timeline").stdout.splitlines()
    assert len(piped[3]) == 2 + 76
    with Terminal(path, "timeline", COLUMNS="60", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    shown = terminal.text.splitlines()
    assert len(shown[3]) == 2 + 56
    assert [line for line in shown if "every second (" in line] == [line for line in piped if "every second (" in line]
    with Terminal(path, "timeline") as terminal:
        terminal.end()
    assert "\x1b[33m! 2026-11-20 00:00:00 … 2026-11-20 02:00:00  gap of 2 h" in terminal.text


def test_the_commands_of_a_slice_need_its_whole_job(daemon: CannedDaemon, path: Path) -> None:
    """For a slice the job's other backups are asked for, because it is restored together with them."""
    done = backupctl(path, "show", SLICE)
    assert f"  tar -xzf {BACKUP}.tar.gz\n  zstd -dc slices/nanumpay-slice-2026-11-20T17-59-07.bson.zst " in done.stdout
    assert ("ListBackups", {"job": "nanumpay", "slices": True}) in daemon.calls
    daemon.calls.clear()
    assert backupctl(path, "show", BACKUP).returncode == 0
    assert "ListBackups" not in [name for name, _ in daemon.calls]


def test_ctrl_c_leaves_the_run_alone(daemon: CannedDaemon, path: Path) -> None:
    """Ctrl-C only stops watching: it says that the run goes on, and how to follow or stop it."""
    with Terminal(path, "run", "forever") as terminal:
        terminal.wait_for("preflight")
        assert terminal.interrupt() == 130
    assert f"No longer watching. Run {RUN} goes on in the daemon." in terminal.text
    for way in ("backupctl status --watch", f"backupctl logs -f {RUN}", f"backupctl cancel {RUN}"):
        assert way in terminal.text
    assert "Cancel" not in [name for name, _ in daemon.calls]


def test_a_cancelled_run(daemon: CannedDaemon, path: Path) -> None:
    """Somebody else's cancel ends the watching with the exit code of a cancelled run."""
    with Terminal(path, "run", "forever") as terminal:
        terminal.wait_for("preflight")
        assert backupctl(path, "cancel").stdout == f"Cancelled run {RUN} of job nanumpay.\n"
        assert terminal.end() == 130
    assert " after 5.0 s; no backup was made." in terminal.text


def test_the_daemon_goes_away_during_a_run(path: Path) -> None:
    """A run whose daemon ends is told as lost, with where to look later, as unreachable and not as failed."""
    with canned_daemon(path) as daemon:
        terminal = Terminal(path, "run", "forever")
        assert daemon.started.wait(_PATIENCE)
        terminal.wait_for("preflight")
    with terminal:
        terminal.wait_for("lost the daemon")
        assert terminal.end() == 4
    assert f"backupctl show {RUN}" in terminal.text.replace("\n", "")


def test_status_watch_on_a_terminal(daemon: CannedDaemon, path: Path) -> None:
    """The watched status shows what runs, ends with Ctrl-C, and puts the terminal back."""
    daemon.replies["GetStatus"] = status(jobs=[job(running=LIVE)])
    with Terminal(path, "status", "--watch") as terminal:
        terminal.wait_for(f"run {LIVE}: dump 412 MB, 4,000 documents, 480 MB/s")
        assert terminal.interrupt() == 130
    assert terminal.text.startswith("\x1b[?1049h")
    assert terminal.text.endswith("\x1b[?25h\x1b[?1049l")


def test_status_watch_outlives_the_daemon(path: Path) -> None:
    """A restart of the daemon does not end the watching."""
    with canned_daemon(path):
        terminal = Terminal(path, "status", "--watch")
        terminal.wait_for("All is well")
    with terminal:
        terminal.wait_for("does not answer; trying again")
        terminal.text = ""
        with canned_daemon(path, "warning"):
            terminal.wait_for("Working, with 1 thing")
            terminal.process.terminate()
            assert terminal.end() == 128 + signal.SIGTERM
    assert terminal.text.endswith("\x1b[?1049l")


def test_status_watch_in_a_pipe(daemon: CannedDaemon, path: Path) -> None:
    """Elsewhere a line of JSON comes for every change, and none without one."""
    command = [sys.executable, "-m", "nanumpay_backupd.cli", "status", "--watch", "--json"]
    with subprocess.Popen(command, env=environment(path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["health"] == "ok"
        later = {"age": 17.0, "recoverable_until": "2026-11-20T19:59:49Z", "next_slice": "2026-11-20T20:00:49Z"}
        moved = job(protection=protection(slices=144, **later))
        daemon.replies["GetStatus"] = status("ok", now="2026-11-20T20:00:05Z", jobs=[moved])
        time.sleep(1)
        daemon.replies["GetStatus"] = status("failing")
        assert json.loads(process.stdout.readline())["health"] == "failing"
        process.send_signal(signal.SIGINT)
        assert process.wait(_PATIENCE) == 130


def test_show_does_not_hide_other_faults(daemon: CannedDaemon, path: Path) -> None:
    """Only "not found" makes show look for a run of that name; another fault is told as it is."""
    daemon.replies["DescribeBackup"] = BackupdError("the catalog cannot be read", code="catalog-broken")
    done = backupctl(path, "show", RUN)
    assert done.returncode == 1
    assert done.stderr == "backupctl: the catalog cannot be read\n  (code catalog-broken)\n"


@pytest.mark.parametrize("outcome,text", [(None, "Asked run"), ("succeeded", "Nothing to stop")])
def test_cancel_says_what_became_of_the_run(daemon: CannedDaemon, path: Path, outcome: str | None, text: str) -> None:
    """A run that is still stopping, or had ended before, is not called cancelled."""
    daemon.replies["Cancel"] = {"run": run(outcome=outcome)}
    assert backupctl(path, "cancel").stdout.startswith(text)


def test_waiting_ends_when_nothing_runs_any_more(daemon: CannedDaemon, path: Path) -> None:
    """What is waited for is named once, and its end is the end of the waiting."""
    daemon.replies["ListJobs"] = {"jobs": [job(running=LIVE), job(name="shop", running=None)]}
    daemon.replies["DescribeRun"] = {"run": run(id=LIVE, ended=None, outcome=None, action="drill")}
    with Terminal(path, "wait") as terminal:
        terminal.wait_for(f"Waiting for run {LIVE} of job nanumpay (drill).")
        daemon.replies["ListJobs"] = {"jobs": [job(running=None)]}
        assert terminal.end() == 0
    assert terminal.text.count("Waiting") == 1
    assert "Nothing is running." in terminal.text


@pytest.mark.parametrize(
    "action,words,code",
    [
        ("restore", ("--timeout", "0s"), 5),
        ("restore", ("--timeout", "0s", "--restores"), 5),
        ("restore", ("--timeout", "1s", "--json"), 5),
        ("backup", ("--timeout", "0s"), 5),
        ("backup", ("--timeout", "0s", "--restores"), 0),
        ("unknown yet", ("--timeout", "0s"), 5),
        ("unknown yet", ("--restores",), 0),
    ],
)
def test_waiting_for_no_longer_than_said(
    daemon: CannedDaemon, path: Path, action: str, words: tuple[str, ...], code: int
) -> None:
    """After the time it is told what still runs; --restores leaves other runs out of account."""
    daemon.replies["ListJobs"] = {"jobs": [job(running=LIVE)]}
    daemon.replies["DescribeRun"] = {"run": run(id=LIVE, ended=None, outcome=None, action=action)}
    if action == "unknown yet":
        daemon.replies["DescribeRun"] = NotFoundError("there is no such run")
    done = backupctl(path, "wait", *words)
    assert done.returncode == code
    assert ("is still running" in done.stderr) is (code == 5)


@pytest.mark.parametrize("words,code", [(("doctor",), 0), (("test", "nas"), 8), (("test", "nope"), 6)])
def test_checks_fail_by_exit_code(daemon: CannedDaemon, path: Path, words: tuple[str, ...], code: int) -> None:
    """A failed check is exit code 8, a warning is not."""
    assert backupctl(path, *words).returncode == code


def test_empty_lists_say_what_to_do(path: Path) -> None:
    """A fresh installation gets a sentence instead of a table without lines."""
    with canned_daemon(path, "empty") as daemon:
        daemon.replies["ListRuns"] = {"runs": []}
        assert backupctl(path, "list").stdout == "No backups yet. Make one: backupctl run\n"
        assert backupctl(path, "runs").stdout == "No runs yet. Start one: backupctl run\n"
        assert backupctl(path, "jobs").stdout.startswith("No job is configured yet")


def test_times_without_the_daemons_zone(daemon: CannedDaemon, path: Path) -> None:
    """When the daemon does not tell its zone, this host's is used, and the listing is shown all the same."""
    daemon.replies["GetStatus"] = BackupdError("not now")
    done = backupctl(path, "list", TZ="America/Sao_Paulo")
    assert done.returncode == 0
    assert "2026-11-20 14:00 UTC-03:00" in done.stdout


def test_a_reader_that_leaves(daemon: CannedDaemon, path: Path) -> None:
    """`backupctl list | head` ends quietly."""
    names = [f"nanumpay-backup-{index:05d}" for index in range(3000)]
    listed = backupctl(path, "list", "--json", "-n", "1")
    one = json.loads(listed.stdout)["backups"][0]
    daemon.replies["ListBackups"] = {"backups": [one | {"id": name} for name in names], "hidden_slices": 0}
    command = f"{sys.executable} -m nanumpay_backupd.cli list | head -n 2"
    done = subprocess.run(["bash", "-c", command], env=environment(path), capture_output=True, text=True)
    assert done.stdout.count("\n") == 2
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "euc_kr", "latin-1"])
def test_other_encodings(daemon: CannedDaemon, path: Path, encoding: str) -> None:
    """On a terminal of another encoding the output is readable, and nothing crashes on a Korean name."""
    listed = subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd.cli", "list"],
        env=environment(path, PYTHONIOENCODING=encoding),
        capture_output=True,
    )
    assert "local=ok app=ok nas=pending" in listed.stdout.decode(encoding)
    settings = subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd.cli", "settings"],
        env=environment(path, PYTHONIOENCODING=encoding),
        capture_output=True,
    )
    assert settings.returncode == 0
    assert ("bucket: 나눔-backup" if encoding == "euc_kr" else "bucket: ??-backup") in settings.stdout.decode(encoding)


def test_remote_texts_cannot_play_with_the_terminal(daemon: CannedDaemon, path: Path) -> None:
    """A banner of a remote server with control sequences comes out as harmless text, in JSON as escapes."""
    evil = "\x1b]0;owned\x07\x1b[2J\x9b2J\nbackupctl: all is well"
    daemon.replies["Reload"] = {"message": evil}
    done = backupctl(path, "reload")
    assert done.stdout.count("\n") == 1
    assert not set(done.stdout) & set("\x1b\x07\x9b")
    quoted = backupctl(path, "reload", "--json")
    assert not set(quoted.stdout) & set("\x1b\x07\x9b")
    assert json.loads(quoted.stdout) == {"message": evil}
    daemon.replies["Reload"] = BackupdError(evil, hint=evil)
    refused = backupctl(path, "reload")
    assert len(refused.stderr.splitlines()) == 3
    assert not set(refused.stderr) & set("\x1b\x07\x9b")


def test_files_are_listed_page_by_page(daemon: CannedDaemon, path: Path) -> None:
    """Modes, owners, sizes and links stand in columns; a name cannot play with the terminal."""
    done = backupctl(path, "ls", "latest", "/srv/app/public", "--recursive")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("-rw-r--r--  www-data:nanumpay          0  ")
    assert lines[1].endswith("  /srv/app/public/1\\x1b[2J -> there\\x1b[31m")
    assert lines[5].startswith("drwxr-x---  www-data:nanumpay  2,469,134  ")
    assert lines[5].endswith("/5\\x1b[2J/")


def test_colours_when_asked_for(daemon: CannedDaemon, path: Path) -> None:
    """--color always colours even a pipe; a pipe alone, NO_COLOR and --color never do not."""
    assert "\x1b[32m" in backupctl(path, "status", "--color", "always").stdout
    assert "\x1b" not in backupctl(path, "status").stdout
    with Terminal(path, "status") as terminal:
        terminal.end()
        assert "\x1b[32m●" in terminal.text
    with Terminal(path, "status", NO_COLOR="1") as terminal:
        terminal.end()
        assert "\x1b" not in terminal.text


def test_the_log_is_journalctls(daemon: CannedDaemon, path: Path, tmp_path: Path) -> None:
    """`logs` becomes journalctl for the unit, with the run as a match; where there is none it says where to look."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "journalctl").write_text('#!/bin/sh\necho "$@"\n')
    (tools / "journalctl").chmod(0o755)
    with_journal = {"PATH": f"{tools}:{os.environ['PATH']}"}
    for words, expected in (
        ((), "-u nanumpay-backupd -n 50"),
        (("-f",), "-u nanumpay-backupd -n 50 -f"),
        (("r1",), "-u nanumpay-backupd RUN_ID=r1"),
        (("-f", "-n", "7", "r1", "--json"), "-u nanumpay-backupd -n 7 -f -o json RUN_ID=r1"),
    ):
        done = backupctl(path, "logs", *words, **with_journal)
        assert (done.returncode, done.stdout) == (0, expected + "\n")
    missing = backupctl(path, "logs", PATH=str(tmp_path))
    assert missing.returncode == 1
    assert "journalctl is not installed here" in missing.stderr
    assert "(code tool-missing)" in missing.stderr


def test_an_answer_of_another_version(daemon: CannedDaemon, path: Path) -> None:
    """A defect is one sentence with the way to its traceback, which is shown only then."""
    command = [
        sys.executable,
        "-c",
        "import sys; from nanumpay_backupd.cli import app; app._command = None; sys.exit(app.run(['jobs']))",
    ]
    done = subprocess.run(command, env=environment(path), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("backupctl: unexpected TypeError")
    assert "Traceback" not in done.stderr
    debug = subprocess.run(command, env=environment(path, BACKUPCTL_DEBUG="1"), capture_output=True, text=True)
    assert "Traceback" in debug.stderr


def test_version_needs_no_daemon(path: Path) -> None:
    """The version and the help come without a daemon."""
    assert backupctl(path, "--version").stdout == f"backupctl {__version__}\n"
    assert backupctl(path, "run", "--help").returncode == 0


def test_little_is_imported_for_a_status(daemon: CannedDaemon, path: Path) -> None:
    """A status is asked for often, so it loads neither asyncio nor anything that is not in the standard library."""
    command = (
        "import sys; from nanumpay_backupd.cli import main; main(['status']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", command], env=environment(path), capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "nanumpay_backupd.cli.details" in loaded
    heavy = {"asyncio", "dataclasses", "inspect", "shutil", "subprocess", "logging", "difflib", "unicodedata", "ssl"}
    assert not loaded & (heavy | {"msgspec", "structlog", "pymongo", "boto3", "croniter"})
    assert f"{NOW:%Y}" in done.stdout


def test_monitor_says_what_is_wrong_and_ends_so(path: Path) -> None:
    """8 and each failure with its hint when a check failed; 0 and next to nothing when all is well."""
    with canned_daemon(path, "failing"):
        done = backupctl(path, "monitor")
        assert (done.returncode, done.stderr) == (8, "")
        assert done.stdout.startswith(
            "● 2 checks failed, 1 warning   looked just now\n✗ FAILED nanumpay: nanumpay-backup-"
        )
        assert "✗ FAILED nanumpay, nas: connecting failed at FTP server nas:21\n  → is it up?\n" in done.stdout
        assert backupctl(path, "monitor", "--json").returncode == 8
    with canned_daemon(path):
        done = backupctl(path, "monitor", "nanumpay", "--last")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("● All is well   looked 3 h ago\n\nJOB ")
        assert len(done.stdout.splitlines()) == 6
        accepted = backupctl(path, "monitor", "--accept", OTHER)
        assert accepted.returncode == 0
        assert accepted.stdout.startswith(f"Accepted: from {OTHER} on, that is what is usual.\n")


def test_notify_shows_who_is_told_and_what_was_told(path: Path, daemon: CannedDaemon) -> None:
    """Each channel with what it is told and how it is doing; each notice with to whom it went."""
    done = backupctl(path, "notify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ops-mail            apprise    warnings, errors, report" in done.stdout
    assert "team                apprise    failed of nanumpay" in done.stdout
    assert "everything" in done.stdout
    assert "when a backup begins and ends" in done.stdout
    assert "team: messages that wait: 1" in done.stdout
    assert "✗ team: Slack did not answer within 15 s\n  → is the service up" in done.stdout
    lines = done.stdout.partition("\n\n")[2].splitlines()
    assert [line.split()[6] for line in lines[1:]] == ["failed", "succeeded", "failed", "failed"]
    assert "failed (another cause)  nanumpay  ops-mail✓ team…waiting  MongoDB at localhost" in lines[1]
    assert "nobody" in lines[2]
    assert "failed ended" in lines[3]
    assert backupctl(path, "notify", "-n", "1").stdout.count("nanumpay  ops-mail") == 1
    assert json.loads(backupctl(path, "notify", "--json").stdout)["channels"][0]["name"] == "ops-mail"


def test_notify_test_says_what_each_answered(path: Path, daemon: CannedDaemon) -> None:
    """8 when one did not arrive, with what to do; 0 when the one that was named did."""
    done = backupctl(path, "notify", "test")
    assert (done.returncode, done.stderr) == (8, "")
    assert done.stdout == (
        "✓ ops-mail: E-Mail took it (0.4 s)\n"
        "✗ team: Slack: Failed to send Slack notification: Invalid token., error=403. (0.2 s)\n"
        "  → check the address of this channel: login, token, recipient\n"
    )
    assert backupctl(path, "notify", "test", "ops-mail").returncode == 0
    unknown = backupctl(path, "notify", "test", "ops")
    assert unknown.returncode == 6
    assert "ops-mail, team" in unknown.stderr
    meant = backupctl(path, "notify", "tset")
    assert meant.returncode == 2
    assert "tset" in meant.stderr


def test_notify_without_channels_says_how_to_get_one(path: Path) -> None:
    """Whoever has none learns where they are set up."""
    with canned_daemon(path, "empty"):
        done = backupctl(path, "notify")
        tried = backupctl(path, "notify", "test")
    assert "[channel.NAME]" in done.stdout
    assert done.returncode == 0
    assert tried.stdout.splitlines() == done.stdout.splitlines()[:1]
    assert tried.returncode == 6, "a test that nobody was sent is no success"


def test_report_is_shown_or_written(path: Path, daemon: CannedDaemon, tmp_path: Path) -> None:
    """As text, as a page into a file, in a language; a folder that is not there is a sentence."""
    assert backupctl(path, "report").stdout == "Backup report of 7 days in en\nAll is well\n"
    assert "30 days in ko" in backupctl(path, "report", "--days", "30", "--language", "ko").stdout
    page = tmp_path / "report.html"
    done = backupctl(path, "report", "--html", str(page))
    assert (done.stdout, done.returncode) == (f"Written: {page}\n", 0)
    assert "백업 보고서" in page.read_text(encoding="utf-8")
    refused = backupctl(path, "report", "--html", str(tmp_path / "none" / "report.html"))
    assert refused.returncode == 1
    assert "cannot be written: No such file or directory" in refused.stderr


def test_a_run_can_be_kept_from_being_told(path: Path, daemon: CannedDaemon) -> None:
    """The option arrives at the daemon."""
    backupctl(path, "run", "--disable-notifications", "--no-wait")
    assert ("Run", {"disable_notifications": True}) in daemon.calls


def test_what_a_destination_lacks_and_where_copies_are(daemon: CannedDaemon, path: Path) -> None:
    """A line for each place, a table of copies with what is known of each, and the end of a copy in a sentence."""
    done = backupctl(path, "sync", "nas")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        1,
        "Queued 1 backup for nas (job nanumpay), 161 MB; 2 others waited already.",
    )
    assert f"no file is left that could be sent of {SLICE} for nas" in done.stderr
    assert backupctl(path, "sync").returncode == 0
    title, head, here, there, gone = backupctl(path, "copies", "latest").stdout.splitlines()
    assert (title, head.split()[0]) == (BACKUP, "PLACE")
    assert ("read back and walked" in here, " no " in here) == (True, True)
    assert ("checksum" in there, " yes " in there, there.endswith("openpgp (89ABCDEF)")) == (True, True, True)
    assert ("not configured" in gone, gone.endswith("-")) == (True, True)
    made = backupctl(path, "copy", OTHER, "nas")
    assert (made.returncode, made.stdout.splitlines()[-1]) == (
        0,
        f"Succeeded after 9.0 s: {BACKUP}.tar.gz is at nas, and was read back.",
    )
    failed = backupctl(path, "copy", OTHER, "old")
    assert failed.returncode == 1
    assert "nothing was deleted" in failed.stdout
    assert "old is full" in failed.stderr
