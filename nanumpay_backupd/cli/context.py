"""What every command works with: its arguments, the daemon, the terminal. No command lives here."""

from __future__ import annotations

import json
import sys

from nanumpay_backupd.cli.terminal import Screen
from nanumpay_backupd.cli.words import Times
from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import BackupdError, RefusedError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["PATIENT", "Context", "complain", "run_name"]

PATIENT = 600.0
"""Seconds to wait for methods that work at remote places or read all backups; the others answer in 30 s or never."""

# JSON leaves these as they are, and a terminal might obey them.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F))}


class Context:
    """One command line being carried out."""

    def __init__(self, args: argparse.Namespace, screen: Screen) -> None:
        self.args = args
        self.screen = screen
        self._clients: dict[float, Client] = {}

    def ask(self, method: str, params: Reply | None = None, *, timeout: float = 30.0) -> Reply:
        """Call a method of the daemon; arguments that are None or False are left out. ``timeout`` in seconds."""
        return self._client(timeout).call(method, _given(params))

    def stream(self, method: str, params: Reply | None = None) -> Iterator[Reply]:
        """Call a method of the daemon that replies more than once."""
        return self._client(30.0).stream(method, _given(params))

    def _client(self, timeout: float) -> Client:
        if timeout not in self._clients:
            self._clients[timeout] = Client(self.args.socket, timeout=timeout)
        return self._clients[timeout]

    def times(self) -> Times:
        """Show times in the daemon's zone and by its clock; by this host's where it does not tell."""
        try:
            status = self.ask("GetStatus")
        except BackupdError:
            return Times()
        return Times(status["timezone"], status["now"])

    def json(self, reply: Reply) -> bool:
        """Print a reply as JSON if that was asked for, and say whether it was."""
        if self.args.json:
            self.dump(reply, indent=2)
        return bool(self.args.json)

    def dump(self, reply: Reply, indent: int | None = None) -> None:
        """Print JSON, safe for a terminal and readable wherever the encoding allows."""
        text = json.dumps(reply, indent=indent, ensure_ascii=not self.screen.unicode)
        self.screen.stream.write(text.translate(_CONTROLS) + "\n")

    def confirm(self, question: str, *answers: str) -> bool:
        """Ask on the terminal; any of ``answers``, ``y`` or ``yes`` agrees.

        Raises RefusedError where nobody can be asked: a script has to say --yes.
        """
        self.must_be_asked()
        answer = self.typed(f"{question} [y/N]")
        return answer.lower() in {"y", "yes"} or answer in answers

    def typed(self, question: str) -> str:
        """Ask on the terminal and return the answer; `must_be_asked` was called before."""
        self.screen.raw(f"{question} ")
        try:
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            self.screen.line()
            raise
        if not answer:
            self.screen.line()  # Ctrl-D leaves the cursor behind the question
        return answer.strip()

    def must_be_asked(
        self,
        what: str = "removes backups for good",
        hint: str = "look first at what would go (backupctl list, backupctl prune), then add --yes",
    ) -> None:
        """Raise RefusedError when nobody is there to answer a question, or when only JSON is to be printed."""
        if self.args.json or not sys.stdin.isatty() or not self.screen.tty:
            raise RefusedError(
                f"{self.args.command} {what}, and nobody can be asked here whether that is meant",
                hint=hint,
            )


def _given(params: Reply | None) -> Reply:
    # False is the default of every switch but that of the safety backup.
    return {
        name: value
        for name, value in (params or {}).items()
        if value is not None and (value is not False or name == "safety")
    }


def run_name(run: Reply) -> str:
    """Name a run: ``run ID of job NAME``, or of a group."""
    whose = "group" if run.get("action") in {"group", "group-restore"} else "job"
    return f"run {run['id']} of {whose} {run['job']}"


def complain(sentence: str, hint: str, code: str, color: str = "auto") -> None:
    """Write a fault to standard error: what happened, what to do about it, its code."""
    sys.stdout.flush()
    screen = Screen(sys.stderr, color)
    screen.line(f"{screen.paint('backupctl:', 'red')} {sentence}")
    if hint:
        screen.line(f"  {screen.mark('hint')} {hint}")
    screen.line(screen.paint(f"  (code {code})", "dim"))
    screen.stream.flush()
