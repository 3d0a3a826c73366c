"""Uploads side by side, each in a thread that can be left behind: one that hangs holds up nothing else.

What an upload does, and what follows from how it ended, is decided in `upload`; when it is too long, in `limits`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from nanumpay_backupd.errors import BackupdError, LimitError
from nanumpay_backupd.model import Backup, Copy
from nanumpay_backupd.pipeline.limits import upload_overdue
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import Destination, JobSpec

__all__ = ["Transfer", "carry"]

_LOOK: Final = 1.0
_PATIENCE: Final = 3.0
"""Seconds that an upload has to end by itself once it is given up or the run is to end; then it is left behind."""


class Transfer:
    """One copy on its way, to its place or (``reading``) from there.

    `moved` and `read` belong to its own thread (and the driver's), the rest to the lock.
    """

    def __init__(
        self, destination: Destination, backup: Backup, copy: Copy, recorder: Recorder, *, reading: bool = False
    ) -> None:
        self.what = f"the {'reading from' if reading else 'upload to'} {destination.name}"
        self.destination = destination
        self.backup = backup
        self.copy = copy
        self.given_up: LimitError | None = None
        self._recorder = recorder
        self._settled = False
        self._begun = self._last = recorder.clock.monotonic()

    @property
    def taken(self) -> float:
        """Return how many seconds it takes by now."""
        return self._recorder.clock.monotonic() - self._begun

    @property
    def idle(self) -> float:
        """Return for how many seconds no byte has moved."""
        return self._recorder.clock.monotonic() - self._last

    def moved(self, count: int) -> None:
        """Take note of bytes that were moved; raises what ends it."""
        if self.given_up is not None:
            raise self.given_up
        if count > 0:
            self._last = self._recorder.clock.monotonic()
        self._recorder.progress(count)

    def read(self, count: int) -> None:
        """Take note of bytes that were read again; raises what ends it."""
        if self.given_up is not None:
            raise self.given_up
        if count > 0:
            self._last = self._recorder.clock.monotonic()
        self._recorder.alive()

    def settle(self) -> bool:
        """Tell, once, that how it ended may be recorded now."""
        first, self._settled = not self._settled, True
        return first


def carry(
    transfers: Sequence[Transfer],
    work: Callable[[Transfer], None],
    job: JobSpec,
    recorder: Recorder,
    failed: Callable[[Transfer, BackupdError], None],
) -> None:
    """Do ``work`` for all of them at once; returns when each has ended or was left behind, which ``failed`` is told.

    Left behind are those that passed a limit and do not end by that, and all that do not end when the run is to.
    """
    ended: queue.SimpleQueue[tuple[Transfer, BaseException | None]] = queue.SimpleQueue()

    def run(transfer: Transfer) -> None:
        try:
            work(transfer)
        except BaseException as error:  # noqa: BLE001 - it is raised where the run waits
            ended.put((transfer, error))
        else:
            ended.put((transfer, None))

    left = set(transfers)
    for transfer in transfers:
        threading.Thread(target=run, args=(transfer,), name=f"upload-{transfer.destination.name}", daemon=True).start()
    since: dict[Transfer, float] = {}
    fault: BaseException | None = None
    while left:
        try:
            transfer, error = ended.get(timeout=_LOOK)
        except queue.Empty:
            pass
        else:
            left.discard(transfer)
            fault = fault or error
            continue
        left -= _leave_behind(left, since, job, recorder, failed)
    if fault is not None:
        raise fault


def _leave_behind(
    left: set[Transfer],
    since: dict[Transfer, float],
    job: JobSpec,
    recorder: Recorder,
    failed: Callable[[Transfer, BackupdError], None],
) -> set[Transfer]:
    """Give up what takes too long; returns those that are not waited for any more."""
    now = recorder.clock.monotonic()
    gone = set()
    for transfer in left:
        if transfer.given_up is None:
            transfer.given_up = upload_overdue(job.limits, job.name, transfer.what, transfer.taken, transfer.idle)
        if transfer.given_up is None and not recorder.cancelled and recorder.fault is None:
            continue
        if now - since.setdefault(transfer, now) < _PATIENCE:
            continue
        gone.add(transfer)
        if transfer.given_up is not None:
            failed(transfer, transfer.given_up)
    return gone
