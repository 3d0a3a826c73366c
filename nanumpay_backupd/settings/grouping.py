"""Pure: groups of jobs: which may be one, and when it is due. Starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from nanumpay_backupd.blackout import covers_week, parse
from nanumpay_backupd.settings.problems import Problems, nearest, show
from nanumpay_backupd.settings.schema import (
    APPLICATION_JOB,
    GroupSpec,
    HostConfig,
    HostGroup,
    HostJob,
    JobSpec,
    Limits,
    Schedule,
)

__all__ = ["build_groups", "check_groups", "in_groups"]


def check_groups(
    groups: Iterable[HostGroup],
    named: Sequence[str],
    jobs: Iterable[HostJob],
    tables: Mapping[str, Mapping[str, Any]],
    problems: Problems,
) -> None:
    """Note what is wrong with the groups of a host file.

    ``named`` are the names of the jobs that it has, ``jobs`` those of them that are good by themselves, ``tables`` what
    its single tables say.
    """
    good = {job.name: job for job in jobs}
    application = tables["nanumpay"].get("enabled", True)
    known = [APPLICATION_JOB, *named] if application else list(named)
    taken: dict[str, str] = {}
    for group in groups:
        path = f"group.{group.name}"
        if group.name in named:
            problems.add(path, "has the name of a job", "choose another name: both are run by their name")
        if len(group.jobs) == 1:
            problems.add(f"{path}.jobs", "names one job only", "name those that belong together, or drop the group")
        for name in group.jobs:
            _check_member(group, name, known, good, taken, problems)
        if APPLICATION_JOB in group.jobs and group.schedule:
            fix = f"leave it out: the whole group is made when {APPLICATION_JOB} is due; or leave that job out"
            problems.add(
                f"{path}.schedule", f"is set, but the application's form says when {APPLICATION_JOB} runs", fix
            )
        _check_blackouts(group, good, tables, problems)


def _check_member(
    group: HostGroup,
    name: str,
    known: Sequence[str],
    good: Mapping[str, HostJob],
    taken: dict[str, str],
    problems: Problems,
) -> None:
    path = f"group.{group.name}.jobs"
    if name not in known:
        close = nearest(name, known)
        fix = f"did you mean {close}?" if close else f"the jobs are: {', '.join(known) or 'none'}"
        if name == APPLICATION_JOB:
            fix = "switch it on under [nanumpay], or take it out"
        problems.add(path, f"names {show(name)}, but there is no such job", fix)
    if name in taken:
        fix = "a job is in one group at most: its backup belongs to one moment"
        problems.add(path, f"names {show(name)}, which is in group {taken[name]} already", fix)
    taken.setdefault(name, group.name)
    if name in good and good[name].schedule:
        fix = f"take it out: group {group.name} says when its jobs are made; or take the job out of the group"
        problems.add(f"job.{name}.schedule", f"is set, but the job is in group {group.name}", fix)


def _check_blackouts(
    group: HostGroup, good: Mapping[str, HostJob], tables: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """See that the blackouts of all members together leave time: of each alone that is seen to elsewhere."""
    common = tuple(tables["limits"].get("blackout", ()))
    windows: set[str] = set()
    for name in group.jobs:
        own = tables["nanumpay"].get("limits") if name == APPLICATION_JOB else None
        if name in good:
            own = good[name].limits
        windows.update(own.blackout if own is not None else common)
    parsed = [parse(text) for text in windows]
    if len(group.jobs) > 1 and covers_week(parsed):
        problems.add(
            f"group.{group.name}",
            "has jobs whose blackouts together leave no time in the whole week: it would never be made",
            "leave some hours free in the blackouts of all of them",
        )


def in_groups(host: HostConfig, jobs: Iterable[JobSpec]) -> tuple[JobSpec, ...]:
    """Return the jobs, those of a group with its name and its schedule."""
    jobs = tuple(jobs)
    groups = {name: group for group in host.groups for name in group.jobs}
    found = []
    for job in jobs:
        group = groups.get(job.name)
        if group is not None:
            job = msgspec.structs.replace(job, group=group.name, schedule=_schedule(host, group, jobs))  # noqa: PLW2901
        found.append(job)
    return tuple(found)


def build_groups(host: HostConfig, jobs: Iterable[JobSpec]) -> tuple[GroupSpec, ...]:
    """Return all groups, as the jobs (of `merge.build_jobs`) make them."""
    jobs = tuple(jobs)
    return tuple(_group(host, group, [job for job in jobs if job.group == group.name]) for group in host.groups)


def _group(host: HostConfig, group: HostGroup, members: Sequence[JobSpec]) -> GroupSpec:
    leader = next((job for job in members if job.name == APPLICATION_JOB), None)
    blackout = tuple(dict.fromkeys(text for job in members for text in job.limits.blackout))
    return GroupSpec(
        name=group.name,
        jobs=group.jobs,
        schedule=members[0].schedule if members else None,
        enabled=group.enabled and (leader is None or leader.enabled),
        catch_up=group.catch_up,
        timezone=host.timezone,
        limits=Limits(blackout=blackout),
        notes=tuple(_notes(members)),
    )


def _notes(members: Sequence[JobSpec]) -> list[str]:
    """Say where retention will take the group apart."""
    rules = [msgspec.structs.replace(job.retention, max_total_size=0) for job in members]
    if all(rule == rules[0] for rule in rules) and not any(job.policies for job in members):
        return []
    text = "its jobs keep their backups for different times: older groups lose a member first, and are then restored"
    return [f"{text} in part only (backupctl list {members[0].group} shows which)"]


def _schedule(host: HostConfig, group: HostGroup, jobs: Iterable[JobSpec]) -> Schedule | None:
    """Return when a group is due: when the application's form says so, else as its own table says."""
    if APPLICATION_JOB in group.jobs:
        return next((job.schedule for job in jobs if job.name == APPLICATION_JOB), None)
    return Schedule(cron=group.schedule, timezone=host.timezone) if group.schedule else None
