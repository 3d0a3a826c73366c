"""What was measured: rows with their targets, and plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Report", "Row"]


@dataclass
class Row:
    """One line of the table: what, measured, promised."""

    what: str
    measured: str
    target: str
    kept: bool


@dataclass
class Report:
    """The rows and the plain facts of one bench."""

    rows: list[Row] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def add(self, what: str, measured: float, target: float, *, unit: str = "", least: bool = False) -> None:
        """Add a row; ``least``: the target is a floor, else a ceiling."""
        sign = "≥" if least else "≤"
        kept = measured >= target if least else measured <= target
        number = f"{measured:,.2f}" if measured < 10 else f"{measured:,.0f}"
        row = Row(what, f"{number}{unit}", f"{sign} {target:g}{unit}", kept)
        self.rows.append(row)
        print(f"  {'✓' if kept else '✗'} {row.what}: {row.measured} (target {row.target})", flush=True)

    def fact(self, text: str) -> None:
        """Add a plain fact."""
        self.facts.append(text)
        print(f"    {text}", flush=True)
