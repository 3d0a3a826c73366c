"""A report as plain text and as a page with a small chart, in Korean and English. Gathers nothing.

The page is made of tables with inline styles and plain colours: mail programs show neither scripts nor style sheets,
many no pictures, and some (Outlook) no SVG. So the bars of the chart are cells of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from html import escape
from typing import Final
from zoneinfo import ZoneInfo

from nanumpay_backupd.events import Event, Severity
from nanumpay_backupd.notifiers.base import Message
from nanumpay_backupd.notifiers.letter import Sender, page_of, subject_of
from nanumpay_backupd.notifiers.words import LANGUAGES
from nanumpay_backupd.reports.figures import Day, JobReport, PlaceReport, Report
from nanumpay_backupd.system.secrets import redact
from nanumpay_backupd.system.units import human_size, human_span
from nanumpay_backupd.wording import words_for

__all__ = ["page", "report_message", "text"]

_WIDTH: Final = 300
"""Pixels of the longest bar."""
_GOOD, _FAIR, _BAD, _NONE = "#2da44e", "#d29922", "#cf222e", "#d0d7de"
_COLOURS: Final = {
    "succeeded": _GOOD,
    "degraded": _FAIR,
    "cancelled": _FAIR,
    "skipped": _FAIR,
    "failed": _BAD,
    "interrupted": _BAD,
}
_WORDS: Final = {
    "en": {
        "well": "All is well",
        "warning": "Working, with something to look at",
        "failing": "Something is failing",
        "succeeded": "succeeded",
        "degraded": "degraded",
        "failed": "failed",
        "interrupted": "interrupted",
        "cancelled": "cancelled",
        "skipped": "skipped",
        "none": "none",
        "runs": "Backups",
        "count": "{count} {what}",
        "size": "Newest backup",
        "total": "All copies",
        "rpo": "Most that may be lost (RPO)",
        "rto": "Longest restore (RTO)",
        "kept": "kept {share} of the time, at worst {worst}",
        "worst": "nothing is promised; at worst {worst} could have been lost",
        "unknown": "not known: there is nothing that can be restored",
        "measured": "promised {rto}, the last drill took {took}",
        "unmeasured": "promised {rto}, not measured yet",
        "took": "nothing is promised; the last drill took {took}",
        "drill": "Last drill",
        "never": "never",
        "next": "Next",
        "backup": "backup {at}",
        "trial": "drill {at}",
        "check": "verification {at}",
        "copies": "Copies",
        "place": "{copies} at {place} ({size})",
        "pending": "{count} waiting",
        "missing": "{count} missing",
        "corrupt": "{count} corrupt",
        "disabled": "disabled",
        "problems": "To look at",
        "span": "{since} to {until}",
        "chart": "Size by day",
        "title": "Backup report",
    },
    "ko": {
        "well": "모두 정상입니다",
        "warning": "동작 중이지만 확인할 것이 있습니다",
        "failing": "문제가 있습니다",
        "succeeded": "성공",
        "degraded": "사본 누락",
        "failed": "실패",
        "interrupted": "중단됨",
        "cancelled": "취소됨",
        "skipped": "건너뜀",
        "none": "없음",
        "runs": "백업",
        "count": "{what} {count}",
        "size": "최신 백업",
        "total": "모든 사본",
        "rpo": "최대 손실 시간 (RPO)",
        "rto": "최대 복원 시간 (RTO)",
        "kept": "{share} 지켜짐, 가장 길 때 {worst}",
        "worst": "목표 없음, 가장 길 때 {worst}",
        "unknown": "알 수 없음: 복원할 수 있는 백업이 없습니다",
        "measured": "목표 {rto}, 마지막 훈련 {took}",
        "unmeasured": "목표 {rto}, 아직 측정되지 않음",
        "took": "목표 없음, 마지막 훈련 {took}",
        "drill": "마지막 복원 훈련",
        "never": "없음",
        "next": "다음 일정",
        "backup": "백업 {at}",
        "trial": "복원 훈련 {at}",
        "check": "검증 {at}",
        "copies": "사본",
        "place": "{place}에 {copies}개 ({size})",
        "pending": "대기 {count}",
        "missing": "없어짐 {count}",
        "corrupt": "손상 {count}",
        "disabled": "사용 안 함",
        "problems": "확인할 것",
        "span": "{since} ~ {until}",
        "chart": "날짜별 크기",
        "title": "백업 보고서",
    },
}
_ORDER: Final = ("succeeded", "degraded", "failed", "interrupted", "cancelled", "skipped")


def report_message(report: Report, identity: str, sender: Sender) -> Message:
    """Write the message that brings a report."""
    words = LANGUAGES[sender.language].events[Event.REPORT]
    title = f"{words.title.format(days=report.length)}: {_health(report, sender.language)}"
    return Message(
        id=identity,
        at=datetime.fromisoformat(report.until),
        subject=subject_of(title, sender.host),
        title=title,
        text=text(report, sender.language),
        html=page(report, sender.language),
        language=sender.language,
        event=Event.REPORT,
        of=Event.REPORT,
        severity=_severity(report),
        host=sender.host,
    )


def text(report: Report, language: str) -> str:
    """Write a report as plain text."""
    words = _WORDS[language]
    lines = [f"{words['title']} {report.host}, {_span(report, language)}", _health(report, language)]
    for job in report.jobs:
        lines += ["", job.job + ("" if job.enabled else f" ({words['disabled']})")]
        lines += [f"  {label}: {value}" for label, value in _rows(job, report, language)]
        lines += [f"  {_bar_line(day, job, language)}" for day in job.days]
    if report.problems:
        lines += ["", f"{words['problems']}:", *(f"  - {problem}" for problem in report.problems)]
    return redact("\n".join(lines))


def page(report: Report, language: str) -> str:
    """Write a report as a page."""
    words = _WORDS[language]
    body = "".join(_job(job, report, language) for job in report.jobs)
    if report.problems:
        items = "".join(f'<li style="margin:3px 0">{escape(redact(item))}</li>' for item in report.problems)
        body += _heading(words["problems"]) + f'<ul style="margin:4px 0;padding-left:20px">{items}</ul>'
    head = f"{report.host}, {_span(report, language)}"
    inner = page_of(_health(report, language), head, [], _severity(report), more=body)
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(words["title"])}</title></head>'
        f'<body style="margin:0;padding:16px;background:#ffffff">{inner}</body></html>'
    )


def _severity(report: Report) -> Severity:
    return {"ok": Severity.INFO, "warning": Severity.WARNING}.get(report.health, Severity.ERROR)


def _health(report: Report, language: str) -> str:
    return _WORDS[language][{"ok": "well", "warning": "warning"}.get(report.health, "failing")]


def _span(report: Report, language: str) -> str:
    zone = _zone(report)
    first, last = (datetime.fromisoformat(moment).astimezone(zone) for moment in (report.since, report.until))
    return _WORDS[language]["span"].format(since=f"{first:%Y-%m-%d %H:%M}", until=f"{last:%Y-%m-%d %H:%M %Z}")


def _heading(words: str) -> str:
    return f'<div style="margin:20px 0 4px 0;font-size:16px;font-weight:bold">{escape(words)}</div>'


def _job(job: JobReport, report: Report, language: str) -> str:
    words = _WORDS[language]
    rows = "".join(
        '<tr><td style="padding:2px 14px 2px 0;color:#57606a;vertical-align:top;white-space:nowrap">'
        f'{escape(label)}</td><td style="padding:2px 0;vertical-align:top">{escape(value)}</td></tr>'
        for label, value in _rows(job, report, language)
    )
    name = job.job + ("" if job.enabled else f" ({words['disabled']})")
    table = '<table role="presentation" cellspacing="0" cellpadding="0" style="font-size:14px">'
    return _heading(name) + f"{table}{rows}</table>" + _chart(job, language)


def _chart(job: JobReport, language: str) -> str:
    """Draw one bar for each day: as long as its backup is large, and of the colour of how the day went."""
    words = _WORDS[language]
    rows = "".join(_bar(day, job, language) for day in job.days)
    return (
        f'<div style="margin:10px 0 3px 0;color:#57606a;font-size:13px">{escape(words["chart"])}</div>'
        f'<table role="presentation" cellspacing="0" cellpadding="0" style="font-size:12px">{rows}</table>'
    )


def _bar(day: Day, job: JobReport, language: str) -> str:
    colour = _COLOURS.get(day.outcome, _NONE)
    # A day without a backup, or with one that failed, still has a mark.
    pixels = max(4, round(_WIDTH * _share(day, job)))
    bar = (
        f'<table role="presentation" cellspacing="0" cellpadding="0"><tr>'
        f'<td width="{pixels}" height="12" bgcolor="{colour}" '
        f'style="width:{pixels}px;height:12px;background:{colour};font-size:1px;line-height:1px">&nbsp;</td>'
        f'<td style="padding-left:6px;white-space:nowrap">{escape(_caption(day, language))}</td></tr></table>'
    )
    label = f'<td style="padding:1px 10px 1px 0;color:#57606a;white-space:nowrap">{escape(day.date[5:])}</td>'
    return f'<tr>{label}<td style="padding:1px 0">{bar}</td></tr>'


def _share(day: Day, job: JobReport) -> float:
    return day.size / (max(item.size for item in job.days) or 1)


def _caption(day: Day, language: str) -> str:
    words = _WORDS[language]
    if not day.runs and not day.size:
        return words["none"]
    size = human_size(day.size) if day.size else ""
    outcome = words.get(day.outcome, day.outcome) if day.outcome not in ("succeeded", "") or not size else ""
    return ", ".join(filter(None, [size, outcome]))


def _bar_line(day: Day, job: JobReport, language: str) -> str:
    return f"{day.date}  {'#' * round(20 * _share(day, job)):<20}  {_caption(day, language)}"


def _rows(job: JobReport, report: Report, language: str) -> Iterator[tuple[str, str]]:
    """Yield label and value of what is told of a job."""
    words = _WORDS[language]
    told = [
        words["count"].format(count=job.outcomes[name], what=words[name]) for name in _ORDER if job.outcomes.get(name)
    ]
    yield words["runs"], ", ".join(told) or words["none"]
    if job.size:
        grown = f" ({'+' if job.growth >= 0 else '-'}{human_size(abs(job.growth))})" if job.growth is not None else ""
        own = words_for(job.source)
        count = own.korean.format(count=f"{job.documents:,}") if language == "ko" else own.count_items(job.documents)
        yield words["size"], f"{human_size(job.size)}{grown}, {count}"
    yield words["rpo"], _rpo(job, language)
    if job.rto or job.restore_seconds is not None:
        yield words["rto"], _rto(job, language)
    yield words["drill"], _drill(job, report, language)
    due = [
        words[key].format(at=_moment(at, report))
        for key, at in (("backup", job.next_run), ("trial", job.next_drill), ("check", job.next_verify))
        if at
    ]
    yield words["next"], ", ".join(due) or words["none"]
    yield words["copies"], "; ".join(_place(place, language) for place in job.places)


def _rpo(job: JobReport, language: str) -> str:
    words = _WORDS[language]
    if job.rpo_worst is None:
        return words["unknown"]
    worst = human_span(job.rpo_worst)
    if job.rpo_kept is None:
        return words["worst"].format(worst=worst)
    # Not rounded up: 100 % means always.
    share = f"{int(job.rpo_kept * 1000) / 10:g} %"
    return f"{human_span(job.rpo)}: {words['kept'].format(share=share, worst=worst)}"


def _rto(job: JobReport, language: str) -> str:
    words = _WORDS[language]
    if not job.rto:
        return words["took"].format(took=human_span(job.restore_seconds or 0.0))
    if job.restore_seconds is None:
        return words["unmeasured"].format(rto=human_span(job.rto))
    return words["measured"].format(rto=human_span(job.rto), took=human_span(job.restore_seconds))


def _drill(job: JobReport, report: Report, language: str) -> str:
    words = _WORDS[language]
    if job.last_drill is None:
        return words["never"]
    return f"{_moment(job.last_drill, report)}, {words.get(job.drill_outcome, job.drill_outcome)}"


def _place(place: PlaceReport, language: str) -> str:
    words = _WORDS[language]
    marks = {"pending": place.pending, "missing": place.missing, "corrupt": place.corrupt}
    found = [words[key].format(count=count) for key, count in marks.items() if count]
    told = words["place"].format(copies=place.copies, place=place.destination, size=human_size(place.size))
    return ", ".join([told, *found])


def _moment(moment: str, report: Report) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(_zone(report)):%m-%d %H:%M}"


def _zone(report: Report) -> tzinfo:
    try:
        return ZoneInfo(report.timezone)
    except (OSError, ValueError, KeyError):
        return UTC
