"""Figures without a daemon: what the catalog counts, which labels there are, where they may be fetched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd import catalog as catalog_module
from nanumpay_backupd.catalog import Catalog, Tally
from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.events import Fault, Severity
from nanumpay_backupd.metrics import web
from nanumpay_backupd.metrics.exposition import encode, wants_open_metrics
from nanumpay_backupd.metrics.figures import ACTIONS, Figures, JobFigures, samples
from nanumpay_backupd.metrics.web import Page, Render, WebServer
from nanumpay_backupd.model import (
    FULLS,
    LOCAL,
    SLICES,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    Outcome,
    Run,
    Trigger,
)
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.system.files import replace_for_all
from tests.servers.promtool import promtool
from tests.workbench import NOW


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        yield catalog


ended = st.tuples(st.sampled_from(["nanumpay", "shop"]), st.sampled_from(ACTIONS), st.sampled_from(Outcome))


@settings(max_examples=30)
@given(batches=st.lists(st.lists(ended, max_size=12), min_size=1, max_size=4), kept=st.integers(0, 8))
def test_the_count_of_runs_never_goes_back(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str, Outcome]]], kept: int
) -> None:
    """However many runs stay on record, each that ended is counted once, and one that is running is not."""
    path = tmp_path_factory.mktemp("counts") / "catalog.db"
    counted: Counter[tuple[str, str, str]] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "_KEPT_RUNS", kept)
        patch.setattr(catalog_module, "_KEPT_SLICE_RUNS", kept)
        for number, batch in enumerate(batches):
            with Catalog(path) as catalog:  # each time anew, as after a restart
                for at, (job, action, outcome) in enumerate(batch):
                    moment = NOW + timedelta(minutes=number * 100 + at)
                    run = Run(id=f"{number}-{at}", job=job, trigger=Trigger.MANUAL, started=moment, action=action)
                    catalog.save_run(run)
                    catalog.save_run(
                        Run(
                            id=run.id,
                            job=job,
                            trigger=run.trigger,
                            started=moment,
                            action=action,
                            ended=moment,
                            outcome=outcome,
                        )
                    )
                    counted[job, action, outcome.value] += 1
                catalog.forget_old_runs()
                for job in ("nanumpay", "shop"):
                    expected = {key[1:]: count for key, count in counted.items() if key[0] == job}
                    assert catalog.run_counts(job) == expected
    with Catalog(path) as catalog:
        assert len(catalog.runs(limit=1000)) <= 2 * kept or kept >= sum(map(len, batches))


states = st.tuples(
    st.sampled_from(Kind),
    st.sampled_from(BackupState),
    st.dictionaries(st.sampled_from([LOCAL, "cloud", "usb"]), st.sampled_from(CopyState), min_size=1),
    st.integers(0, 10**9),
)


@settings(max_examples=40)
@given(made=st.lists(states, max_size=12))
def test_what_lies_where_is_what_the_listing_says(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[Kind, BackupState, dict[str, CopyState], int]]
) -> None:
    """The sums, and the newest proven copy, against the backups one by one, and against what the status shows."""
    with Catalog(tmp_path_factory.mktemp("tallies") / "catalog.db") as catalog:
        for at, (kind, state, copies, size) in enumerate(made):
            catalog.save_backup(backup(at, kind, state, copies, size))
        tallies = catalog.tallies("nanumpay")
        for tally in tallies:
            found = [
                (item, copy)
                for item in catalog.backups("nanumpay")
                for copy in item.copies
                if (copy.destination, item.kind, copy.state) == (tally.destination, tally.kind, tally.state)
            ]
            assert (tally.copies, tally.size) == (len(found), sum(copy.size for _, copy in found))
            proven = [(item.created, copy.size) for item, copy in found if item.state is BackupState.VERIFIED]
            newest = max(proven) if proven else None
            assert (tally.newest, tally.newest_size) == newest if newest else tally.newest is None
        _, size, pending = catalog.totals("nanumpay")
        present = [tally for tally in tallies if tally.state in {CopyState.UPLOADED, CopyState.VERIFIED}]
        assert sum(tally.size for tally in present) == size
        assert sum(tally.copies for tally in tallies if tally.state == CopyState.PENDING) == pending
        assert catalog.tallies("shop") == []


def backup(at: int, kind: Kind, state: BackupState, copies: dict[str, CopyState], size: int) -> Backup:
    """Return a backup, the older the smaller ``at``."""
    moment = NOW + timedelta(hours=at)
    name = f"nanumpay-backup-{at}"
    return Backup(
        id=name,
        job="nanumpay",
        kind=kind,
        created=moment,
        state=state,
        artifact=f"{name}.tar.gz",
        size=size,
        documents=1,
        copies=tuple(
            Copy(backup=name, destination=place, state=copy, key=name, size=size + index, updated=moment)
            for index, (place, copy) in enumerate(copies.items())
        ),
    )


NOTHING_SPREAD: dict[str, Any] = {"backup": "", "copies": 1, "media": ["disk"], "offsite": 0, "kept": None}


def figures(faults: list[Fault], spread: dict[str, Any] | None = None, **more: Any) -> Figures:
    """Return figures of one job, of which hardly anything is known yet."""
    protection: dict[str, Any] = {"recoverable_until": None, "rpo": 0.0, "rpo_kept": None, "rto": 0.0, "rto_kept": None}
    protection |= {"restore_seconds": None, "window": 7200.0, "stream": "ok", "spread": spread or NOTHING_SPREAD}
    job = {"name": "nanumpay", "enabled": True, "destinations": ["cloud"], "protection": protection}
    status = {
        "version": "1",
        "started": "2026-11-21T02:00:00Z",
        "now": "2026-11-21T02:00:01Z",
        "health": "ok",
        "free_bytes": 10,
        "settings": {"mode": "off", "connected": False, "problem": None},
        "jobs": [job],
        "groups": [],
        "fleet": None,
    }
    own = JobFigures(copies=[], runs={}, last={}, success={}, due={}, active={})
    return Figures(status, faults, 20, {"nanumpay": own._replace(**more)}, [])


@pytest.mark.parametrize("kept, expected", [(None, {}), (True, {"spread_kept": 1}), (False, {"spread_kept": 0})])
def test_how_the_newest_backup_is_spread(kept: bool | None, expected: dict[str, int]) -> None:
    """Copies, media and off-site ones are counted; whether that is enough has a sample only where it is demanded."""
    shown = {"backup": "one", "copies": 3, "media": ["disk", "s3"], "offsite": 1, "kept": kept}
    found = {item.metric: item.value for item in samples(figures([], shown)) if item.metric.startswith("spread_")}
    assert found == {"spread_copies": 3, "spread_media": 2, "spread_offsite": 1, **expected}


def test_a_job_of_which_nothing_is_known_has_its_zeros_and_no_promises() -> None:
    """What can be counted is 0; what is not known, not promised or not there has no sample, rather than a false one."""
    found = {(item.metric, item.labels): item.value for item in samples(figures([]))}
    for place in (LOCAL, "cloud"):
        assert found["copies", ("nanumpay", place, "full")] == found["uploads_pending", ("nanumpay", place)] == 0
    assert {found["runs", ("nanumpay", "drill", outcome.value)] for outcome in Outcome} == {0}
    assert found["oplog_window_seconds", ("nanumpay",)] == 7200
    absent = {"rpo_objective_seconds", "rpo_kept", "recoverable_until_timestamp_seconds", "settings_connected"}
    absent |= {"newest_verified_bytes", "last_run_outcome", "next_due_timestamp_seconds", "problems"}
    assert not absent & {metric for metric, _ in found}
    promtool("check", "metrics", text=encode(samples(figures([]))).decode())


def test_a_place_that_is_no_more_is_not_awaited() -> None:
    """What lies there counts; its newest copy gets older for ever, which is no fault."""
    old = Tally("gone", "full", "verified", 3, 30, NOW, 10)
    found = {(item.metric, item.labels): item.value for item in samples(figures([], copies=[old]))}
    assert found["copies", ("nanumpay", "gone", "full")] == 3
    assert found["copies_bytes", ("nanumpay", "gone", "full")] == 30
    assert not any(metric == "newest_verified_bytes" for metric, _ in found)


@given(
    keys=st.lists(st.text(max_size=60) | st.sampled_from(["warning:x\n:y", "size:cloud:nanumpay", "disk"]), max_size=20)
)
def test_whatever_a_faults_key_is_its_label_is_a_short_word(keys: list[str]) -> None:
    """Texts, names and lengths in a key make no labels; the sum is the number of faults."""
    faults = [Fault(key=key, text="x", severity=Severity.WARNING, job="nanumpay") for key in keys]
    found = [item for item in samples(figures(faults)) if item.metric == "problems"]
    assert sum(item.value for item in found) == len(keys)
    assert all(len(item.labels[2]) <= 40 and item.labels[2].replace("-", "").isalpha() for item in found)


PROMETHEUS: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    "accept, expected",
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        (PROMETHEUS, True),
        ("text/plain, Application/OpenMetrics-Text ; Version=1.0.0 ; charset=utf-8", True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.0,*/*", False),
        ("application/openmetrics-text;version=\N{SUPERSCRIPT TWO}", False),
    ],
)
def test_open_metrics_is_for_those_who_ask_for_it(accept: str, *, expected: bool) -> None:
    """By the Accept header; whatever is not understood gets the plain text."""
    assert wants_open_metrics(accept) is expected


def metrics(key: str, value: str) -> str:
    """Return what the host file makes of a key of [metrics]."""
    return str(getattr(parse_host_file(f"[metrics]\n{key} = {value!r}\n", "f", environ={}).metrics, key))


@pytest.mark.parametrize(
    "value, expected",
    [
        ("", ""),
        ("127.0.0.1:9618", "127.0.0.1:9618"),
        (" 127.8.9.10:1 ", "127.8.9.10:1"),
        ("[::1]:65535", "[::1]:65535"),
        ("[0:0::1]:9618", "[::1]:9618"),
        ("/run/x/m.sock", "/run/x/m.sock"),
        ("/run//x/./m.sock", "/run/x/m.sock"),
    ],
)
def test_addresses_that_are_taken(value: str, expected: str) -> None:
    """Loopback of both versions, or a path."""
    assert metrics("listen", value) == expected


@pytest.mark.parametrize(
    "value, said",
    [
        ("0.0.0.0:9618", "reverse proxy with TLS"),
        ("[::]:9618", "reverse proxy with TLS"),
        ("192.168.1.5:9618", "not an address of this host only"),
        ("[fe80::1]:9618", "not an address of this host only"),
        ("localhost:9618", "write 127.0.0.1 instead of a name"),
        ("::1:9618", "127.0.0.1:PORT"),
        ("[127.0.0.1:9618", "127.0.0.1:PORT"),
        ("127.0.0.1", "127.0.0.1:PORT"),
        ("127.0.0.1:0", "127.0.0.1:PORT"),
        ("127.0.0.1:65536", "127.0.0.1:PORT"),
        (":9618", "127.0.0.1:PORT"),
        ("9618", "127.0.0.1:PORT"),
        ("metrics.sock", "127.0.0.1:PORT"),
        ("/run/../etc/m.sock", "127.0.0.1:PORT"),
        ("/" + "x" * 90, "write a shorter path"),
    ],
)
def test_addresses_that_are_refused(value: str, said: str) -> None:
    """Whatever others could reach, or might; with the way that there is."""
    with pytest.raises(ConfigError) as caught:
        metrics("listen", value)
    assert "metrics.listen" in caught.value.message
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("value", ["x.prom", "/var/lib/node/x.txt", "/var/lib/../x.prom", "/var/lib/node/"])
def test_a_file_that_node_exporter_would_not_read_is_refused(value: str) -> None:
    """It reads *.prom only."""
    with pytest.raises(ConfigError, match=r"metrics\.textfile"):
        metrics("textfile", value)
    assert metrics("textfile", "/var/lib/node/x.prom") == "/var/lib/node/x.prom"


def test_nothing_is_loaded_before_it_is_wanted() -> None:
    """A daemon without metrics does not pay for them."""
    program = (
        "import sys, nanumpay_backupd.daemon; "
        "print(sorted({'prometheus_client', 'nanumpay_backupd.metrics.web', 'nanumpay_backupd.metrics.figures'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_file_for_all_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Everybody may read it whatever the umask; a folder that refuses leaves the old one and nothing beside it."""
    path = tmp_path / "x.prom"
    replace_for_all(path, b"old\n")
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        replace_for_all(tmp_path / "folder", b"new\n")
    assert path.read_bytes() == b"old\n"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder", "x.prom"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write beside the file gets nothing of ours overwritten."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / f".x.prom.{os.getpid()}.tmp").symlink_to(precious)
    replace_for_all(tmp_path / "x.prom", b"new\n")
    assert (precious.read_text(), (tmp_path / "x.prom").read_bytes()) == ("mine", b"new\n")
    assert not (tmp_path / "x.prom").is_symlink()


async def _large(_accept: str) -> Page:
    return Page(b"x" * (32 << 20))


@contextlib.asynccontextmanager
async def served(render: Render) -> AsyncIterator[tuple[str, int]]:
    """Run a server with that page on a free port."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server = WebServer(render)
    await server.start(listening)
    try:
        yield listening.getsockname()
    finally:
        await server.close()


def _connections() -> int:
    """Return how many callers are being served."""
    return sum(task.get_name() == "metrics-connection" for task in asyncio.all_tasks())


def test_who_is_slow_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not come, and an answer that nobody reads, end when their time is over."""
    monkeypatch.setattr(web, "_REQUEST_TIME", 0.1)
    monkeypatch.setattr(web, "_WHOLE_TIME", 0.5)

    async def play() -> None:
        async with served(_large) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
            with socket.create_connection(address) as silent:
                silent.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                for busy in (True, False):
                    while bool(_connections()) is not busy:  # noqa: ASYNC110 - there is no event to wait for
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                silent.settimeout(10)
                got = 0
                with contextlib.suppress(ConnectionResetError):
                    while data := silent.recv(1 << 20):
                        got += len(data)
                assert got < 32 << 20

    asyncio.run(asyncio.wait_for(play(), 60))


def test_who_is_being_served_when_it_ends_is_let_go() -> None:
    """Closing waits for nobody, and leaves no task and no connection."""

    async def never(_accept: str) -> Page:
        await asyncio.sleep(3600)
        raise AssertionError

    async def play() -> None:
        async with served(never) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            silent, other = await asyncio.open_connection(*address)
            await asyncio.sleep(0.05)
        for end, out in ((reader, writer), (silent, other)):
            with contextlib.suppress(ConnectionResetError):
                assert await end.read() == b""
            out.close()
        await asyncio.sleep(0.05)
        assert _connections() == 0

    asyncio.run(asyncio.wait_for(play(), 60))


def test_a_defect_in_the_figures_is_not_shown_to_callers() -> None:
    """What a caller gets is that there is one; the journal has it."""

    async def broken(_accept: str) -> Page:
        raise ValueError("secret things")

    async def play() -> bytes:
        async with served(broken) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            said = await reader.read()
            writer.close()
            return said

    said = asyncio.run(asyncio.wait_for(play(), 60))
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in said


def test_slices_are_no_fulls() -> None:
    """What counts as the newest proven backup is one that restores by itself."""
    slice_ = Tally(LOCAL, next(iter(SLICES)).value, "verified", 1, 5, NOW + timedelta(days=1), 5)
    full = Tally(LOCAL, "full", "verified", 1, 50, NOW, 50)
    found = {item.metric: item.value for item in samples(figures([], copies=[slice_, full]))}
    assert Kind.FULL in FULLS
    assert (found["newest_verified_bytes"], found["newest_verified_timestamp_seconds"]) == (50, NOW.timestamp())
