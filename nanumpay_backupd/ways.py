"""The ways to tell people, as the settings have them: where to, what each is told, in which language. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from typing import Any

from nanumpay_backupd.alerts import Policy, Rule
from nanumpay_backupd.events import Event, Severity
from nanumpay_backupd.notifiers.base import AppriseTarget, DatabaseTarget, Target
from nanumpay_backupd.notifiers.letter import Sender
from nanumpay_backupd.outbox import Outbox
from nanumpay_backupd.scheduler import zone_of
from nanumpay_backupd.settings.schema import DATABASE_CHANNEL, Channel, HostConfig, Schedule

__all__ = ["described", "policy", "rules", "sender", "targets"]

TOGETHER = 3
"""So many messages for a channel are sent one by one; more become one."""


def targets(host: HostConfig) -> dict[str, Target]:
    """Return where messages can go, by channel; nothing where notifications are switched off."""
    options = host.notify
    if not options.enabled:
        return {}
    found: dict[str, Target] = {
        channel.name: AppriseTarget(name=channel.name, address=channel.address, timeout=channel.timeout)
        for channel in host.channels
    }
    if options.database:
        found[DATABASE_CHANNEL] = DatabaseTarget(
            name=DATABASE_CHANNEL,
            uri=host.mongodb.uri,
            database=host.mongodb.database,
            days=options.database_days,
            count=options.database_count,
        )
    return found


def rules(host: HostConfig) -> tuple[Rule, ...]:
    """Return what each channel is told. The record in the database is no channel here: it is told everything."""
    return tuple(map(_rule, host.channels)) if host.notify.enabled else ()


def _rule(channel: Channel) -> Rule:
    return Rule(
        channel=channel.name,
        severity=None if channel.severity == "none" else Severity(channel.severity),
        events=frozenset(Event(name) for name in channel.events),
        jobs=frozenset(channel.jobs),
    )


def policy(host: HostConfig) -> Policy:
    """Return how people are told."""
    options = host.notify
    return Policy(
        rules=rules(host),
        remind=options.remind,
        quiet=_hours(options.quiet),
        zone=zone_of(Schedule(cron=(), timezone=host.timezone)),
        cap=options.max_per_hour,
        together=TOGETHER,
    )


def _hours(text: str) -> tuple[time, time] | None:
    """Read quiet hours, which the settings have checked."""
    first, dash, last = text.partition("-")
    return (time.fromisoformat(first), time.fromisoformat(last)) if dash else None


def sender(host: HostConfig, channel: str, name: str) -> Sender:
    """Return who writes to a channel; ``name`` is this host's."""
    own = next((item.language for item in host.channels if item.name == channel), "")
    zone = zone_of(Schedule(cron=(), timezone=host.timezone))
    return Sender(name, zone, own or host.notify.language)


def described(host: HostConfig, found: Mapping[str, Target], box: Outbox) -> list[dict[str, Any]]:
    """Describe the ways in ``found``, as the interface's type Channel."""
    told = {rule.channel: rule for rule in rules(host)}
    return [_described(name, target, told.get(name), box) for name, target in found.items()]


def _described(name: str, target: Target, rule: Rule | None, box: Outbox) -> dict[str, Any]:
    failing, last = box.failing.get(name), box.last.get(name)
    problem = None
    if failing is not None:
        problem = {
            "code": failing.code,
            "message": failing.answer,
            "hint": failing.hint,
            "retryable": not failing.lost,
        }
    severity = "" if rule is None else "none" if rule.severity is None else rule.severity.value
    return {
        "name": name,
        "type": str(target.__struct_config__.tag),
        "severity": severity,
        "events": sorted(rule.events) if rule is not None else [],
        "jobs": sorted(rule.jobs) if rule is not None else [],
        "state": "failing" if failing is not None else "unused" if last is None else "ok",
        "last": last.isoformat().replace("+00:00", "Z") if last is not None else None,
        "waiting": sum(item.channel == name for item in box.queue),
        "problem": problem,
    }
