"""One run, as a process of its own: the child's side (`main`, `execute`) and the daemon's side (`WorkerProcess`).

The child takes a run specification on standard input, so that secrets are in no argv and no environment, and writes
events as JSON lines on standard output. It leads its own process group, so that it can be ended with all its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_DEGRADED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    BackupdError,
    LimitError,
)
from nanumpay_backupd.fleet.fence import Fence
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import ErrorInfo, Outcome, Run, StageRecord, Trigger, error_info, to_builtins
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.limits import go_limit
from nanumpay_backupd.pipeline.report import Progress, Recorder, Reporter, new_run
from nanumpay_backupd.pipeline.unfinished import KeptNotes
from nanumpay_backupd.pipeline.watch import Watch
from nanumpay_backupd.settings.schema import Destination, MongoSource, RetryPolicy, RunSpec, decode_spec, encode_spec
from nanumpay_backupd.sources.factory import needs_of, open_oplog, open_source, open_target
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.family import adopt, end_descendants, end_family
from nanumpay_backupd.system.heap import keep_blocks
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.process import die_with_parent, own_environment
from nanumpay_backupd.system.shortage import shortage_named

if TYPE_CHECKING:
    from nanumpay_backupd.doctor import Check
    from nanumpay_backupd.lookout import Sight
    from nanumpay_backupd.pipeline.outlook import PruneLine
    from nanumpay_backupd.pipeline.restore_plan import RestorePlan
    from nanumpay_backupd.pipeline.upload import OpenStore

__all__ = ["EXIT_CODES", "WorkerProcess", "execute", "main"]

EXIT_CODES: Final = {
    Outcome.SUCCEEDED: EXIT_OK,
    Outcome.DEGRADED: EXIT_DEGRADED,
    Outcome.FAILED: EXIT_FAILED,
    Outcome.CANCELLED: EXIT_INTERRUPTED,
    Outcome.INTERRUPTED: EXIT_FAILED,
    Outcome.SKIPPED: EXIT_BUSY,
}
_NICE: Final = 5
_OOM_SCORE: Final = 500
"""Makes the kernel, when it must kill, choose a run rather than a database of less than half of all memory."""
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IOPRIO_BEST_EFFORT_LOW: Final = (2 << 13) | 6
_LONGEST_LINE: Final = 16 << 20
_PULSE: Final = 3
"""Seconds between two signs of life."""
_FETCH_RETRY: Final = RetryPolicy(attempts=3, delay=2.0)
_DOWNLOADING: Final = frozenset({"verify", "restore", "drill", "copy"})
"""Where a download that breaks off goes on where it was."""


def execute(
    spec: RunSpec,
    reporter: Reporter,
    clock: Clock,
    *,
    retry: RetryPolicy | None = None,
    on_start: Callable[[Recorder], None] | None = None,
    on_pulse: Callable[[], None] | None = None,
    on_hang: Callable[[LimitError], None] | None = None,
) -> Run:
    """Do one run in this process and return its record.

    ``retry`` makes uploads try again within the run (where no daemon keeps a queue); ``on_start`` gets the recorder,
    whose `cancel` may be called from a signal handler; ``on_pulse`` and ``on_hang`` as `pipeline.watch.Watch` has them.
    """
    if limit := go_limit(spec.job.limits):
        os.environ["GOMEMLIMIT"] = limit

    def opener(destination: Destination) -> Store:
        # A restore is waited for.
        hurry = spec.action == "restore"
        notes = KeptNotes(records, destination.name)
        return open_store(
            destination, retry=retry, clock=clock, cancelled=lambda: recorder.ending, hurry=hurry, notes=notes
        )

    records = spec.paths.state / "catalog.db"
    with Catalog(records) as catalog, contextlib.ExitStack() as stack:
        # On record it is told apart: how a snapshot of one collection went says nothing of the job's backups.
        action = "collection" if spec.collection is not None else spec.action
        run = new_run(spec.run, spec.job.name, Trigger(spec.trigger), spec.started or clock.now(), action, spec.group)
        quiet = spec.action == "slice" and run.trigger is Trigger.SCHEDULE
        fence = stack.enter_context(Fence(spec.fence, spec.run)) if spec.fence is not None else None
        if fence is not None:
            run = msgspec.structs.replace(run, host=fence.host, token=fence.token)
        recorder = Recorder(run, catalog, reporter, clock, quiet=quiet, fence=fence)
        if fence is not None:
            fence.guard(recorder.exceed)
        if on_start is not None:
            on_start(recorder)
        if spec.action in _DOWNLOADING:
            retry = retry or _FETCH_RETRY
        with Watch(recorder, spec.job, spec.action, on_pulse=on_pulse, on_hang=on_hang):
            return _act(spec, catalog, recorder, opener)


def _act(spec: RunSpec, catalog: Catalog, recorder: Recorder, opener: OpenStore) -> Run:
    """Do what the specification orders. Each action imports its own modules only: slices come every minute."""
    if not isinstance(spec.job.source, MongoSource) and spec.action in {"slice", "restore", "drill"}:
        return _act_on_other(spec, catalog, recorder, opener)
    if spec.action == "slice":
        from nanumpay_backupd.pipeline.slices import take_slice

        return take_slice(spec, open_source(spec.job.source), open_oplog, catalog, recorder, opener)
    if spec.action == "verify":
        from nanumpay_backupd.pipeline.recheck import verify_copies

        return verify_copies(spec, open_source(spec.job.source).check, catalog, recorder, opener)
    if spec.action == "copy":
        from nanumpay_backupd.pipeline.copying import copy_backup

        return copy_backup(spec, catalog, recorder, opener)
    if spec.action == "restore":
        from nanumpay_backupd.pipeline.restore import restore

        return restore(spec, open_target(spec.job.source), open_source, catalog, recorder, opener)
    if spec.action == "drill":
        from nanumpay_backupd.pipeline.drill import drill

        return drill(spec, open_source, catalog, recorder, opener)
    from nanumpay_backupd.pipeline.backup import back_up, upload_queued

    if spec.action == "upload":
        return upload_queued(spec, catalog, recorder, opener)
    assert spec.action == "backup", f"an action that nobody knows: {spec.action}"
    return back_up(spec, open_source(spec.job.source, spec.collection), catalog, recorder, opener)


def _act_on_other(spec: RunSpec, catalog: Catalog, recorder: Recorder, opener: OpenStore) -> Run:
    """Do what MongoDB has rooms of its own for, of any other source."""
    if spec.action == "slice":
        from nanumpay_backupd.pipeline.increment import take_increment

        return take_increment(spec, open_source(spec.job.source), catalog, recorder, opener)
    if spec.action == "restore":
        from nanumpay_backupd.pipeline.bringback import bring_back

        return bring_back(spec, catalog, recorder, opener)
    from nanumpay_backupd.pipeline.rehearse import rehearse

    return rehearse(spec, catalog, recorder, opener)


def examine(spec: RunSpec) -> Iterator[Check]:
    """Do the checks of ``doctor``: all of a job's, or with the action ``doctor:NAME`` those of one destination."""
    from nanumpay_backupd.doctor import check_destination, check_job, check_tools

    _, _, only = spec.action.partition(":")
    if only:
        for destination in spec.job.destinations:
            if destination.name == only:
                yield from check_destination(spec.job.name, destination, open_store)
        return
    yield from check_tools(spec.job, needs_of(spec.job.source))
    yield from check_job(spec.job, spec.paths, open_source(spec.job.source), open_store, SystemClock().now())


def _looked(spec: RunSpec) -> Iterator[Sight]:
    """Look at the places of a job."""
    from nanumpay_backupd.lookout import look

    with Catalog(spec.paths.state / "catalog.db") as catalog:
        yield from look(spec, catalog, SystemClock(), open_store)


def _listed(spec: RunSpec) -> object:
    """List what is in the file trees of a backup; raises BackupdError."""
    from nanumpay_backupd.pipeline.listing import list_tree

    with Catalog(spec.paths.state / "catalog.db") as catalog:
        opener = partial(open_store, retry=_FETCH_RETRY, hurry=True)
        return list_tree(spec, catalog, SystemClock(), opener)


def _pour(spec: RunSpec, reporter: _PipeReporter) -> None:
    """Write a part of a copy into the pipe that was handed over; whoever reads it may leave at any time."""
    _, fd, offset, length, place, key = spec.action.split(":", 5)
    destination = next(item for item in spec.job.destinations if item.name == place)
    with (
        os.fdopen(int(fd), "wb", buffering=0) as pipe,
        open_store(destination, retry=_FETCH_RETRY, hurry=True) as store,
        contextlib.suppress(BrokenPipeError),
    ):
        for at, chunk in enumerate(store.get(key, int(offset), int(length))):
            if at == 0:
                reporter.emit("pouring")
            rest = memoryview(chunk)
            while rest:
                rest = rest[pipe.write(rest) :]


def foresee(spec: RunSpec, clock: Clock) -> RestorePlan:
    """Say what the restore that ``spec`` orders would do; changes nothing. Raises BackupdError."""
    if not isinstance(spec.job.source, MongoSource):
        from nanumpay_backupd.pipeline.bringback import plan_bringing_back

        with Catalog(spec.paths.state / "catalog.db") as catalog:
            return plan_bringing_back(spec, catalog, clock.now())
    from nanumpay_backupd.pipeline.restore import plan_restore

    with Catalog(spec.paths.state / "catalog.db") as catalog:
        return plan_restore(spec, open_target(spec.job.source), catalog, clock.now())


def remove(spec: RunSpec, clock: Clock) -> list[PruneLine]:
    """Do ``prune``, ``delete:BACKUP[@PLACE]`` or ``adopt`` under the job's lock; returns what was decided or deleted.

    Raises BusyError while a run of the job is active, StoreError for a place that refuses.
    """
    from nanumpay_backupd.pipeline.ageing import counted_from
    from nanumpay_backupd.pipeline.pins import recall_pins
    from nanumpay_backupd.pipeline.prune import delete_backup, prune
    from nanumpay_backupd.pipeline.rebuild import adopt_remote

    layout = Layout(spec.paths.backups)
    lock = FileLock(layout.lock(spec.job.name), f"job {spec.job.name}")
    with Catalog(spec.paths.state / "catalog.db") as catalog, lock:
        if spec.action == "adopt":
            _, faults = adopt_remote(spec.job, catalog, clock.now(), open_store, layout)
            recall_pins(catalog, layout)
            if faults:
                raise faults[0]
            return []
        if spec.action == "prune":
            lines, faults = prune(spec.job, catalog, layout, counted_from(catalog, clock), open_store)
            if faults:
                raise faults[0]
            return lines
        name, _, place = spec.action.removeprefix("delete:").partition("@")
        return delete_backup(spec.job, catalog, layout, name, place or None, open_store)


def _changed(spec: RunSpec) -> Sequence[object]:
    """Change what there is, outside of runs: copies, or what swaps kept."""
    if spec.fence is not None:
        with Fence(spec.fence, spec.run) as fence:
            fence.confirm(spec.action)
            return remove(spec, SystemClock())
    if not spec.action.startswith("swap:"):
        from nanumpay_backupd.pipeline.backup import disk_fault

        try:
            return remove(spec, SystemClock())
        except OSError as error:
            raise disk_fault(error, Layout(spec.paths.backups)) from None
    from nanumpay_backupd.pipeline.swap import manage

    return manage(spec)


class _PipeReporter:
    """Writes every event as one JSON line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def emit(self, kind: str, **fields: Any) -> None:
        # Uploads report from threads of their own. The daemon may be gone: the run goes on, it is in the catalog.
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._stream.write(json.dumps({"kind": kind, **fields}, ensure_ascii=False) + "\n")
            self._stream.flush()

    def stage(self, record: StageRecord) -> None:
        self.emit("stage", stage=to_builtins(record))

    def progress(self, progress: Progress) -> None:
        self.emit("progress", progress=to_builtins(progress))

    def message(self, level: str, text: str, error: ErrorInfo | None = None, message: Message | None = None) -> None:
        name = message.name if message is not None else None
        self.emit("message", level=level, text=text, error=to_builtins(error), message=name)

    def committed(self, artifact: str, size: int) -> None:
        self.emit("committed", artifact=artifact, size=size)


class _Pulse:
    """Tells the daemon now and then that this process lives, also where its run waits for something."""

    def __init__(self, reporter: _PipeReporter) -> None:
        self._reporter = reporter
        self._count = 0

    def beat(self) -> None:
        """Tell it, of many calls a second apart once in a while."""
        self._count += 1
        if self._count % _PULSE == 0:
            self._reporter.emit("pulse")


def _concluded(spec: RunSpec) -> object:
    """Write the manifest of a group's run, here and at the destinations; raises BackupdError where it is not here."""
    from nanumpay_backupd.pipeline.groups import conclude

    assert spec.concluding is not None, "an order is needed"
    with Catalog(spec.paths.state / "catalog.db") as catalog:
        return conclude(spec.concluding, catalog, Layout(spec.paths.backups), open_store)


def _answer(spec: RunSpec) -> tuple[str, Callable[[], object]] | None:
    """Return what answers a question that is no run, and of which kind that event is; None: it is a run."""
    if spec.action == "restore-plan":
        return "plan", lambda: foresee(spec, SystemClock())
    if spec.action == "group":
        return "concluded", lambda: _concluded(spec)
    if spec.action == "ls":
        return "listing", lambda: _listed(spec)
    if spec.action.startswith(("delete:", "prune", "adopt", "swap:")):
        return "lines", lambda: _changed(spec)
    return None


def main() -> int:
    """Run as the worker process: specification on standard input, events on standard output, exit code by outcome."""
    spec = decode_spec(sys.stdin.buffer.read())
    adopt()
    keep_blocks()
    if spec.action != "restore" and not spec.action.startswith("pour:"):  # somebody waits for that
        _be_modest()
    reporter = _PipeReporter(sys.stdout)

    def on_start(recorder: Recorder) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: recorder.cancel())

    if spec.action.startswith("pour:"):
        try:
            _pour(spec, reporter)
        except BackupdError as error:
            reporter.emit("fault", fault=to_builtins(error_info(error)))
        return EXIT_OK
    if spec.action == "look" or spec.action.startswith("doctor"):
        kind = "sight" if spec.action == "look" else "check"
        try:
            for found in _looked(spec) if spec.action == "look" else examine(spec):
                reporter.emit(kind, **{kind: to_builtins(found)})
        except BackupdError as error:
            reporter.emit("fault", fault=to_builtins(error_info(error)))
        return EXIT_OK
    if (answer := _answer(spec)) is not None:
        kind, make = answer
        try:
            reporter.emit(kind, **{kind: to_builtins(make())})
        except BackupdError as error:
            reporter.emit("fault", fault=to_builtins(error_info(error)))
        return EXIT_OK
    try:
        with shortage_named():
            run = execute(
                spec,
                reporter,
                SystemClock(),
                on_start=on_start,
                on_pulse=_Pulse(reporter).beat,
                on_hang=lambda fault: reporter.emit("hangs", fault=to_builtins(error_info(fault))),
            )
    except BackupdError as error:
        reporter.message("error", error.message, error_info(error))
        return error.exit_code
    finally:
        # Whatever a tool may have left running, in whichever session.
        end_descendants(os.getpid())
    reporter.emit("ended", outcome=run.outcome)
    sys.stdout.flush()
    return EXIT_CODES[run.outcome or Outcome.FAILED]


def _be_modest() -> None:
    """Leave processor and disk to the application first, and memory: where it runs out, MongoDB is to survive."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IOPRIO_BEST_EFFORT_LOW)


class WorkerProcess:
    """A worker as the daemon sees it: started with a specification, read event by event, ended when asked."""

    def __init__(self, process: asyncio.subprocess.Process, run: str) -> None:
        self._process = process
        self.run = run
        self.errors: list[str] = []

    @classmethod
    async def start(cls, spec: RunSpec, handed: tuple[int, ...] = ()) -> WorkerProcess:
        """Start the process; raises BackupdError (``worker-start``) when it cannot be started.

        ``handed`` are descriptors that it gets under the same numbers.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "nanumpay_backupd",
                "worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                preexec_fn=die_with_parent,
                pass_fds=handed,
                limit=_LONGEST_LINE,
                env=own_environment(),
            )
        except OSError as error:
            raise BackupdError(
                f"the worker process cannot be started: {os.strerror(error.errno or 0)}",
                hint=f"check that the service's user may run {sys.executable}, and the limits of memory and processes",
                code="worker-start",
                retryable=True,
            ) from None
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(encode_spec(spec))
            await process.stdin.drain()
            process.stdin.close()
        return cls(process, spec.run)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the run's events until the process closes its output; what it says on standard error is collected."""
        assert self._process.stdout is not None
        reading = asyncio.create_task(self._collect_errors())
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event
        await reading

    async def wait(self) -> int:
        """Wait for the end; returns the exit code (negative: the signal)."""
        return await self._process.wait()

    def cancel(self) -> None:
        """Ask it to stop at its next step (SIGTERM); harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it at once with all its children, in whichever session they are; harmless when it has ended."""
        if self._process.returncode is None:
            end_family(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.errors.append(line.decode("utf-8", "replace").rstrip())
            del self.errors[:-200]
