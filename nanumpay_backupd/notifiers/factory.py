"""From a target to its notifier. A driver is imported when it is first used, so only in the process that sends."""

from __future__ import annotations

from nanumpay_backupd.notifiers.base import AppriseTarget, DatabaseTarget, Notifier, Target

__all__ = ["open_notifier"]


def open_notifier(target: Target) -> Notifier:
    """Return a notifier for a target; raises NotifyError (``notify-address``) when the target cannot be one."""
    if isinstance(target, AppriseTarget):
        from nanumpay_backupd.notifiers.services import ServiceNotifier

        return ServiceNotifier(target)
    if isinstance(target, DatabaseTarget):
        from nanumpay_backupd.notifiers.database import DatabaseNotifier

        return DatabaseNotifier(target)
    from nanumpay_backupd.notifiers.heartbeat import HeartbeatNotifier

    return HeartbeatNotifier(target)
