"""From a notice to a message: subject, text and page, in the channel's language. Pure; the words are in `words`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from html import escape
from typing import Final, NamedTuple

from nanumpay_backupd.alerts import Notice, Phase
from nanumpay_backupd.events import Event, Severity
from nanumpay_backupd.model import Outcome, Run
from nanumpay_backupd.notifiers.base import Message
from nanumpay_backupd.notifiers.words import CAUSES, LANGUAGES, Language
from nanumpay_backupd.system.secrets import redact

__all__ = ["Sender", "compose", "page_of", "ping", "subject_of", "trial", "when"]

_LONGEST: Final = 110
"""Characters of a subject: what a phone shows of it, and some more."""
_COLOURS: Final = {Severity.ERROR: "#b3261e", Severity.WARNING: "#b26a00", Severity.INFO: "#1a7f37"}
Rows = list[tuple[str, str]]


class Sender(NamedTuple):
    """Who writes: this host's name, the zone in which times are shown, and the language (``en`` or ``ko``)."""

    host: str
    zone: tzinfo
    language: str


def compose(notice: Notice, sender: Sender) -> Message:
    """Write the message for a notice."""
    words = LANGUAGES[sender.language]
    title = redact(_headline(notice, sender.language))
    sentence = "" if notice.phase is Phase.ENDED else words.events[notice.event].sentence
    rows = [(label, redact(value)) for label, value in _rows(notice, sender)]
    return Message(
        id=notice.id,
        at=notice.at,
        subject=subject_of(title, sender.host),
        title=title,
        text="\n\n".join(filter(None, [sentence, "\n".join(_line(label, value) for label, value in rows)])),
        html=page_of(title, sentence, rows, notice.severity),
        language=sender.language,
        event=notice.event,
        of=notice.of,
        phase=notice.phase,
        severity=notice.severity,
        job=notice.job,
        run=notice.run,
        backup=notice.backup,
        reason=redact(notice.reason),
        hint=redact(notice.hint),
        code=notice.code,
        since=notice.since,
        count=notice.count,
        host=sender.host,
    )


def trial(identity: str, channel: str, at: datetime, sender: Sender) -> Message:
    """Write what ``backupctl notify test`` sends."""
    words = LANGUAGES[sender.language]
    title = words.events[Event.TEST].title
    sentence = words.events[Event.TEST].sentence
    rows = [("", words.test.format(channel=channel)), (words.labels["time"], when(at, sender.zone))]
    return Message(
        id=identity,
        at=at,
        subject=subject_of(title, sender.host),
        title=title,
        text="\n\n".join([sentence, "\n".join(_line(label, value) for label, value in rows)]),
        html=page_of(title, sentence, rows, Severity.INFO),
        language=sender.language,
        event=Event.TEST,
        of=Event.TEST,
        host=sender.host,
    )


def ping(run: Run, signal: str, host: str) -> Message:
    """Write the ping of a job's dead-man switch; its text is what the switch keeps in its log."""
    outcome = run.outcome or "running"
    title = f"{run.job}: {outcome}"
    text = [f"run {run.id} by {run.trigger}", *([run.error.message, run.error.hint] if run.error is not None else [])]
    return Message(
        id=f"{run.id}-{signal}",
        at=run.ended or run.started,
        subject=subject_of(title, host),
        title=title,
        text=redact("\n".join(filter(None, text))),
        severity=Severity.INFO if run.outcome in {None, Outcome.SUCCEEDED} else Severity.ERROR,
        job=run.job,
        run=run.id,
        host=host,
        signal=signal,
    )


def subject_of(title: str, host: str) -> str:
    """Put the host in front, and cut what is too long; one line for certain."""
    text = " ".join(f"[{host}] {title}".split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"


def when(moment: datetime, zone: tzinfo) -> str:
    """Write a moment to the second, with its zone."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S %Z}"


def _headline(notice: Notice, code: str) -> str:
    """Say in one line what happened, and briefly why."""
    words = LANGUAGES[code]
    named = {
        "job": notice.job or words.nobody,
        "channel": notice.key.partition(":")[2],
        "count": notice.count,
    }
    if notice.phase is Phase.ENDED:
        return words.events[notice.of].ended.format(**named)
    prefix = {Phase.REMINDER: words.reminder, Phase.CHANGED: words.changed}.get(notice.phase, "")
    title = prefix + words.events[notice.event].title.format(**named)
    cause = _cause(notice, code)
    return f"{title}: {cause}" if cause and notice.severity is not Severity.INFO else title


def _cause(notice: Notice, code: str) -> str:
    """Return why, as short as it can be said."""
    if code != "en" and notice.code in CAUSES:
        return CAUSES[notice.code].partition(". ")[0].rstrip(".")
    return (notice.reason or notice.text).partition("; ")[0].partition("\n")[0]


def _rows(notice: Notice, sender: Sender) -> Iterator[tuple[str, str]]:
    """Yield what is known, most important first: a label (may be empty) and its value."""
    words = LANGUAGES[sender.language]
    labels = words.labels
    if notice.parts:
        for part in notice.parts:
            yield when(part.at, sender.zone), _headline(part, sender.language)
        if notice.more:
            yield "", words.summary.format(more=notice.more)
        return
    yield from _why(notice, sender.language, words)
    if notice.job:
        yield labels["job"], notice.job
    yield labels["time" if notice.phase is not Phase.ENDED else "until"], when(notice.at, sender.zone)
    if notice.since is not None and notice.since != notice.at:
        often = f" ({words.times.format(count=notice.count)})" if notice.count > 1 else ""
        yield labels["since"], when(notice.since, sender.zone) + often
    for label, value in notice.details:
        yield labels[label], value
    if notice.backup:
        yield labels["backup"], notice.backup
    if notice.code:
        yield labels["code"], notice.code
    if notice.run:
        yield labels["more"], words.more.format(run=notice.run)


def _why(notice: Notice, code: str, words: Language) -> Iterator[tuple[str, str]]:
    labels, reason = words.labels, notice.reason or notice.text
    if notice.phase is Phase.ENDED:
        if reason:
            yield labels["was"], reason
        return
    known = CAUSES.get(notice.code, "") if code != "en" else ""
    if known:
        yield labels["reason"], known
        yield labels["detail"], reason
    elif reason:
        yield labels["reason"], reason
    if notice.hint:
        yield labels["hint"], notice.hint


def _line(label: str, value: str) -> str:
    return f"{label}: {value}" if label else value


def page_of(title: str, sentence: str, rows: Rows, severity: Severity, *, more: str = "") -> str:
    """Lay a message out as a page: tables and inline styles only, which is what mail programs show.

    ``more`` is HTML that follows.
    """
    colour = _COLOURS[severity]
    left = "padding:3px 14px 3px 0;color:#57606a;vertical-align:top;white-space:nowrap"
    cells = "".join(
        f'<tr><td style="{left}">{escape(label)}</td>'
        f'<td style="padding:3px 0;vertical-align:top">{escape(value)}</td></tr>'
        for label, value in rows
    )
    table = f'<table role="presentation" cellspacing="0" cellpadding="0" style="font-size:14px">{cells}</table>'
    return (
        "<div style=\"font-family:Helvetica,Arial,'Apple SD Gothic Neo','Malgun Gothic',sans-serif;"
        'font-size:14px;line-height:1.45;color:#1f2328;max-width:680px">'
        f'<div style="border-left:5px solid {colour};padding:2px 0 2px 12px;font-size:18px;font-weight:bold;'
        f'color:{colour}">{escape(title)}</div>'
        + (f'<p style="margin:12px 0">{escape(sentence)}</p>' if sentence else '<p style="margin:6px 0"></p>')
        + (table if rows else "")
        + more
        + "</div>"
    )
