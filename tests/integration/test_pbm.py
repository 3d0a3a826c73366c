"""Sharded clusters by Percona Backup for MongoDB, against a program that plays its documented answers; no real one."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.doctor import check_job
from nanumpay_backupd.errors import BackupdError, ConfigError, SourceError, ToolError
from nanumpay_backupd.health.spread import lacking, spread_of
from nanumpay_backupd.model import (
    Backup,
    BackupState,
    CopyState,
    Manifest,
    Outcome,
    Policy,
    Run,
    Stage,
)
from nanumpay_backupd.pipeline.bringback import plan_bringing_back
from nanumpay_backupd.pipeline.prune import delete_backup, prune
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import RestoreOrder, RunSpec, VerifyOrder
from nanumpay_backupd.settings.source_tables import SOURCES
from nanumpay_backupd.settings.sources import PbmSource, Source
from nanumpay_backupd.sources import pbm_dump, pbm_target
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.factory import open_source
from nanumpay_backupd.sources.mongodb import cautions
from nanumpay_backupd.sources.pbm_link import PbmLink
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.wording import KEPT_OUTSIDE
from tests.contract.participants import Participant
from tests.contract.test_sources import Site, good
from tests.integration.test_cli import backupctl
from tests.keys import age_key
from tests.servers.daemon import open_site
from tests.servers.pbm import SECRET, START, PlayedPbm

pytestmark = pytest.mark.servers

believed = pytest.mark.promise(
    "Of a sharded cluster nothing is called good that Percona Backup for MongoDB (played) does not call good.", item=11
)


class Cluster(Participant):
    """Settings as `Site` wants them."""

    def __init__(self, settings: PbmSource) -> None:
        self._settings = settings

    @property
    def settings(self) -> Source:
        """See `Participant.settings`."""
        return self._settings

    broken = settings

    def fill(self) -> None:
        """Nothing is in it."""

    def count(self) -> int:
        """See `Participant.count`."""
        return 0

    def grow(self, megabytes: int) -> None:
        """Nothing is in it."""

    def content(self) -> object:
        """See `Participant.content`."""
        return None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often: the player takes a step each time that it is asked."""
    for module in (pbm_dump, pbm_target):
        monkeypatch.setattr(module, "_REST", 0.01)


@pytest.fixture
def pbm(tmp_path: Path) -> PlayedPbm:
    """Play a cluster of two shards."""
    return PlayedPbm(tmp_path / "pbm")


def site_of(tmp_path: Path, pbm: PlayedPbm, *, job: dict[str, Any] | None = None, **changes: Any) -> Site:
    """Give a host with a job that has it saved."""
    folder = tmp_path / f"site{len(list(tmp_path.glob('site*')))}"
    folder.mkdir()
    return Site(folder, Cluster(pbm.settings(**changes)), **(job or {}))


def saved(site: Site) -> Backup:
    """Have a backup made."""
    good(site.run())
    return site.backups()[0]


def manifest_of(backup: Backup) -> Manifest:
    """Return its manifest."""
    assert backup.manifest is not None
    return backup.manifest


def fault_of(run: Run) -> tuple[str, str]:
    """Return code and sentence of a run that failed."""
    assert run.outcome is Outcome.FAILED, run
    assert run.error is not None
    return run.error.code, run.error.message


def plan(site: Site, backup: Backup, **wanted: Any) -> RestorePlan:
    """Say what a restore would do."""
    order = RestoreOrder(backup=backup.id, **{"overwrite": True, **wanted})
    spec = RunSpec(run="plan", job=site.job, paths=site.paths, trigger="manual", action="restore-plan", restore=order)
    with Catalog(site.paths.state / "catalog.db") as catalog:
        return plan_bringing_back(spec, catalog, site.clock.now())


# Having it made


def test_a_backup_is_what_pbm_says_of_it(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The record names pbm's backup, its replica sets with their sizes, its moment, and on what the proof rests."""
    site = site_of(tmp_path, pbm)
    manifest = manifest_of(saved(site))
    assert manifest.source.facts["pbm.name"] == pbm.backups[0]
    assert [(part.name, part.kind, part.bytes) for part in manifest.source.parts] == [
        ("cfg", "config servers", 1_000_000),
        ("rs1", "shard", 2_000_000),
        ("rs2", "shard", 3_000_000),
    ]
    assert manifest.consistency.level == "point-in-time"
    assert manifest.consistency.moment is not None
    assert manifest.consistency.moment.timestamp() == START + 60
    proof = manifest.verification[-1]
    assert proof.ok
    assert "pbm says of 2026-11-21T02:00:00Z: done, no error" in proof.detail
    assert "its data was not read" in proof.detail
    assert manifest.source.topology == "sharded"
    assert pbm.asked("backup") == [["backup", "--type=logical", "--out=json"]]


def test_the_receipt_is_read_without_this_software(tmp_path: Path, pbm: PlayedPbm) -> None:
    """It is JSON in pbm's own keys, beside what pbm said meanwhile, and holds no address and no password."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    with tarfile.open(site.layout.artifact(backup.artifact)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    folder = tmp_path / "out" / backup.id
    receipt = json.loads((folder / "pbm-backup.json").read_text())
    assert receipt["backup"]["name"] == pbm.backups[0]
    assert receipt["backup"]["last_write_ts"] == START + 60
    assert receipt["storage"] == "S3 s3://https://minio.example.com/pbm"
    log = (folder / "pbm-progress.log").read_text().splitlines()
    assert log[-1].endswith("done cfg=done rs1=done rs2=done")
    for path in folder.iterdir():
        assert SECRET not in path.read_text()


def test_the_password_is_in_no_argument_record_or_message(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The program gets its address by its environment; nothing that is kept, told or called has it."""
    site = site_of(tmp_path, pbm)
    manifest = manifest_of(saved(site))
    with pbm.changed() as state:
        state["faults"]["status"] = {"text": f"connect to {pbm.uri}: no such host"}
    told = fault_of(site.run())
    assert told[0] == "source-unreachable"
    for text in (str(pbm.state["asked"]), repr(site.job.source), repr(manifest), *told, str(site.ear.__dict__)):
        assert SECRET not in text


def test_type_and_profile_are_handed_on(tmp_path: Path, pbm: PlayedPbm) -> None:
    """A physical backup into the storage of a profile."""
    site = site_of(tmp_path, pbm, backup_type="physical", profile="nas")
    facts = manifest_of(saved(site)).source.facts
    assert pbm.asked("backup")[0][1:3] == ["--type=physical", "--profile=nas"]
    assert (facts["pbm.type"], facts["pbm.profile"]) == ("physical", "nas")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an error": (
        {"steps": ["running", "error"], "next": {"error": "rs2: mongodump: write: no space left"}},
        "no space left",
    ),
    "cancelled at pbm": ({"steps": ["running", "canceled"]}, "canceled"),
    "stuck": ({"next": {"stuck": "Backup stuck at `running` stage, last beat ts: 1795226400"}}, "Backup stuck"),
    "done, but one shard is not": ({"next": {"members": {"rs2": "error"}}}, "rs2 is error"),
    "done with an error": ({"next": {"error": "oplog has insufficient range"}}, "insufficient range"),
    "of no replica set": ({"sets": []}, "no replica set"),
    "of no moment": ({"next": {"last_write": 0}}, "no moment"),
}


@believed
@pytest.mark.parametrize("case", BAD)
def test_what_pbm_does_not_call_good_is_no_backup(case: str, tmp_path: Path, pbm: PlayedPbm) -> None:
    """Whatever the exit code was: without "done" of all replica sets and a moment nothing is recorded."""
    state, expected = BAD[case]
    with pbm.changed() as held:
        held.update(state)
    site = site_of(tmp_path, pbm)
    code, message = fault_of(site.run())
    assert expected in message
    assert code in ("source-failed", "source-unreachable")
    assert site.backups() == []


def _ill(state: dict[str, Any]) -> None:
    state["ill"] = ["rs20", "rs21", "rs22"]


def _busy(state: dict[str, Any]) -> None:
    state["running"] = {"type": "restore", "opID": "1", "name": "2026-11-20T02:00:00Z", "startTS": 1, "status": "x"}


def _bare(state: dict[str, Any]) -> None:
    state["storage"] = ""


def _foreign(state: dict[str, Any]) -> None:
    state["uri"] = "mongodb://another"


def _raced(state: dict[str, Any]) -> None:
    state["faults"]["backup"] = {"text": "another operation in progress, restore/1 [cfg/cfg0:27018]"}


def _refuses(state: dict[str, Any]) -> None:
    state["faults"]["backup"] = {"text": "no config set. Set config with <pbm config>"}


def _odd(state: dict[str, Any]) -> None:
    state["faults"]["backup"] = {"text": "no progress from leader"}


@pytest.mark.parametrize(
    "spoil,code",
    [
        (_ill, "source-unreachable"),
        (_busy, "source-busy"),
        (_bare, "source-failed"),
        (_foreign, "source-auth"),
        (_raced, "source-busy"),
        (_refuses, "source-failed"),
        (_odd, "tool-failed"),
    ],
)
def test_why_pbm_cannot_begin_is_told(spoil: Any, code: str, tmp_path: Path, pbm: PlayedPbm) -> None:
    """Agents that are gone, another operation, no storage, a refused login: a code and a hint for each."""
    with pbm.changed() as state:
        spoil(state)
    run = site_of(tmp_path, pbm).run()
    assert fault_of(run)[0] == code
    assert run.error is not None
    assert run.error.hint


def test_a_missing_program_and_another_program_are_named(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The hint says how it is installed; something else of that name is not believed."""
    with pytest.raises(ToolError) as caught:
        open_source(pbm.settings(pbm=str(tmp_path / "nowhere"))).preflight()
    assert caught.value.code == "tool-missing"
    assert "percona-backup-mongodb" in caught.value.hint
    with pytest.raises(ToolError, match="does not look like pbm"):
        open_source(pbm.settings(pbm="/bin/true")).preflight()


def test_an_answer_of_another_shape_is_not_guessed_at(pbm: PlayedPbm) -> None:
    """What is no JSON, or of other types, is a fault that says so."""
    for said in ("echo hello", "echo '{\"name\": 7}'", "true"):
        pbm.program.write_text(f"#!/bin/sh\n{said}\n")
        with pytest.raises(ToolError, match="documented"):
            PbmLink(pbm.settings()).describe("x")


def test_one_agent_of_three_is_a_warning(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The others can save the shard; the warning names it, and why."""
    with pbm.changed() as state:
        state["ill"], state["pitr"] = ["rs21"], True
        state["spans"] = [[START, START + 3600, False], [1, 2, True]]
    estimate = open_source(pbm.settings()).preflight()
    assert estimate.warnings == ("not all agents are well: rs2/rs21:27018 (lost agent, last heartbeat: 1700000000)",)
    assert "8 of 9 agents" in estimate.summary
    assert "any moment (UTC) of 2026-11-21 02:00:00 to 03:00:00 2026-11-21" in estimate.summary
    assert "1970" not in estimate.summary


def test_a_short_silence_ends_nothing(tmp_path: Path, pbm: PlayedPbm) -> None:
    """An election of the config servers while the agents work: it is asked again."""
    with pbm.changed() as state:
        state["faults"]["describe-backup"] = {"text": "server selection error: no reachable servers", "times": 2}
    site = site_of(tmp_path, pbm)
    assert saved(site).state is BackupState.VERIFIED


def test_a_long_silence_is_told(tmp_path: Path, pbm: PlayedPbm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for a cluster that is gone."""
    monkeypatch.setattr(pbm_dump, "_PATIENCE", 0.0)
    with pbm.changed() as state:
        state["faults"]["describe-backup"] = {"text": "server selection error: no reachable servers", "times": 9}
    assert fault_of(site_of(tmp_path, pbm).run())[0] == "source-unreachable"


def test_who_cancels_the_run_cancels_it_at_pbm(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The agents stop, pbm is free again, and nothing is recorded."""
    with pbm.changed() as state:
        state["steps"] = ["running"]
    site = site_of(tmp_path, pbm)
    run = site.run(cancel=Stage.DUMP)
    assert run.outcome is Outcome.CANCELLED
    state = pbm.state
    assert [one["status"] for one in state["backups"]] == ["canceled"]
    assert state["running"] == {}
    assert site.backups() == []


def test_what_somebody_else_runs_is_not_cancelled(pbm: PlayedPbm, tmp_path: Path) -> None:
    """A dump that never began takes nobody else's backup away."""
    with pbm.changed() as state:
        _busy(state)
    dump = pbm_dump.PbmDump(pbm.settings(), tmp_path, "2.10.0")
    assert dump.wait(30)
    dump.kill()
    assert pbm.asked("cancel-backup") == []
    with pytest.raises(SourceError):
        dump.harvest({})


# What is believed later


@believed
def test_verifying_asks_pbm_again(tmp_path: Path, pbm: PlayedPbm) -> None:
    """Gone at pbm is missing, called bad is corrupt, nobody there says nothing about it."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    good(site.run("verify"))
    with pbm.changed() as state:
        state["faults"]["describe-backup"] = {"text": "server selection error: timed out", "times": 1}
    assert site.run("verify").outcome is Outcome.DEGRADED
    assert site.backups()[0].copies[0].state is CopyState.VERIFIED
    with pbm.changed() as state:
        state["backups"][0] |= {"status": "error", "error": "incompatible"}
    assert site.run("verify").outcome is Outcome.FAILED
    assert site.backups()[0].copies[0].state is CopyState.CORRUPT
    with pbm.changed() as state:
        state["backups"] = []
    assert site.run("verify", verify=_of(backup)).outcome is Outcome.FAILED
    assert site.backups()[0].copies[0].state is CopyState.MISSING


def _of(backup: Backup) -> VerifyOrder:
    return VerifyOrder(backup=backup.id)


# Retention


def keeping(site: Site, count: int) -> tuple[list[str], list[BackupdError]]:
    """Apply a retention; returns the reasons of what is kept as it is locked, and the faults."""
    job = msgspec.structs.replace(site.job, retention=Policy(count=count, days=365))
    with Catalog(site.paths.state / "catalog.db") as catalog:
        lines, faults = prune(job, catalog, site.layout, site.clock.now(), open_store)
    return [line.reason for line in lines if line.action == "locked"], faults


def test_retention_deletes_at_pbm_what_it_deletes_here(tmp_path: Path, pbm: PlayedPbm) -> None:
    """A receipt goes with its backup, never alone; pbm's other backups are nobody's here."""
    site = site_of(tmp_path, pbm)
    with pbm.changed() as state:
        state["backups"].append({"name": "by-hand", "status": "done", "type": "logical", "last_write": START})
    for _ in range(3):
        saved(site)
    keeping(site, 2)
    assert pbm.backups == ["by-hand", "2026-11-21T02:01:00Z", "2026-11-21T02:02:00Z"]
    assert len(site.backups()) == 2
    with Catalog(site.paths.state / "catalog.db") as catalog:
        delete_backup(site.job, catalog, site.layout, site.backups()[1].id, None, open_store)
    assert pbm.backups == ["by-hand", "2026-11-21T02:02:00Z"]


def test_what_was_deleted_at_pbm_goes_here_too(tmp_path: Path, pbm: PlayedPbm) -> None:
    """That it is gone already is no fault."""
    site = site_of(tmp_path, pbm)
    for _ in range(2):
        saved(site)
    with pbm.changed() as state:
        del state["backups"][0]
    assert keeping(site, 1) == ([], [])
    assert len(site.backups()) == 1


def test_what_pbm_cannot_delete_now_keeps_its_receipt(tmp_path: Path, pbm: PlayedPbm) -> None:
    """A place that does not answer is a fault; the receipt stays, and it is tried again."""
    site = site_of(tmp_path, pbm)
    for _ in range(2):
        saved(site)
    with pbm.changed() as state:
        state["faults"]["delete-backup"] = {"text": "another operation in progress, backup/1 [cfg/cfg0]", "times": 1}
    _, faults = keeping(site, 1)
    assert [fault.retryable for fault in faults] == [True]
    assert len(site.backups()) == 2
    assert keeping(site, 1) == ([], [])
    assert len(pbm.backups) == 1


def test_what_the_saved_oplog_needs_is_told_as_locked(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The last base of its PITR stays: that is no fault of a run, and is shown."""
    site = site_of(tmp_path, pbm)
    saved(site)
    with pbm.changed() as state:
        state["faults"]["delete-backup"] = {
            "text": "backup cannot be deleted: cannot delete the last PITR base snapshot while PITR is enabled"
        }
    saved(site)
    reasons, faults = keeping(site, 1)
    assert faults == []
    assert len(reasons) == 1
    assert len(site.backups()) == 2


# The way back


def test_a_plan_says_what_pbm_would_do(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The command, the moment, what has to be stopped; without --overwrite it is refused, and nothing is changed."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    found = plan(site, backup)
    assert found.changes == (
        "pbm's agents restore 3 replica sets to 2026-11-21 02:01:00 UTC: pbm restore 2026-11-21T02:00:00Z",
    )
    assert found.safety_backup
    assert any("sh.stopBalancer()" in text for text in found.warnings)
    with pytest.raises(BackupdError) as caught:
        plan(site, backup, overwrite=False)
    assert caught.value.code == "target-exists"
    assert pbm.asked("restore") == []


@pytest.mark.parametrize("version,yes", [("2.10.0", False), ("2.14.1", True)])
def test_a_restore_is_pbms_own(version: str, yes: bool, tmp_path: Path, pbm: PlayedPbm) -> None:
    """First what is there is saved, then pbm restores, and it is watched to its end; newer ones must not ask."""
    with pbm.changed() as state:
        state["version"] = version
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    run = good(site.restore(backup, Wanted(overwrite=True)))
    assert [("--yes" in words) for words in pbm.asked("restore")] == [yes]
    assert pbm.state["restores"][0]["status"] == "done"
    assert len(pbm.backups) == 2
    assert run.backup
    details = {stage.stage: stage.detail for stage in run.stages}
    assert details[Stage.COMPARE] == "3 replica sets as expected"


def test_a_moment_behind_it_and_single_namespaces(tmp_path: Path, pbm: PlayedPbm) -> None:
    """It goes on by its saved oplog where that leads there; other moments are refused with those there are."""
    with pbm.changed() as state:
        state["pitr"], state["spans"] = True, [[START, START + 3600, False]]
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    options = {"time": "2026-11-21T02:30:00", "ns": "shop.*"}
    found = plan(site, backup, options=options)
    assert "--time=2026-11-21T02:30:00 --base-snapshot=2026-11-21T02:00:00Z --ns=shop.*" in found.changes[0]
    assert found.changes[1].startswith("only shop.*")
    good(site.restore(backup, Wanted(overwrite=True, options=options), safety=False))
    for bad in ("2026-11-21T03:30:00", "2026-11-21T02:00:10", "yesterday"):
        with pytest.raises(BackupdError) as caught:
            plan(site, backup, options={"time": bad})
        assert caught.value.code == "target-refused"
    with pytest.raises(BackupdError, match="does not lead") as caught:
        plan(site, backup, options={"time": "2026-11-21T03:30:00"})
    assert "2026-11-21T02:01:00 to 2026-11-21T03:00:00" in caught.value.hint


@pytest.mark.parametrize("wanted", [{"to_database": "other"}, {"only": ("rs1",)}])
def test_elsewhere_and_in_part_are_refused(wanted: dict[str, Any], tmp_path: Path, pbm: PlayedPbm) -> None:
    """A cluster is restored in place, by namespaces."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    with pytest.raises(BackupdError) as caught:
        plan(site, backup, **wanted)
    assert caught.value.code == "target-refused"


def test_a_restore_that_fails_says_which_shard(tmp_path: Path, pbm: PlayedPbm) -> None:
    """The cluster is half restored then, and the safety backup is named."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    with pbm.changed() as state:
        state["next_restore"] = {"ends": "error", "error": "insert documents: duplicate key"}
    run = site.restore(backup, Wanted(overwrite=True))
    code, message = fault_of(run)
    assert code == "restore-failed"
    assert "rs1: insert documents" in message
    assert "the cluster is half restored" in message
    assert run.error is not None
    assert "go back to what was there before" in run.error.hint


def test_a_restore_that_did_not_begin_changed_nothing(tmp_path: Path, pbm: PlayedPbm) -> None:
    """It refuses: that is what is told, and that the cluster is as it was."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    with pbm.changed() as state:
        state["faults"]["restore"] = {"text": "backup's FCV is incompatible"}
    assert "nothing was changed" in fault_of(site.restore(backup, Wanted(overwrite=True), safety=False))[1]


def test_a_physical_restore_is_planned_and_told_not_done(tmp_path: Path, pbm: PlayedPbm) -> None:
    """It stops every mongod and pbm itself, so nobody could watch it from here."""
    site = site_of(tmp_path, pbm, backup_type="physical")
    backup = saved(site)
    assert any("by hand: pbm restore" in text for text in plan(site, backup).warnings)
    run = site.restore(backup, Wanted(overwrite=True))
    code, message = fault_of(run)
    assert code == "target-refused"
    assert "nothing was changed" in message
    assert pbm.asked("restore") == []


def test_what_pbm_has_no_more_is_not_restored(tmp_path: Path, pbm: PlayedPbm) -> None:
    """A receipt alone restores nothing."""
    site = site_of(tmp_path, pbm)
    backup = saved(site)
    with pbm.changed() as state:
        state["backups"] = []
    with pytest.raises(BackupdError, match="no backup") as caught:
        plan(site, backup)
    assert caught.value.code == "not-found"


def test_a_drill_is_refused_with_what_can_be_done(tmp_path: Path, pbm: PlayedPbm) -> None:
    """No cluster can be made here to restore into."""
    site = site_of(tmp_path, pbm)
    saved(site)
    run = site.run("drill")
    assert run.error is not None
    assert run.error.code == "drill-impossible"


# Around it


def test_settings_of_such_a_job(tmp_path: Path) -> None:
    """A table with uri is enough. What is about files that are copied or encrypted here is refused: there are none."""
    head = '[[job]]\nname = "cluster"\ntype = "pbm"\nuri = "mongodb://cfg0/?replicaSet=cfg"\n'
    tools = f'[tools]\npbm = "/opt/pbm"\n[encryption]\nmethod = "age"\nrecipients = ["{age_key("first").recipient}"]\n'
    config = parse_host_file(f'{head}backup_type = "physical"\n{tools}', "backupd.toml")
    (job,) = (one for one in build_jobs(config, None) if one.name == "cluster")
    assert isinstance(job.source, PbmSource)
    assert job.source.pbm == "/opt/pbm"
    assert job.source.described == "mongodb by Percona Backup for MongoDB, physical"
    assert not job.encryption.on
    assert lacking(spread_of(None, job), msgspec.structs.replace(job, copies=3)) == []
    place = f'[destination.disk]\ntype = "local"\npath = "{tmp_path}"\n'
    for more in (f'destinations = ["disk"]\n{place}', "copies = 3\n", '[job.encryption]\nmethod = "openpgp"\n'):
        with pytest.raises(ConfigError) as caught:
            parse_host_file(f"{head}{more}", "backupd.toml")
        assert "its data is where that program stores it" in str(caught.value)
    with pytest.raises(ConfigError):
        parse_host_file(head + 'backup_type = "incremental"\n', "backupd.toml")


def test_the_doctor_tells_of_pbm_and_asks_for_no_other_place(tmp_path: Path, pbm: PlayedPbm) -> None:
    """Agents, storage and PITR in a line; where its data lies is pbm's matter."""
    site = site_of(tmp_path, pbm)
    checks = {
        check.name: check
        for check in check_job(site.job, site.paths, open_source(site.job.source), open_store, site.clock.now())
    }
    assert "3 replica sets, 9 of 9 agents well" in checks["thing: source"].message
    assert "thing: destinations" not in checks


def test_both_lists_of_what_is_kept_outside_are_one() -> None:
    """The thin client cannot read the settings' records, so its words have a list of their own."""
    assert {kind for kind, table in SOURCES.items() if getattr(table.record, "kept_outside", False)} == KEPT_OUTSIDE


def test_mongodump_of_a_sharded_cluster_is_warned_of() -> None:
    """Before a dump of a mongos it is said that there is no one moment, and what has one."""
    assert cautions("replica-set") == cautions("standalone") == ()
    (text,) = cautions("sharded")
    assert "cannot give one moment" in text
    assert 'type = "pbm"' in text


class Nowhere:
    """The application's own MongoDB, which a host for such a cluster does not have."""

    def uri_for(self, database: str) -> str:
        """Return an address where nobody answers."""
        return f"mongodb://127.0.0.1:1/{database}"

    def client(self, **_options: Any) -> Any:
        """Nobody asks."""
        raise AssertionError


def test_by_the_daemon_and_backupctl(pbm: PlayedPbm) -> None:
    """Run, list, show, verify, the plan of a restore and delete, as an operator types them; nowhere the password."""
    with open_site(Nowhere(), fill=False) as site:
        secret = site.folder / "pbm-uri"
        secret.touch(mode=0o600)
        secret.write_text(f"{pbm.uri}\n")
        site.write_config(
            f"""
            [nanumpay]
            enabled = false
            [tools]
            pbm = "{pbm.program}"
            [[job]]
            name = "cluster"
            type = "pbm"
            uri = {{ file = "{secret}" }}
            """
        )
        site.start()
        said = {}
        for words in (
            ("run", "cluster"),
            ("show", "latest"),
            ("verify", "latest"),
            ("restore", "latest", "--overwrite", "--dry-run"),
            ("doctor",),
        ):
            done = backupctl(site.socket, *words)
            said[words[0]] = done.stdout + done.stderr
            assert done.returncode == 0 or words[0] == "doctor", said[words[0]]
        assert "3 replica sets" in said["run"]
        assert "pbm restore 2026-11-21T02:00:00Z" in said["show"]
        assert "its data was not read" in said["show"]
        assert "compared with what was dumped" not in said["show"]
        assert "its program was asked" in said["verify"]
        assert "there now  3 replica sets" in said["restore"]
        assert "pbm restore 2026-11-21T02:00:00Z" in said["restore"]
        assert "9 of 9 agents well" in said["doctor"]
        name = said["show"].split()[0]
        assert backupctl(site.socket, "delete", name, "--force", "--yes").returncode == 0
        assert pbm.backups == []
        assert SECRET not in str(said) + site.log()
