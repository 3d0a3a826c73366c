"""How well a job is protected, in words: how far back it can be restored, its slices, objectives and drills.

Lines and rows only; nothing is written or asked here.
"""

from __future__ import annotations

from nanumpay_backupd.cli.terminal import Screen
from nanumpay_backupd.cli.words import Times, duration, promise

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["APPLICATION", "objective", "protection_rows", "stream_words"]

APPLICATION = "nanumpay"
"""The application's own job; commands mean it when none is named."""
_STREAMS = {
    "ok": "ok: every change is saved",
    "waiting": "waiting for a first full of one moment",
    "failing": "failing: the changes are not being saved",
    "broken": "broken: the changes since the last slice cannot follow on",
}
_OUTCOMES = {"succeeded": "ok", "failed": "FAILED"}
_STYLES = {"succeeded": "green", "failed": "red"}


def stream_words(job: str, stream: str, problem: Reply | None) -> tuple[str, str]:
    """Say how the slices of a job are doing, and what to do about it (empty: nothing)."""
    if stream == "off":
        place = "[nanumpay]" if job == APPLICATION else f"the [[job]] of {job}"
        hint = f'to save every change (replica set): pitr = "60s" in {place} of backupd.toml, then backupctl reload'
        return "off: only the moments of fulls can be restored", hint
    words = _STREAMS.get(stream, stream)
    if problem:
        return f"{words}: {problem['message']} (code {problem['code']})", problem["hint"]
    return words, f"it is made by itself; or now: backupctl run {job}" if stream == "waiting" else ""


def objective(screen: Screen, name: str, promised: float, measured: float | None, *, kept: bool | None) -> str:
    """Say whether an objective is kept: ``RPO 15m: kept``, ``RPO 15m: MISSED (23 min)``; empty: nothing is promised."""
    if not promised:
        return ""
    text = f"{name} {promise(promised)}: "
    if kept is None or measured is None:
        return text + "not known yet"
    return text + (screen.paint("kept", "green") if kept else screen.paint(f"MISSED ({duration(measured)})", "red"))


def protection_rows(screen: Screen, job: Reply, times: Times, told: list[str]) -> list[tuple[str, str]]:
    """Write the rows of one job's block in the status; what the problems have ``told`` already is only named."""
    shown = job["protection"]
    return [
        *_restore_row(screen, shown, times),
        *_stream_rows(screen, job, told),
        *_drill_row(screen, shown, times),
        *_spread_row(screen, shown.get("spread")),
    ]


def _restore_row(screen: Screen, shown: Reply, times: Times) -> list[tuple[str, str]]:
    until = shown.get("recoverable_until")
    rpo = objective(screen, "RPO", shown["rpo"], shown.get("age"), kept=shown.get("rpo_kept"))
    if not until:
        return [("restore", f"nothing can be restored yet; {rpo}")] if rpo else []
    parts = [f"recoverable until {times.clock(until)} ({times.ago(until)})"]
    if shown["stream"] == "off":
        parts[0] += ", moments of fulls only"
    return [("restore", "; ".join(part for part in (*parts, rpo) if part))]


def _stream_rows(screen: Screen, job: Reply, told: list[str]) -> list[tuple[str, str]]:
    shown = job["protection"]
    if shown["stream"] in {"off", "ok"}:
        return []
    problem = shown.get("problem")
    if problem and any(problem["message"] in one for one in told):
        return [("stream", screen.paint(shown["stream"], "yellow"))]
    words, hint = stream_words(job["name"], shown["stream"], problem)
    rows = [("stream", screen.paint(words, "yellow"))]
    return [*rows, ("", f"{screen.mark('hint')} {hint}")] if hint else rows


def _drill_row(screen: Screen, shown: Reply, times: Times) -> list[tuple[str, str]]:
    last, after = shown.get("last_drill"), shown.get("next_drill")
    seconds = shown.get("restore_seconds")
    rto = objective(screen, "RTO", shown["rto"], seconds, kept=shown.get("rto_kept"))
    parts = []
    if last:
        outcome = last.get("outcome") or "running"
        word = screen.paint(_OUTCOMES.get(outcome, outcome), _STYLES.get(outcome, "yellow"))
        parts.append(f"last {times.local(last['started']):%Y-%m-%d}: {word}")
        if seconds is not None:
            good = "restore took" if outcome == "succeeded" else "the last good restore took"
            parts[0] += f", {good} {duration(seconds)}"
    elif after or rto:
        parts.append("none yet")
    parts.append(rto)
    if after:
        parts.append(f"next {times.when(after)}")
    text = "; ".join(part for part in parts if part)
    return [("drill", text)] if text else []


def _spread_row(screen: Screen, spread: Reply | None) -> list[tuple[str, str]]:
    """Say how 3-2-1 stands, of which backup there is one; an older daemon does not tell."""
    if not spread or not spread["backup"]:
        return []
    media, away = spread["media"], spread["offsite"]
    counted = (
        f"{spread['copies']} copies with the data itself, "
        f"{len(media)} {'medium' if len(media) == 1 else 'media'} ({', '.join(media)}), {away} off-site"
    )
    wanted = "-".join(str(spread[f"wanted_{what}"]) for what in ("copies", "media", "offsite"))
    if spread.get("kept") is None:
        return [("3-2-1", counted)]
    kept = screen.paint("kept", "green") if spread["kept"] else screen.paint("MISSED", "red")
    return [("3-2-1", f"{counted}; {wanted} demanded: {kept}")]
