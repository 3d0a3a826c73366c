"""The table of all metrics: name, type, labels, meaning. Values come from `figures`, their form from `exposition`.

Names follow Prometheus' conventions: base units, times as seconds since 1970. A job is the label ``job_name``:
``job`` is what Prometheus itself calls a group of targets, and would be renamed at every scrape.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["METRICS", "PREFIX", "Metric"]

PREFIX: Final = "nanumpay_backup_"
_JOB: Final = ("job_name",)
_PLACE: Final = ("job_name", "destination")
_ACTION: Final = ("job_name", "action")
_GROUP: Final = ("group_name",)


class Metric(NamedTuple):
    """One metric. ``name`` is without the prefix, of a counter also without ``_total``."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    counter: bool = False

    @property
    def full_name(self) -> str:
        """Return the name of its samples."""
        return f"{PREFIX}{self.name}{'_total' if self.counter else ''}"


METRICS: Final = (
    Metric("build_info", "1; the version of the daemon is a label.", ("version",)),
    Metric("start_timestamp_seconds", "When the daemon was started."),
    Metric("figures_timestamp_seconds", "When all figures here were taken; old where the daemon is down."),
    Metric("health", "1 for the health as the status says it (ok, warning, failing), 0 for the others.", ("state",)),
    Metric(
        "problems",
        "What is wrong now, as the status lists it; no sample where nothing is.",
        ("severity", "job_name", "kind"),
    ),
    Metric("settings_connected", "1 while the database with the application's settings answers."),
    Metric("settings_refused", "1 while the application's settings cannot be read or used; the last good ones count."),
    Metric(
        "fleet_role",
        "1 for the part of this host in its fleet (holder, ending, standby), 0 for the others.",
        ("state",),
    ),
    Metric("fleet_lease_known", "1 while the fleet's lease can be asked for, 0 while not; only in a fleet."),
    Metric(
        "fleet_lease_token", "The fleet's fencing token as this host knows it; grows whenever the lease changes hands."
    ),
    Metric("fleet_hosts", "Hosts of the fleet, by whether they are heard of.", ("state",)),
    Metric("filesystem_free_bytes", "Bytes free in the backups folder."),
    Metric("filesystem_size_bytes", "Size of the filesystem that holds the backups folder."),
    Metric("notifications_waiting", "Messages that still have to be sent.", ("channel",)),
    Metric("notifications_failing", "1 while the last message of a channel did not arrive.", ("channel",)),
    Metric("job_enabled", "1 while backups are made by schedule, 0 for a disabled job.", _JOB),
    Metric("copies", "Backups of which a copy is at a place.", (*_PLACE, "kind")),
    Metric("copies_bytes", "Bytes of all copies at a place.", (*_PLACE, "kind")),
    Metric("copies_corrupt", "Copies at a place that are known not to be what was written.", _PLACE),
    Metric("uploads_pending", "Copies that wait for their upload to a place, or whose upload was given up.", _PLACE),
    Metric(
        "newest_verified_timestamp_seconds",
        "When the newest full at a place was made that is proven.",
        _PLACE,
    ),
    Metric("newest_verified_bytes", "Bytes of the newest full at a place that is proven.", _PLACE),
    Metric(
        "runs",
        "Runs that ended, by how they did; slices that found nothing to save are not counted.",
        (*_ACTION, "outcome"),
        counter=True,
    ),
    Metric("runs_active", "Runs going on now.", _ACTION),
    Metric("last_run_start_timestamp_seconds", "When the last run began that has ended.", _ACTION),
    Metric("last_run_timestamp_seconds", "When the last run ended.", _ACTION),
    Metric("last_run_duration_seconds", "How long the last run took.", _ACTION),
    Metric("last_run_outcome", "1 for how the last run ended, 0 for the other outcomes.", (*_ACTION, "outcome")),
    Metric("last_success_timestamp_seconds", "When the last run ended that succeeded.", _ACTION),
    Metric("next_due_timestamp_seconds", "When a task is due next by schedule.", ("job_name", "task")),
    Metric("recoverable_until_timestamp_seconds", "The newest moment that can be restored.", _JOB),
    Metric("rpo_objective_seconds", "The most that may be lost, as the settings promise it.", _JOB),
    Metric("rpo_kept", "1 while that promise is kept, 0 while it is missed.", _JOB),
    Metric("rto_objective_seconds", "The longest that a restore may take, as the settings promise it.", _JOB),
    Metric("rto_kept", "1 when the last drill kept that promise, 0 when not.", _JOB),
    Metric("spread_copies", "Copies of the newest full, the data itself counted.", _JOB),
    Metric("spread_media", "Different media on which these copies are.", _JOB),
    Metric("spread_offsite", "How many of these copies are off-site.", _JOB),
    Metric("spread_kept", "1 while the newest full is spread as demanded (3-2-1), 0 while it is not.", _JOB),
    Metric("restore_duration_seconds", "How long the restore of the last good drill took.", _JOB),
    Metric("oplog_window_seconds", "How long the oplog holds changes at the present rate of writes.", _JOB),
    Metric(
        "changes_state",
        "1 for how the saving of changes is doing (off, ok, waiting, failing, broken), 0 for the other states.",
        (*_JOB, "state"),
    ),
    Metric("group_enabled", "1 while a group is made by schedule, 0 while not.", _GROUP),
    Metric("group_next_due_timestamp_seconds", "When a group is due next by schedule.", _GROUP),
    Metric("group_last_run_timestamp_seconds", "When the last run of a group ended.", _GROUP),
    Metric(
        "group_last_run_outcome",
        "1 for how the last run of a group ended, 0 for the other outcomes.",
        (*_GROUP, "outcome"),
    ),
    Metric("group_newest_timestamp_seconds", "When the newest backup of a group was begun.", _GROUP),
    Metric("group_newest_whole", "1 while all of the newest backup of a group is there, 0 while not.", _GROUP),
)
