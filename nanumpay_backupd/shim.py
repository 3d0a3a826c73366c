"""`nanumpay-backup`: the old program's contract for the application's "run now", by way of the daemon or without it.

The application starts it without arguments, with MONGODB_URI, BACKUP_PATH and FORCE_BACKUP in the environment, waits at
most five minutes, and finds the file by the line ``✅ 압축 완료: NAME.tar.gz`` on standard output. Exit code 1 with
that line still counts as a backup (the upload failed). Its clean-up then deletes everything named
``nanumpay-backup-…`` that is not a ``.tar.gz``, so a run started here always compresses, whatever the settings say.
"""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nanumpay_backupd.control.client import Client, RemoteError
from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK, BackupdError, UnreachableError

if TYPE_CHECKING:
    from nanumpay_backupd.settings.schema import HostConfig

__all__ = ["main"]

_JOB: Final = "nanumpay"
_SOCKET: Final = "/run/nanumpay-backupd/control.sock"
_PAUSE: Final = 0.3
_WAITING: Final = "⏳ Another backup is running, waiting for it to end..."
_DISABLED: Final = "⏸️  Backup is disabled"


def main() -> int:
    """Make a backup as the old program did; returns 0, or 1 for any fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The application starts us without a locale; the line it looks for is Korean.
            stream.reconfigure(encoding="utf-8", line_buffering=True)
    if len(sys.argv) > 1:
        print(__doc__ if sys.argv[1] in ("-h", "--help") else "nanumpay-backup takes no arguments")
        return EXIT_OK if sys.argv[1] in ("-h", "--help") else EXIT_FAILED
    force = os.environ.get("FORCE_BACKUP", "").strip().lower() in ("true", "1", "yes")
    print("🚀 Nanumpay Backup starting...")
    try:
        code = _by_daemon(force=force)
        return _alone(force=force) if code is None else code
    except BackupdError as error:
        return _failed(error.message, error.hint)
    except KeyboardInterrupt:
        return _failed("interrupted", "")


def _by_daemon(*, force: bool) -> int | None:
    """Let the daemon do it; None when there is none, or when it keeps its backups in another folder."""
    path = os.environ.get("NANUMPAY_BACKUPD_SOCKET", _SOCKET)
    try:
        with Client(path) as client:
            status = client.call("GetStatus")
            wanted = os.environ.get("BACKUP_PATH")
            if wanted and os.path.realpath(wanted) != os.path.realpath(status["backups_path"]):
                return None
            if not any(job["name"] == _JOB for job in status["jobs"]):
                return None
            while True:
                try:
                    return _follow(client, force=force)
                except RemoteError as error:
                    if error.code == "job-disabled":
                        print(_DISABLED)
                        return EXIT_OK
                    if error.code != "busy":
                        raise
                    _wait_for_other(client)
    except UnreachableError:
        return None


def _follow(client: Client, *, force: bool) -> int:
    """Stream one run and tell it in the old program's words."""
    run: dict[str, Any] = {}
    artifact = None
    for reply in client.stream("Run", {"job": _JOB, "force": force, "compress": True}):
        event = reply.get("event") or {}
        run = event.get("run") or reply["run"]
        stage = event.get("stage") or {}
        if stage and stage.get("ended") is None:
            _tell_stage(stage["stage"])
        message = event.get("message") or ""
        if message.startswith("committed "):
            artifact = message.removeprefix("committed ")
        if stage.get("stage") == "verify" and stage.get("outcome") == "succeeded":
            _tell_file(artifact)
    return _finish(run.get("outcome"), run.get("error") or {}, artifact)


def _wait_for_other(client: Client) -> None:
    """Another run of the job is active: wait for its end, then ours may begin."""
    print(_WAITING)
    while True:
        # Asked and not watched: the end could fall between the question and the watch.
        time.sleep(_PAUSE)
        if not any(job["name"] == _JOB and job.get("running") for job in client.call("GetStatus")["jobs"]):
            return


def _alone(*, force: bool) -> int:
    """Do it in this process: no daemon is running."""
    # Heavy rooms, needed only here.
    import msgspec

    from nanumpay_backupd.once import find_job, perform
    from nanumpay_backupd.system.journal import configure

    configure("error")
    host = _host()
    job = find_job(host, _JOB)
    if not job.enabled and not force:
        print(_DISABLED)
        return EXIT_OK
    job = msgspec.structs.replace(job, compress=True)
    reporter = _Reporter()
    _wait_for_lock(host.paths.backups)
    # No second tries: the application waits five minutes at most.
    run = perform(host, job, reporter, retry=None)
    error = {"message": run.error.message, "hint": run.error.hint} if run.error else {}
    return _finish(run.outcome, error, reporter.artifact)


def _host() -> HostConfig:
    """Read the host file, with the application's folder in force and the catalog that belongs to that folder."""
    import msgspec

    from nanumpay_backupd.settings.hostfile import load_host_file

    named = os.environ.get("NANUMPAY_BACKUPD_CONFIG")
    environ = {name: value for name, value in os.environ.items() if name != "BACKUP_PATH"}
    host = load_host_file(Path(named) if named else None, environ=environ)
    paths, wanted = host.paths, os.environ.get("BACKUP_PATH")
    elsewhere = bool(wanted) and os.path.realpath(wanted or "") != os.path.realpath(paths.backups)
    if wanted and elsewhere:
        paths = msgspec.structs.replace(paths, backups=Path(wanted).absolute())
    # The host's catalog knows another folder: with this one it would call all of that folder's backups missing.
    if elsewhere or not _writable(paths.state):
        paths = msgspec.structs.replace(paths, state=paths.backups / ".backupd" / "state")
    return msgspec.structs.replace(host, paths=paths)


def _wait_for_lock(backups: Path) -> None:
    """Wait while a run of somebody else (run-once, a daemon that cannot be asked) has the job."""
    from nanumpay_backupd.errors import BusyError
    from nanumpay_backupd.pipeline.layout import Layout
    from nanumpay_backupd.system.locks import FileLock

    lock = FileLock(Layout(backups).lock(_JOB), f"job {_JOB}")
    told = False
    while True:
        try:
            lock.acquire()
        except BusyError:
            if not told:
                print(_WAITING)
            told = True
            time.sleep(_PAUSE)
        except OSError:
            return  # the run itself says what is wrong with the folder
        else:
            lock.release()
            return


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


class _Reporter:
    """Tells a run of our own in the old program's words."""

    artifact: str | None = None

    def stage(self, record: Any) -> None:
        if record.ended is None:
            _tell_stage(record.stage)
        elif record.stage == "verify" and record.outcome == "succeeded":
            _tell_file(self.artifact)

    def progress(self, progress: Any) -> None:
        """Nothing: the old program showed none."""

    def message(self, level: str, text: str, _error: Any = None, _message: Any = None) -> None:
        if level != "info":
            print(f"⚠️  {text}", file=sys.stderr)

    def committed(self, artifact: str, _size: int) -> None:
        self.artifact = artifact


def _tell_stage(stage: str) -> None:
    words = {
        "dump": "📦 Running mongodump...",
        "compress": "🗜️  Compressing...",
        "encrypt": "🔒 Encrypting...",
        "verify": "🔍 Verifying...",
        "upload": "☁️  Uploading...",
        "retention": "🧹 Applying retention policy...",
    }
    if stage in words:
        print(words[stage])


def _tell_file(artifact: str | None) -> None:
    """Write the line by which the application takes the backup as made: only once it was read back and proven.

    An encrypted one it could not offer; that it is not told of it is what the settings warn of.
    """
    if artifact is None:
        return  # proven before it is encrypted: there is no file yet
    if artifact.endswith((".gpg", ".age")):
        print(f"🔒 Encrypted, so not for download: {artifact}")
    else:
        print(f"✅ 압축 완료: {artifact}")


def _finish(outcome: str | None, error: dict[str, Any], artifact: str | None) -> int:
    if outcome == "succeeded":
        print(f"✅ Backup completed: {artifact}")
        return EXIT_OK
    return _failed(str(error.get("message") or f"the run was {outcome}"), str(error.get("hint") or ""))


def _failed(message: str, hint: str) -> int:
    print(f"❌ Backup failed: {message}", file=sys.stderr)
    if hint:
        print(f"   → {hint}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
