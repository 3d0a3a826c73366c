"""The control interface's methods by name. What each does is in the other rooms of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanumpay_backupd.control.ahead import Ahead
from nanumpay_backupd.control.changing import Changing
from nanumpay_backupd.control.desk import DaemonView
from nanumpay_backupd.control.fleeting import Fleeting
from nanumpay_backupd.control.keeping import Keeping
from nanumpay_backupd.control.looking import Looking
from nanumpay_backupd.control.monitoring import Monitoring
from nanumpay_backupd.control.offering import Offering
from nanumpay_backupd.control.placing import Placing
from nanumpay_backupd.control.running import Running
from nanumpay_backupd.control.server import Handler
from nanumpay_backupd.control.telling import Telling
from nanumpay_backupd.events import Fault
from nanumpay_backupd.reports.figures import Report
from nanumpay_backupd.system.clock import Clock

__all__ = ["DaemonView", "Methods"]


class Methods:
    """The handlers, by method name."""

    def __init__(self, daemon: DaemonView, clock: Clock) -> None:
        self._looking = Looking(daemon, clock)
        self._running = Running(daemon, clock)
        self._changing = Changing(daemon, clock)
        self._keeping = Keeping(daemon, clock)
        self._placing = Placing(daemon, clock)
        self._telling = Telling(daemon, clock)
        self._monitoring = Monitoring(daemon, clock)
        self._offering = Offering(daemon, clock)
        self._ahead = Ahead(daemon, clock)
        self._fleeting = Fleeting(daemon, clock)

    async def faults(self) -> tuple[list[Fault], list[dict[str, Any]]]:
        """See `Looking.faults`."""
        return await self._looking.faults()

    async def watch_places(self) -> None:
        """See `Monitoring.watch`."""
        await self._monitoring.watch()

    async def learn_lost(self) -> None:
        """See `Changing.learn_lost`."""
        await self._changing.learn_lost()

    async def standing(self) -> tuple[dict[str, Any], list[Fault]]:
        """See `Looking.standing`."""
        return await self._looking.standing()

    async def review(self, days: int) -> Report:
        """Return the report of the last ``days``; raises BackupdError."""
        return await self._telling.review(days)

    def handlers(self) -> Mapping[str, Handler]:
        """Return the table for the server."""
        look, run, change = self._looking, self._running, self._changing
        keep, tell = self._keeping, self._telling
        return {
            "GetStatus": look.get_status,
            "ListJobs": look.list_jobs,
            "ListRuns": look.list_runs,
            "DescribeRun": look.describe_run,
            "ListBackups": look.list_backups,
            "DescribeBackup": look.describe_backup,
            "DescribeGroup": look.describe_group,
            "ListFiles": run.list_files,
            "Timeline": look.timeline,
            "GetSettings": look.get_settings,
            "Run": run.run,
            "Verify": run.verify,
            "Drill": run.drill,
            "Restore": run.restore,
            "RestoreGroup": run.restore_group,
            "Cancel": run.cancel,
            "Watch": run.watch,
            "Delete": change.delete,
            "Send": change.send,
            "Sync": self._placing.sync,
            "ListCopies": self._placing.list_copies,
            "CopyBackup": run.copy_backup,
            "Prune": keep.prune,
            "Pin": keep.pin,
            "Unpin": keep.unpin,
            "ListSwaps": change.list_swaps,
            "UndoSwap": change.undo_swap,
            "DropSwap": change.drop_swap,
            "TestDestination": change.test_destination,
            "Doctor": change.doctor,
            "Reload": change.reload,
            "RebuildCatalog": change.rebuild_catalog,
            "Monitor": self._monitoring.monitor,
            "AcceptBackup": self._monitoring.accept_backup,
            "ListNotices": tell.list_notices,
            "TestNotify": tell.test_notify,
            "GetReport": tell.get_report,
            "FindBackups": self._offering.find_backups,
            "GetHistory": self._offering.get_history,
            "PreviewSettings": self._offering.preview_settings,
            "OpenArtifact": self._offering.open_artifact,
            "ListUpcoming": self._ahead.list_upcoming,
            "ChangeFleet": self._fleeting.change_fleet,
        }
