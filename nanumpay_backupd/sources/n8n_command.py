"""n8n's own program: credentials out and in, its version, and the fingerprint of the key that they are encrypted with.

It connects to n8n's database by itself, and brings the tables there to its own version: so it has to be of the version
of the n8n that is running. Where it finds no database it makes one: so the folder is looked at first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.errors import BackupdError, CancelledError, ConfigError, SourceError, ToolError
from nanumpay_backupd.settings.sources import N8nCredentials, N8nSource
from nanumpay_backupd.sources.json_items import parse
from nanumpay_backupd.system.process import Child, run_bytes, secret_file
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["N8nCommand", "fingerprint", "opened_by"]

_PATIENCE: Final = 600.0
_VERSION_SECONDS: Final = 60.0
_LIMIT: Final = 64 << 20
_PIECE: Final = 1 << 16
_SAID: Final = 300
_KEY: Final = "N8N_ENCRYPTION_KEY"
_NONE: Final = "No credentials found"
_IMPORTED: Final = re.compile(r"Successfully imported (\d+) credential")
_VERSION: Final = re.compile(r"^(\d+\.\d+\.\d+\S*)\s*$", re.MULTILINE)
_LINE: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_HINT: Final = "check command, user_folder and environment_file of the job (docs/sources/n8n.md)"
_QUIET: Final = {
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_RUNNERS_ENABLED": "false",
    "N8N_LOG_OUTPUT": "console",
    "N8N_LOG_LEVEL": "info",
}
_SALT: Final = b"nanumpay-backupd: the key of n8n"
_TRIED: Final = 50


class N8nCommand:
    """The program as the job runs it. `kill` may be called from any thread, and ends what runs."""

    def __init__(self, settings: N8nSource) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._killed = False

    def version(self) -> str:
        """Return its version; raises ToolError where it cannot be run."""
        done = run_bytes([*self._settings.command, "--version"], extra=self._extra(), timeout=_VERSION_SECONDS)
        found = _VERSION.findall((done.stdout + done.stderr).decode("utf-8", "replace"))
        if done.code != 0 or not found:
            raise ToolError(f"{self._name} does not tell its version (exit code {done.code}): {done.said}", hint=_HINT)
        return str(found[-1])

    def fit(self, running: str) -> str:
        """Return its version, which has to be ``running`` (empty: not known); raises ToolError, SourceError."""
        self._look()
        found = self.version()
        if running and found != running:
            raise ToolError(
                f"the program of command is n8n {found}, the n8n that runs is {running}: it would change the database "
                "to its own version",
                hint="name in command the program of that n8n (docs/sources/n8n.md), or leave credentials out",
            )
        return found

    def _look(self) -> None:
        """See that there is an n8n where it would look for one, as far as this host can tell; raises SourceError."""
        folder = self._folder()
        if folder is not None and self._settings.user_folder and not (folder / "config").exists():
            why = "is not there, or may not be read" if not folder.is_dir() else "holds no config of n8n"
            raise SourceError(
                f"{folder} {why}: the program n8n would begin a new one there",
                hint=_HINT,
                code="source-empty",
                retryable=False,
            )

    def export(self) -> list[dict[str, Any]]:
        """Return all credentials as n8n exports them; raises ToolError, SourceError, CancelledError."""
        arguments = ["export:credentials", "--all"]
        if self._settings.credentials == N8nCredentials.DECRYPTED:
            arguments.append("--decrypted")
        for way in (["--output=/dev/stdout"], []):
            # What is written to that file is there at any level of its log; some may not open it (sudo).
            code, output, said = self._run([*arguments, *way])
            found = _credentials(output)
            if found is not None:
                return found
            if _NONE in said or _NONE in output.decode("utf-8", "replace"):
                return []
            if code < 0:
                break
        raise self._failed("export credentials", code, said or output.decode("utf-8", "replace"))

    def bring_in(self, file: Path, count: int) -> None:
        """Import a file of credentials: those with the same id are replaced; raises ToolError, CancelledError."""
        with file.open("rb") as stream:
            code, output, said = self._run(["import:credentials", "--input=/dev/stdin"], stdin=stream.fileno())
        text = output.decode("utf-8", "replace") + said
        done = _IMPORTED.search(text)
        if code != 0 or done is None or int(done[1]) != count:
            raise self._failed("import credentials", code, text)

    def kill(self) -> None:
        """End it, with all that it started."""
        with self._lock:
            self._killed = True
            child = self._child
        if child is not None:
            child.kill()

    def key(self) -> Secret | None:
        """Return n8n's encryption key: of the settings, of the environment file, of the folder; None: it is not found.

        Raises ConfigError where a file is there that cannot be read.
        """
        if self._settings.encryption_key:
            return self._settings.encryption_key
        variables = self._variables()
        if variables.get(_KEY):
            return Secret(variables[_KEY])
        with contextlib.suppress(OSError):
            if named := variables.get(f"{_KEY}_FILE"):
                return Secret(Path(named).read_text(encoding="utf-8").strip())
        folder = self._folder()
        with contextlib.suppress(OSError, ValueError):
            said = parse((folder / "config").read_bytes()) if folder is not None else None
            if isinstance(said, dict) and isinstance(said.get("encryptionKey"), str):
                return Secret(said["encryptionKey"])
        return None

    @property
    def _name(self) -> str:
        return shlex.join(self._settings.command)

    def _folder(self) -> Path | None:
        """Return the folder ``.n8n`` of this host, None: nobody knows it."""
        home = self._settings.user_folder or self._variables().get("N8N_USER_FOLDER") or ""
        if not home and len(self._settings.command) == 1:
            home = os.environ.get("HOME", "")  # in a container or as somebody else it is another one
        return Path(home) / ".n8n" if home else None

    def _variables(self) -> dict[str, str]:
        """Read the environment file, as systemd does: NAME=VALUE a line, in quotes or not; raises ConfigError."""
        file = self._settings.environment_file
        if not file:
            return {}
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or "it is not UTF-8"
            raise ConfigError(
                f"environment_file {file} cannot be read: {why}", hint="look at who may read it, and at its path"
            ) from None
        found = {}
        for line in text.splitlines():
            if (match := _LINE.fullmatch(line)) is not None:
                value = match[2].strip()
                quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
                found[match[1]] = value[1:-1] if quoted else value
        return found

    def _extra(self) -> dict[str, str]:
        variables = {**_QUIET, **self._variables()}
        # Some log only faults; then nothing would be said of what was done.
        variables |= {name: _QUIET[name] for name in ("N8N_LOG_OUTPUT", "N8N_LOG_LEVEL")}
        if self._settings.user_folder:
            variables["N8N_USER_FOLDER"] = self._settings.user_folder
        return variables

    def _run(self, arguments: list[str], stdin: int | None = None) -> tuple[int, bytes, str]:
        """Run it and return its exit code, what it wrote, and the last lines of what it said besides."""
        with contextlib.ExitStack() as stack:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            pipe = stack.enter_context(os.fdopen(reading, "rb", buffering=0))
            try:
                with self._lock:
                    if self._killed:
                        raise CancelledError("n8n's program was stopped")
                    argv = [*self._settings.command, *arguments]
                    given = stdin if stdin is not None else stack.enter_context(Path(os.devnull).open("rb")).fileno()
                    child = self._child = Child(argv, stdout=writing, extra=self._extra(), group=True, stdin=given)
            finally:
                os.close(writing)
            stack.callback(child.kill)
            watch = threading.Timer(_PATIENCE, child.kill)
            stack.callback(watch.cancel)
            watch.start()
            output = bytearray()
            while piece := pipe.read(_PIECE):
                output += piece
                if len(output) > _LIMIT:
                    raise ToolError(f"{self._name} writes more than {_LIMIT >> 20} MiB", hint=_HINT)
            code = child.wait() or 0
        if self._killed:
            raise CancelledError("n8n's program was stopped")
        return code, bytes(output), child.tail

    def _failed(self, what: str, code: int, said: str) -> BackupdError:
        if code < 0:
            return ToolError(
                f"{self._name} was killed by signal {-code}",
                hint="look for the kernel's OOM killer: journalctl -k | grep -i oom; nothing was published",
                code="tool-killed",
                retryable=True,
            )
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        text = redact("; ".join(lines[-3:]))[-_SAID:] or "it said nothing"
        return ToolError(f"{self._name} did not {what} (exit code {code}): {text}", hint=_HINT)


def fingerprint(key: Secret) -> str:
    """Return what tells a key from others, from which it cannot be guessed at a bearable price: it may be a word."""
    made = hashlib.scrypt(key.reveal().encode("utf-8", "surrogateescape"), salt=_SALT, n=1 << 14, r=8, p=1, dklen=10)
    return f"scrypt:{made.hex()}"


def opened_by(key: Secret, credentials: list[dict[str, Any]]) -> list[str] | None:
    """Name the credentials that this key does not open, tried by openssl; None: that cannot be tried here.

    n8n encrypts as ``openssl enc -aes-256-cbc -md md5`` does. At most so many are tried as is done in a moment.
    """
    wrong = []
    for one in credentials[:_TRIED]:
        data = one.get("data")
        if not isinstance(data, str) or not data.startswith("U2FsdGVkX1"):  # "Salted__"
            return None
        with secret_file(f"{key.reveal()}\n") as fd:
            argv = ["openssl", "enc", "-d", "-aes-256-cbc", "-md", "md5", "-base64", "-A", "-pass", f"fd:{fd}"]
            try:
                os.lseek(fd, 0, os.SEEK_SET)
                done = run_bytes(argv, given=data.encode(), pass_fds=(fd,))
            except ToolError:
                return None
        try:
            good = done.code == 0 and isinstance(json.loads(done.stdout), dict)
        except ValueError:
            good = False
        if not good:
            wrong.append(str(one.get("name")))
    return wrong


def _credentials(output: bytes) -> list[dict[str, Any]] | None:
    """Find the list of credentials in what n8n wrote, between lines of its log; None: there is none."""
    text = output.decode("utf-8", "replace")
    for match in re.finditer(r"\[\s*[{\]]", text):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.JSONDecoder().raw_decode(text, match.start())[0]
            if all(_is_credential(item) for item in found):
                return list(found)
    return None


def _is_credential(item: Any) -> bool:
    return isinstance(item, Mapping) and {"id", "name", "type", "data"} <= item.keys()
