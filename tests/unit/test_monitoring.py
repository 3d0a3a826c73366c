"""What docs/monitoring has is of use as it is: rules that fire when they should, a dashboard, the table of metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from nanumpay_backupd.metrics.table import METRICS, PREFIX
from tests.servers.promtool import promtool
from tests.servers.tools import PROJECT

FOLDER: Final = PROJECT / "docs" / "monitoring"
ALERTS: Final = FOLDER / "alerts.yml"
PAGE: Final = (PROJECT / "docs" / "monitoring.md").read_text(encoding="utf-8")
BOARD: Final[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
NAMES: Final = frozenset(metric.full_name for metric in METRICS)
NAME: Final = re.compile(rf"\b{PREFIX}\w+")
JOB: Final = 'instance="h",job_name="shop"'
FLEET: Final = 'job="nanumpay-backupd",state="holder"'
DAY: Final = 288
"""Samples of a day, one in five minutes."""


class Case(NamedTuple):
    """An alert, series on which it fires at ``at`` with these labels, and series on which it does not."""

    alert: str
    at: str
    labels: str
    bad: Mapping[str, str]
    good: Mapping[str, str]


def outcome(action: str, name: str) -> dict[str, str]:
    """Return the series of a run that ended so."""
    return {
        f'last_run_outcome{{{JOB},action="{action}",outcome="{item}"}}': f"{int(item == name)}x40"
        for item in ("succeeded", "degraded", "failed", "cancelled", "interrupted")
    }


def failed(alert: str, action: str, name: str, at: str = "1h") -> Case:
    """Return the case of a last run that ended so; one that succeeded is no reason."""
    labels = f'severity="critical",{JOB},action="{action}",outcome="{name}"'
    return Case(alert, at, labels, outcome(action, name), outcome(action, "succeeded"))


def simple(alert: str, severity: str, at: str, bad: tuple[str, str], good: tuple[str, str], labels: str = "") -> Case:
    """Return the case of one series; ``labels`` are those of the alert where they are not those of the series."""
    own = labels or bad[0].partition("{")[2].removesuffix("}")
    return Case(alert, at, f'severity="{severity}",{own}', dict([bad]), dict([good]))


ENABLED: Final = {f"job_enabled{{{JOB}}}": f"1x{20 * DAY}"}
DUE: Final = {f'next_due_timestamp_seconds{{{JOB},task="drill"}}': f"2000000x{20 * DAY}"}
PLACES: Final = (f'newest_verified_timestamp_seconds{{{JOB},destination="', '"}')
DISK: Final = {'filesystem_size_bytes{instance="h"}': f"1000x{3 * DAY}"}
FREE: Final = 'filesystem_free_bytes{instance="h"}'
DRILLED: Final = f'last_success_timestamp_seconds{{{JOB},action="drill"}}'


def place(name: str, value: str) -> dict[str, str]:
    """Return the series of the newest proven copy at a place."""
    return {name.join(PLACES): f"{value}x{20 * DAY}"}


CASES: Final = (
    Case(
        "NanumpayBackupDown",
        "10m",
        'severity="critical",instance="h",job="nanumpay-backupd"',
        {'!up{instance="h",job="nanumpay-backupd"}': "0x10"},
        {'!up{instance="h",job="nanumpay-backupd"}': "1x10", '!up{instance="h",job="other"}': "0x10"},
    ),
    simple(
        "NanumpayBackupAbsent",
        "critical",
        "30m",
        ("health{instance='h'}", "1x10"),
        ('build_info{instance="h",version="1"}', "1x10"),
        " ",
    ),
    simple(
        "NanumpayBackupFiguresOld",
        "critical",
        "20m",
        ('figures_timestamp_seconds{instance="h"}', "0x10"),
        ('figures_timestamp_seconds{instance="h"}', "0+300x10"),
    ),
    Case(
        "NanumpayBackupTooOld",
        "42h",
        f'severity="critical",{JOB}',
        ENABLED | place("local", "0") | place("cloud", "0"),
        ENABLED | place("local", "0") | place("cloud", "86400"),
    ),
    Case(
        "NanumpayBackupTooOld",
        "42h",
        f'severity="critical",{JOB}',
        ENABLED | place("local", "0"),
        {f"job_enabled{{{JOB}}}": f"0x{2 * DAY}"} | place("local", "0"),
    ),
    Case("NanumpayBackupNone", "30h", f'severity="critical",{JOB}', ENABLED, ENABLED | place("local", "0")),
    Case(
        "NanumpayBackupCopyTooOld",
        "78h",
        f'severity="warning",{JOB},destination="cloud"',
        ENABLED | place("local", "200000") | place("cloud", "0"),
        ENABLED | place("local", "0") | place("cloud", "200000"),
    ),
    simple(
        "NanumpayBackupCopyCorrupt",
        "critical",
        "5m",
        (f'copies_corrupt{{{JOB},destination="local"}}', "2x10"),
        (f'copies_corrupt{{{JOB},destination="local"}}', "0x10"),
    ),
    simple("NanumpayBackupRpoMissed", "critical", "1h", (f"rpo_kept{{{JOB}}}", "0x20"), (f"rpo_kept{{{JOB}}}", "1x20")),
    simple("NanumpayBackupRtoMissed", "warning", "5m", (f"rto_kept{{{JOB}}}", "0x20"), (f"rto_kept{{{JOB}}}", "1x20")),
    simple(
        "NanumpayBackupSpreadMissed",
        "warning",
        "3h",
        (f"spread_kept{{{JOB}}}", "0x200"),
        (f"spread_kept{{{JOB}}}", "1x200"),
    ),
    failed("NanumpayBackupRunFailed", "backup", "failed"),
    failed("NanumpayBackupRunFailed", "backup", "interrupted"),
    Case(
        "NanumpayBackupDegraded",
        "3h",
        f'severity="warning",{JOB},action="backup",outcome="degraded"',
        outcome("backup", "degraded"),
        outcome("backup", "cancelled"),
    ),
    simple(
        "NanumpayBackupUploadsQueued",
        "warning",
        "4h",
        (f'uploads_pending{{{JOB},destination="cloud"}}', "1x50"),
        (f'uploads_pending{{{JOB},destination="cloud"}}', "1x20 0x30"),
    ),
    simple(
        "NanumpayBackupChangesNotSaved",
        "warning",
        "1h",
        (f'changes_state{{{JOB},state="broken"}}', "1x20"),
        (f'changes_state{{{JOB},state="waiting"}}', "1x20"),
    ),
    failed("NanumpayBackupVerifyFailed", "verify", "failed"),
    failed("NanumpayBackupVerifyFailed", "verify", "degraded"),
    failed("NanumpayBackupDrillFailed", "drill", "failed"),
    Case(
        "NanumpayBackupDrillTooOld",
        "16d",
        f'severity="warning",{JOB},action="drill"',
        DUE | {DRILLED: f"0x{20 * DAY}"},
        DUE | {DRILLED: f"200000x{20 * DAY}"},
    ),
    Case(
        "NanumpayBackupNeverDrilled",
        "16d",
        f'severity="warning",{JOB},task="drill"',
        DUE,
        DUE | {DRILLED: f"0x{20 * DAY}"},
    ),
    Case(
        "NanumpayBackupDiskLow",
        "1h",
        'severity="warning",instance="h"',
        DISK | {FREE: "99x20"},
        DISK | {FREE: "101x20"},
    ),
    # A thousand in 48 hours would be gone in four days more; with as much left it may be the yearly one.
    Case(
        "NanumpayBackupDiskFillsUp",
        "2d",
        'severity="warning",instance="h"',
        DISK | {FREE: f"390-0.5x{3 * DAY}"},
        DISK | {FREE: f"390-0.05x{3 * DAY}"},
    ),
    simple(
        "NanumpayBackupSettingsRefused",
        "warning",
        "1h",
        ('settings_refused{instance="h"}', "1x20"),
        ('settings_refused{instance="h"}', "0x20"),
    ),
    simple(
        "NanumpayBackupNotificationsFail",
        "warning",
        "2h",
        ('notifications_failing{instance="h",channel="mail"}', "1x30"),
        ('notifications_failing{instance="h",channel="mail"}', "0x30"),
    ),
    Case(
        "NanumpayBackupFleetWithoutHolder",
        "30m",
        'severity="critical",job="nanumpay-backupd"',
        {f'fleet_role{{instance="{host}",{FLEET}}}': "0x10" for host in "ab"},
        {f'fleet_role{{instance="{host}",{FLEET}}}': f"{int(host == 'b')}x10" for host in "ab"},
    ),
    simple(
        "NanumpayBackupFailing",
        "critical",
        "1h",
        ('health{instance="h",state="failing"}', "1x20"),
        ('health{instance="h",state="warning"}', "1x20"),
    ),
    Case(
        "NanumpayBackupProblem",
        "30h",
        f'severity="warning",{JOB},kind="size"',
        {f'problems{{{JOB},severity="error",kind="size"}}': f"1x{2 * DAY}"},
        {f'problems{{{JOB},severity="warning",kind="disabled"}}': f"1x{2 * DAY}"},
    ),
)


def played(case: Case, series: Mapping[str, str], *, fires: bool) -> dict[str, Any]:
    """Return one test for promtool."""
    labels = case.labels.strip().strip(",")
    alert = f'ALERTS{{alertname="{case.alert}",alertstate="firing",{labels}}}'
    return {
        "interval": "5m",
        "input_series": [
            {"series": name[1:] if name.startswith("!") else f"{PREFIX}{name}", "values": text}
            for name, text in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": case.at,
                "exp_samples": [{"labels": alert, "value": 1}] if fires else [],
            }
        ],
    }


@pytest.mark.parametrize("every, within", [("5m", False), ("3h", True)], ids=["hours", "days"])
def test_every_alert_fires_when_it_should_and_not_before(tmp_path: Path, every: str, *, within: bool) -> None:
    """Each rule against made-up series: on some it fires, with the labels that route it, and on others it does not.

    What takes days is looked at every three hours: promtool works out every rule each time.
    """
    cases = [case for case in CASES if _takes_days(case.at) is within]
    tests = [played(case, case.bad, fires=True) for case in cases]
    tests += [played(case, case.good, fires=False) for case in cases]
    # Nothing fires before its time.
    tests += [played(case._replace(at="0m"), case.bad, fires=False) for case in cases if _waits(case.alert)]
    told = {"rule_files": [str(ALERTS)], "evaluation_interval": every, "tests": tests}
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(told), encoding="utf-8")  # which is YAML as well
    promtool("test", "rules", file)


def _takes_days(at: str) -> bool:
    """Tell whether a time is more than some hours from the beginning."""
    return "d" in at or (at.endswith("h") and int(at[:-1]) > 5)


def _waits(alert: str) -> bool:
    """Tell whether a rule has a time to wait."""
    return "\n        for: " in _rules()[alert]


def _rules() -> dict[str, str]:
    """Return the text of each rule."""
    found = re.split(r"^      - alert: (\w+)$", ALERTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_every_alert_is_played() -> None:
    """No rule is left out above, and each says how severe it is and what to do."""
    rules = _rules()
    assert rules.keys() == {case.alert for case in CASES}
    for text in rules.values():
        assert re.search(r"labels: \{severity: (critical|warning)\}", text)
        assert "summary: " in text
        assert "description: " in text


def test_promtool_takes_rules_and_configuration() -> None:
    """Both files are as Prometheus wants them."""
    promtool("check", "rules", "--lint=all", ALERTS)
    promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")


def expressions() -> Iterator[str]:
    """Yield the expressions of the dashboard, with its variables filled in."""
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$instance", ".*").replace("$job_name", ".*")


def test_the_dashboard_can_be_imported(tmp_path: Path) -> None:
    """It names no data source of somebody else's, no panel covers another, and promtool parses every expression."""
    assert BOARD["id"] is None
    source, *variables = BOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert {item["name"] for item in variables} == {"instance", "job_name"}
    seen: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not seen & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        seen |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    rules = [{"record": f"r:{at}", "expr": expression} for at, expression in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", file)


def test_rules_and_dashboard_name_metrics_that_exist() -> None:
    """A renamed metric is not left behind in either; and the page tells of each metric, of its labels, and no other."""
    used = set(NAME.findall(ALERTS.read_text(encoding="utf-8"))) | set(NAME.findall(json.dumps(BOARD)))
    assert used <= NAMES
    section = PAGE.partition("\n## The metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", section, re.MULTILINE)
    assert rows == [
        (
            metric.full_name.removeprefix(PREFIX),
            "counter" if metric.counter else "gauge",
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for metric in METRICS
    ]


def test_the_page_names_every_alert_and_every_file() -> None:
    """What somebody gets who takes the file over is told beforehand."""
    section = PAGE.partition("\n## The alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(_rules())
    for path in FOLDER.iterdir():
        assert f"(monitoring/{path.name})" in PAGE


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_a_good_name_and_says_what_it_is(metric: Any) -> None:
    """Base units, a sentence of help, and no label that Prometheus gives itself."""
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
    assert metric.help.endswith(".")
    assert not {"job", "instance", "le", "quantile"} & set(metric.labels)
