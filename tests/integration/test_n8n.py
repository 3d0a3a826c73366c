"""n8n: what the contract suite does not ask. Faults on the way, the choices of a restore, credentials, S3, by hand.

It stands on the player of recordings (`n8n_player`), which is held against the recordings here; with ``make test-n8n``
also n8n itself is, and brings back what the page says by hand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, ConfigError
from nanumpay_backupd.model import Backup, Manifest, Outcome, Run
from nanumpay_backupd.pipeline.bringback import plan_bringing_back
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.schema import JobEncryption, RestoreOrder, RunSpec
from nanumpay_backupd.settings.sources import N8nSource
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.factory import open_source
from nanumpay_backupd.sources.n8n_dump import FINGERPRINT
from nanumpay_backupd.system.secrets import Secret
from tests.contract.n8n_participant import N8nParticipant, bring_credentials, fill_n8n, state_of
from tests.contract.test_sources import Site, good
from tests.integration.test_cli import backupctl
from tests.keys import age_key
from tests.servers.certs import make_certificate
from tests.servers.daemon import open_site
from tests.servers.n8n import N8n, start_n8n
from tests.servers.n8n_player import KEY, Broken, Played, Player, start_player
from tests.servers.n8n_scenario import CREDENTIALS, RECORDING, called, calling, program_scenario, scenario, workflow
from tests.servers.s3 import S3Server, start_s3
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers

PAGE: Final = Path(__file__).parents[2] / "docs" / "sources" / "n8n.md"
REAL: Final = bool(os.environ.get("NANUMPAY_TEST_REAL_N8N"))
_ENOUGH: Final = 60.0


@pytest.fixture
def n8n(tmp_path: Path) -> Iterator[Player]:
    """Play an n8n that holds nothing."""
    with start_player(tmp_path / "n8n") as player:
        yield player


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Player]:
    """Play another one."""
    with start_player(tmp_path / "other") as player:
        yield player


@pytest.fixture
def filled(n8n: Player) -> Player:
    """Give it a little of everything."""
    fill_n8n(n8n)
    return n8n


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


class Source(N8nParticipant):
    """Settings as `Site` wants them."""

    def __init__(self, server: N8n | Played, **more: Any) -> None:
        super().__init__(server)
        self._more = more

    @property
    def settings(self) -> N8nSource:
        """See `Participant.settings`."""
        return self.server.settings(**self._more)


def site_of(tmp_path: Path, server: N8n | Played, *, job: dict[str, Any] | None = None, **more: Any) -> Site:
    """Give a host with a job that saves it."""
    folder = tmp_path / f"site{len(list(tmp_path.glob('site*')))}"
    folder.mkdir()
    return Site(folder, Source(server, **more), **(job or {}))


def saved(site: Site) -> Backup:
    """Make a backup."""
    good(site.run())
    return site.backups()[0]


def manifest_of(backup: Backup) -> Manifest:
    """Return its manifest."""
    assert backup.manifest is not None
    return backup.manifest


def plan(site: Site, backup: Backup, **wanted: Any) -> RestorePlan:
    """Say what a restore would do."""
    order = RestoreOrder(backup=backup.id, **{"overwrite": True, **wanted})
    spec = RunSpec(run="plan", job=site.job, paths=site.paths, trigger="manual", action="restore-plan", restore=order)
    with Catalog(site.paths.state / "catalog.db") as catalog:
        return plan_bringing_back(spec, catalog, site.clock.now())


def refused(run: Run) -> tuple[str, str]:
    """Return code and sentence of a run that failed."""
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    return run.error.code, run.error.message


def by_name(server: N8n | Played) -> dict[str, dict[str, Any]]:
    """Return its workflows by their names."""
    return {row["name"]: row for row in server.api.good("GET", "/workflows?limit=250")["data"]}


def unpacked(site: Site, backup: Backup, folder: Path) -> Path:
    """Unpack an artifact by stock means; returns the backup's folder."""
    with tarfile.open(site.layout.artifact(backup.artifact)) as archive:
        archive.extractall(folder, filter="data")
    return folder / backup.id


# The player


def test_the_player_answers_as_n8n_did(n8n: Player) -> None:
    """Asked the same, it gives what the real one gave, field by field; so does its program."""
    recorded = json.loads(RECORDING.read_text())
    assert scenario(n8n.api) == recorded["api"]
    n8n.clear()
    assert program_scenario(n8n.command, n8n.folder) == recorded["program"]


@pytest.mark.skipif(not REAL, reason="n8n itself: make test-n8n")
def test_n8n_answers_as_it_did(tmp_path: Path) -> None:
    """The recordings are still what n8n says; with RECORD=1 they are made anew."""
    with start_n8n(tmp_path / "n8n") as server:
        said = {"api": scenario(server.api), "program": program_scenario(server.command, server.folder)}
    if os.environ.get("NANUMPAY_RECORD_N8N"):
        RECORDING.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n")
    assert said == json.loads(RECORDING.read_text())


# Reading


def test_the_folder_is_as_the_page_says(filled: Player, tmp_path: Path) -> None:
    """A file for each workflow with a name that is safe anywhere, all in one, metadata; and nobody's address."""
    site = site_of(tmp_path, filled)
    folder = unpacked(site, saved(site), tmp_path / "out")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["all-workflows.json", "credentials.json", "metadata.json", "published", "tags.json", "workflows"]
    rows = [json.loads(path.read_bytes()) for path in (folder / "workflows").iterdir()]
    assert {row["id"]: row for row in json.loads((folder / "all-workflows.json").read_bytes())} == {
        row["id"]: row for row in rows
    }
    for row in rows:
        expected = filled.api.good("GET", f"/workflows/{row['id']}")
        del expected["shared"][0]["project"]["projectRelations"]
        active = expected.pop("activeVersion")
        assert row == expected, "it is what n8n shows, without the accounts of people"
        if row["name"] == "draft":
            (other,) = (folder / "published").iterdir()
            assert other.name.startswith(row["id"])
            assert json.loads(other.read_bytes()) == active
    for path in (folder / "workflows").iterdir():
        assert re.fullmatch(r"[\w-]{1,160}\.json", path.name), path.name
    metadata = json.loads((folder / "metadata.json").read_bytes())
    assert (metadata["totalWorkflows"], metadata["activeWorkflows"]) == (len(rows), 3)
    assert {entry["file"] for entry in metadata["workflows"]} == {
        f"workflows/{p.name}" for p in (folder / "workflows").iterdir()
    }
    assert "license" in metadata["projectsRefused"]
    assert json.loads((folder / "credentials.json").read_bytes()) == CREDENTIALS
    assert [tag["name"] for tag in json.loads((folder / "tags.json").read_bytes())].count("unused") == 1


def test_projects_and_folders_are_saved_where_n8n_tells_them(filled: Player, tmp_path: Path) -> None:
    """With a license, and a version that tells them, they are in files of their own, all pages of them."""
    filled.projects = [{"id": "p1", "name": "Team", "type": "team"}]
    many = [{"id": f"f{at}", "name": f"folder {at}", "parentFolderId": None} for at in range(205)]
    filled.folders = {"p1": many, "project-of-the-owner": many[:3]}
    site = site_of(tmp_path, filled, credentials="none")
    folder = unpacked(site, saved(site), tmp_path / "out")
    assert json.loads((folder / "projects.json").read_bytes()) == filled.projects
    said = json.loads((folder / "folders.json").read_bytes())
    assert {one["projectId"]: one["folders"] for one in said} == filled.folders


def test_what_is_made_meanwhile_is_not_missed(filled: Player, tmp_path: Path) -> None:
    """Workflows that are made, and deleted, while others are read move the pages; none that stays is left out."""
    for at in range(110):
        filled.api.good("POST", "/workflows", workflow(f"many {at}"))
    made: list[str] = []

    def busy(path: str) -> None:
        if re.fullmatch(r"/api/v1/workflows/\w{16}", path) and len(made) < 20 and len(filled.asked) % 7 == 0:
            row = filled._make(workflow(f"late {len(made)}"))
            made.append(row["id"])
            gone = next(number for number in sorted(filled.rows) if number not in made and number not in path)
            del filled.rows[gone]

    filled.before = busy
    site = site_of(tmp_path, filled, credentials="none")
    backup = saved(site)
    filled.before = lambda path: None
    held = {part.file.rpartition("/")[2][:16] for part in manifest_of(backup).source.parts if part.kind == "workflow"}
    assert made
    assert filled.rows.keys() <= held


def test_a_page_that_is_cut_off_is_asked_for_again(filled: Player, tmp_path: Path) -> None:
    """A body that ends too early, a 503 and a wait of zero seconds: the backup has everything, each once."""
    filled.broken += [
        Broken(cut=True),
        Broken(429, {"Retry-After": "0"}),
        Broken(503, {"Retry-After": "0"}, path="/api/v1/workflows/"),
        Broken(429, {"Retry-After": "Sun, 01 Nov 2020 00:00:00 GMT"}, path="/api/v1/tags"),
        Broken(cut=True, path="/api/v1/workflows/"),
    ]
    backup = saved(site_of(tmp_path, filled, credentials="none"))
    assert backup.documents == len(filled.rows)
    assert filled.broken == []


@pytest.mark.parametrize(
    "broken, code, words, retryable",
    [
        (Broken(401), "source-auth", "API key", False),
        (Broken(403), "source-auth", "refused to list workflows (403): played", False),
        (Broken(404), "source-failed", "(404)", False),
        (Broken(429, {"Retry-After": "3600"}), "source-failed", "asks to wait for 3600 s", True),
        (Broken(302, {"Location": "http://127.0.0.1:1/"}), "source-failed", "answered 302", False),
        (Broken(200, text="<html>welcome</html>"), "source-failed", "is not n8n's interface", False),
        (Broken(200, text='{"data": {}, "nextCursor": null}'), "source-failed", "is not n8n's interface", False),
        (Broken(200, text='{"data": [], "nextCursor": 5}'), "source-failed", "is not n8n's interface", False),
        (Broken(200, text='{"data": [], "nextCursor": null}'), "source-empty", "shows no workflow", False),
    ],
)
def test_faults_are_told(filled: Player, broken: Broken, code: str, words: str, retryable: bool) -> None:
    """Each has its code, a sentence, a hint, and never the key in it."""
    filled.broken.append(broken)
    with pytest.raises(BackupdError) as caught:
        open_source(filled.settings()).preflight()
    error = caught.value
    assert (error.code, error.retryable) == (code, retryable)
    assert words in error.message
    assert error.hint
    assert KEY not in error.message + error.hint


def test_an_error_that_lasts_ends_the_run(filled: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tries, then it is told; also where n8n is silent, and where it goes away half-way."""
    monkeypatch.setattr("nanumpay_backupd.sources.n8n_link._FIRST_REST", 0.01)
    for broken, code, words in (
        (Broken(502), "source-failed", "answered 502: played"),
        (Broken(cut=True), "source-unreachable", "closed the connection"),
        (Broken(silence=5.0), "source-unreachable", "says nothing for 1 s"),
    ):
        filled.broken[:] = [broken] * 4
        with pytest.raises(BackupdError) as caught:
            open_source(filled.settings(timeout=0.6)).preflight()
        assert (caught.value.code, caught.value.retryable) == (code, True)
        assert words in caught.value.message
        assert filled.broken == []


def test_a_list_without_an_end_is_noticed(filled: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """n8n gives the same mark for ever where the number of a page's elements is lost on the way."""
    monkeypatch.setattr("nanumpay_backupd.sources.n8n_link._PAGE", 0)
    with pytest.raises(BackupdError) as caught:
        open_source(filled.settings()).preflight()
    assert "again and again" in caught.value.message


def test_an_own_authority_vouches(tmp_path: Path) -> None:
    """With TLS its certificate is checked: against ca_file, or against the system's authorities."""
    certificate = make_certificate(tmp_path / "certificate")
    with start_player(tmp_path / "n8n", certificate) as player:
        trusted = player.settings(ca_file=str(certificate.authority), credentials="none")
        made = workflow("one")
        player.answer("POST", "/api/v1/workflows", made)
        assert "1 workflows" in open_source(trusted).preflight().summary
        with pytest.raises(BackupdError) as caught:
            open_source(player.settings(credentials="none")).preflight()
        assert (caught.value.code, caught.value.retryable) == ("source-failed", False)
        assert "ca_file" in caught.value.hint
    with pytest.raises(ConfigError):
        open_source(msgspec.structs.replace(trusted, ca_file="/no/such/file")).preflight()


def test_the_key_is_seen_nowhere(filled: Player, tmp_path: Path) -> None:
    """Neither in what a run says nor in what it leaves: catalog, manifest, archive."""
    site = site_of(tmp_path, filled)
    backup = saved(site)
    unpacked(site, backup, tmp_path / "out")
    for folder in (site.layout.backups.parent, tmp_path / "out"):
        for path in folder.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in repr(site.ear.__dict__) + repr(filled.settings())


# Credentials


def test_the_fingerprint_is_of_the_key_that_opens_them(filled: Player, tmp_path: Path) -> None:
    """From the settings, the environment file or n8n's folder it is the same; without it, or with another, it warns."""
    key = "the-key-of-the-credentials"
    variables = tmp_path / "env"
    variables.write_text(f'# n8n\nexport N8N_ENCRYPTION_KEY="{key}"\nDB_TYPE=sqlite\n')
    config = filled.folder / ".n8n" / "config"
    found = set()
    for more in ({}, {"encryption_key": Secret(key)}, {"environment_file": str(variables)}):
        site = site_of(tmp_path, filled, **more)
        manifest = manifest_of(saved(site))
        found.add(manifest.source.facts[FINGERPRINT])
        assert key not in json.dumps(msgspec.to_builtins(manifest))
    assert len(found) == 1
    bring_credentials(filled, sealed(key))
    run = good(site_of(tmp_path, filled).run())
    assert not run.warnings
    run = site_of(tmp_path, filled, encryption_key=Secret("another key, of another n8n")).run()
    assert "does not open these credentials: 비밀" in " ".join(run.warnings)
    config.write_text("{}")
    run = site_of(tmp_path, filled).run()
    assert "fingerprint of n8n's encryption key cannot be had" in " ".join(run.warnings)


def sealed(key: str) -> list[dict[str, Any]]:
    """Return credentials that this key opens, encrypted by openssl as n8n does it."""
    argv = ["openssl", "enc", "-aes-256-cbc", "-md", "md5", "-base64", "-A", "-pass", f"pass:{key}"]
    done = subprocess.run(argv, input=b'{"user": "u", "password": "p"}', capture_output=True, check=True)
    return [{**CREDENTIALS[0], "data": done.stdout.decode()}]


def test_n8ns_program_has_to_be_of_its_version(filled: Player) -> None:
    """Another one would bring the database to its own version; a folder without an n8n would get a new one."""
    filled.release = "2.41.1"
    with pytest.raises(BackupdError) as caught:
        open_source(filled.settings()).preflight()
    assert "is n8n 2.4.8, the n8n that runs is 2.41.1" in caught.value.message
    filled.release = "2.4.8"
    (filled.folder / ".n8n" / "config").unlink()
    with pytest.raises(BackupdError) as caught:
        open_source(filled.settings()).preflight()
    assert caught.value.code == "source-empty"


@pytest.mark.parametrize(
    "script, words",
    [
        ("exit 3", "did not export credentials (exit code 3): it said nothing"),
        ("echo '[]x' | cut -c1; echo 'database is locked' >&2; exit 1", "database is locked"),
        ("kill -9 $$", "killed by signal 9"),
    ],
)
def test_a_program_that_fails_makes_no_backup(filled: Player, tmp_path: Path, script: str, words: str) -> None:
    """What it wrote is believed only where it is a list of credentials."""
    program = tmp_path / "n8n-program"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 2.4.8 && exit\n{script}\n')
    program.chmod(0o755)
    site = site_of(tmp_path, filled, command=(str(program),))
    assert words in refused(site.run())[1]
    assert site.backups() == []


def test_readable_credentials_need_encryption_of_all_copies(tmp_path: Path) -> None:
    """The host file is refused unless every copy of the job is encrypted by us."""
    key = tmp_path / "passphrase"
    key.write_text("correct horse battery staple")
    key.chmod(0o600)
    job = (
        '[[job]]\nname = "a"\ntype = "n8n"\nurl = "http://localhost"\napi_key = "k1234567"\n'
        'command = ["/usr/bin/n8n"]\ncredentials = "decrypted"\n'
    )
    sealing = f'[encryption]\nmethod = "age"\npassphrase = {{ file = "{key}" }}\n'
    for text in (job, f'{sealing}scope = "remote"\n{job}', f'{sealing}{job}encryption = {{ method = "none" }}\n'):
        with pytest.raises(ConfigError) as caught:
            parse_host_file(text, "")
        assert "not every copy is encrypted" in caught.value.message
    for text in (sealing + job, f'{sealing}scope = "remote"\n{job}encryption = {{ scope = "all" }}\n'):
        assert parse_host_file(text, "").jobs[0].source.described == "n8n at http://localhost"


def test_credentials_come_back_to_the_key_that_they_need(filled: Player, other: Player, tmp_path: Path) -> None:
    """An n8n with another key refuses them, one whose key nobody knows as well, unless it is said to be right."""
    backup = saved(origin := site_of(tmp_path, filled))
    held = other.folder / ".n8n" / "credentials.json"
    (other.folder / ".n8n" / "config").write_text('{"encryptionKey": "another key"}')
    target = site_of(tmp_path, other)
    move(origin, target)
    code, words = refused(target.restore(backup, Wanted()))
    assert (code, "another key" in words) == ("target-refused", True)
    code, words = refused(target.restore(backup, Wanted(overwrite=True)))
    assert code == "target-refused"
    assert "encrypted with another key than this n8n has" in words
    (other.folder / ".n8n" / "config").write_text("{}")
    assert "nobody can tell" in refused(target.restore(backup, Wanted(overwrite=True)))[1]
    assert not held.exists()
    assert other.rows == {}
    good(target.restore(backup, Wanted(options={"credentials": "no"})))
    assert not held.exists()
    good(target.restore(backup, Wanted(overwrite=True, options={"credentials": "unchecked"}), safety=False))
    assert json.loads(held.read_text()) == CREDENTIALS
    held.unlink()
    (other.folder / ".n8n" / "config").write_text((filled.folder / ".n8n" / "config").read_text())
    good(target.restore(backup, Wanted(overwrite=True, only=("credentials.json",)), safety=False))
    assert json.loads(held.read_text()) == CREDENTIALS


def move(origin: Site, target: Site) -> None:
    """Give a site the backups of another one."""
    for path in origin.layout.backups.rglob("*"):
        if path.is_file():
            place = target.layout.backups / path.relative_to(origin.layout.backups)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


# The way back


def test_a_plan_says_what_changes(filled: Player, tmp_path: Path) -> None:
    """Line by line: which nodes, settings and tags, what becomes active, what is new; and how many are the same."""
    site = site_of(tmp_path, filled)
    backup = saved(site)
    Source(filled).spoil()
    before = state_of(filled)
    lines = dict(
        line.rsplit(": ", 1) if ": new" in line else line.split("): ", 1) for line in plan(site, backup).changes[:-2]
    )
    told = {name.partition(" (")[0]: what for name, what in lines.items()}
    assert told["한글 ../../x 🚀"] == "comes back: Set; goes: Other; settings executionOrder; tags: 운영"
    assert told["outer"] == "becomes active"
    assert told[f"{'x' * 59}…"] == "new"
    assert sorted(what for name, what in told.items() if name == "twice") == ["is deactivated"]
    assert plan(site, backup).changes[-2:] == (
        "the same: 8 workflows",
        "credentials of the same id are replaced, others stay",
    )
    assert any("under another id" in line for line in plan(site, backup).warnings)
    assert state_of(filled) == before


def test_one_workflow_comes_back_alone(filled: Player, tmp_path: Path) -> None:
    """By its name, a pattern, its id or its file; the others stay as they are, also those that changed meanwhile."""
    site = site_of(tmp_path, filled, credentials="none")
    backup = saved(site)
    filled.api.good("POST", f"/workflows/{by_name(filled)['outer']['id']}/deactivate")
    part = next(part for part in manifest_of(backup).source.parts if part.name.startswith("한글"))
    for word in ("한글 ../../x 🚀", "한글*", part.name, part.file, part.name[-17:-1]):
        number = by_name(filled)["한글 ../../x 🚀"]["id"]
        filled.api.good("PUT", f"/workflows/{number}", called("한글 ../../x 🚀"))
        before = by_name(filled)
        good(site.restore(backup, Wanted(only=(word,), overwrite=True), safety=False))
        after = by_name(filled)
        assert [node["name"] for node in after.pop("한글 ../../x 🚀")["nodes"]] == ["Every hour", "Set"], word
        del before["한글 ../../x 🚀"]
        assert after == before, word


def test_only_what_was_active(filled: Player, other: Player, tmp_path: Path) -> None:
    """With active-only the others are left out; with active=off none is active afterwards."""
    backup = saved(origin := site_of(tmp_path, filled, credentials="none"))
    target = site_of(tmp_path, other, credentials="none")
    move(origin, target)
    good(target.restore(backup, Wanted(options={"active-only": "yes"})))
    assert {name: row["active"] for name, row in by_name(other).items()} == {
        "inner": True,
        "outer": True,
        "draft": True,
    }
    good(target.restore(backup, Wanted(overwrite=True, options={"active": "off"})))
    assert {row["active"] for row in by_name(other).values()} == {False}
    assert len(other.rows) == len(filled.rows)


def test_into_another_n8n_references_follow_the_new_ids(filled: Player, other: Player, tmp_path: Path) -> None:
    """What calls another workflow calls the one that was made for it, and a second restore changes nothing more."""
    rows = by_name(filled)
    listing = {
        "__rl": True,
        "value": rows["inner"]["id"],
        "mode": "list",
        "cachedResultUrl": f"/workflow/{rows['inner']['id']}",
    }
    more = calling("by list", "")
    more["nodes"][1]["parameters"]["workflowId"] = listing
    more["settings"] = {"errorWorkflow": rows["inner"]["id"], "callerIds": f"{rows['outer']['id']}, other"}
    filled.api.good("POST", "/workflows", more)
    site = site_of(tmp_path, filled, credentials="none")
    backup = saved(site)
    good(site.restore(backup, Wanted(to=other.url)))
    assert state_of(other) == state_of(filled)
    made = by_name(other)
    assert made["outer"]["nodes"][1]["parameters"]["workflowId"]["value"] == made["inner"]["id"]
    assert made["inner"]["id"] in made["by list"]["nodes"][1]["parameters"]["workflowId"]["cachedResultUrl"]
    assert made["by list"]["settings"]["errorWorkflow"] == made["inner"]["id"]
    assert made["by list"]["settings"]["callerIds"] == f"{made['outer']['id']}, other"
    good(site.restore(backup, Wanted(to=other.url, overwrite=True)))
    assert state_of(other) == state_of(filled)
    assert len(other.rows) == len(filled.rows)


def test_copies_beside_what_is_there(filled: Player, tmp_path: Path) -> None:
    """With a prefix nothing that is there is touched, and no copy is active."""
    site = site_of(tmp_path, filled)
    backup = saved(site)
    before = by_name(filled)
    good(site.restore(backup, Wanted(options={"prefix": "old "})))
    after = by_name(filled)
    copies = {name: after.pop(name) for name in list(after) if name.startswith("old ")}
    assert after == before
    assert set(copies) == {f"old {name}" for name in before}
    assert not any(row["active"] for row in copies.values())


def test_what_n8n_refuses_is_told_and_the_rest_is_there(filled: Player, tmp_path: Path) -> None:
    """One that is not taken does not hold the others; its reason is n8n's own sentence; again, it comes back."""
    site = site_of(tmp_path, filled, credentials="none")
    backup = saved(site)
    before = state_of(filled)
    Source(filled).spoil()
    number = by_name(filled)["outer"]["id"]
    filled.broken.append(
        Broken(400, text='{"message": "no such node here"}', path=f"/api/v1/workflows/{number}/activate")
    )
    code, words = refused(site.restore(backup, Wanted(overwrite=True)))
    assert code == "restore-failed"
    assert "outer was not activated: no such node here" in words
    good(site.restore(backup, Wanted(overwrite=True)))
    assert state_of(filled) == before


def test_keys_that_an_n8n_does_not_know_are_left_out(n8n: Player, other: Player, tmp_path: Path) -> None:
    """What the editor saved, but the interface does not take, is said in the plan and does not hold the restore."""
    row = n8n._make(workflow("odd"))
    n8n.rows[row["id"]]["settings"]["binaryMode"] = "separate"
    n8n.rows[row["id"]]["nodes"][1]["rewireOutputLogTo"] = "ai_tool"
    n8n.rows[row["id"]]["pinData"] = {"Set": [{"json": {"a": 1}}]}
    site = site_of(tmp_path, n8n, credentials="none")
    backup = saved(site)
    said = " ".join(plan(site, backup, to_database=other.url).warnings)
    assert "nodes.rewireOutputLogTo, pinData, settings.binaryMode" in said
    good(site.restore(backup, Wanted(to=other.url)))
    assert "binaryMode" not in by_name(other)["odd"]["settings"]
    folder = unpacked(site, backup, tmp_path / "out")
    (file,) = (folder / "workflows").iterdir()
    assert json.loads(file.read_bytes())["pinData"] == {"Set": [{"json": {"a": 1}}]}


@pytest.mark.parametrize(
    "wanted",
    [
        {"to": "elsewhere"},
        {"to": "http://u:p@x"},
        {"options": {"active": "maybe"}},
        {"options": {"credentials": "perhaps"}},
        {"to": "/tmp/x", "options": {"prefix": "a"}},
    ],
)
def test_what_cannot_be_is_refused(filled: Player, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """A place or a choice that makes no sense changes nothing."""
    site = site_of(tmp_path, filled, credentials="none")
    backup = saved(site)
    code, words = refused(site.restore(backup, Wanted(**wanted)))
    assert code == "target-refused"
    assert "nothing was changed" in words


# Through S3, and by hand


def test_from_the_bucket_alone(filled: Player, other: Player, s3: S3Server, tmp_path: Path) -> None:
    """Encrypted and copied to S3, with nothing left here, it comes back into another n8n as it was."""
    pair = age_key("first")
    encryption = JobEncryption(method="age", scope="all", recipients=(pair.recipient,), decrypt_with=(pair.identity,))
    bucket = s3.destination(prefix="n8n/")
    job = {"encryption": encryption, "destinations": (bucket,)}
    backup = saved(origin := site_of(tmp_path, filled, job=job))
    before = state_of(filled)
    (other.folder / ".n8n" / "config").write_text((filled.folder / ".n8n" / "config").read_text())
    target = site_of(tmp_path, other, job=job)
    with Catalog(origin.paths.state / "catalog.db") as known, Catalog(target.paths.state / "catalog.db") as empty:
        found = known.backup(backup.id)
        assert found is not None
        empty.save_backup(
            msgspec.structs.replace(found, copies=tuple(c for c in found.copies if c.destination == bucket.name))
        )
    good(target.restore(backup, Wanted(overwrite=True), source=bucket.name))
    assert state_of(other) == before
    assert json.loads((other.folder / ".n8n" / "credentials.json").read_text()) == CREDENTIALS


def shell(text: str, folder: Path, **environment: str) -> None:
    """Run lines of the page in a shell that stops at the first failure."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def blocks() -> list[str]:
    """Return the shell blocks of the page's chapter By hand."""
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8").partition("## By hand")[2], re.DOTALL)


def by_hand(server: Callable[[], N8n | Played], origin: N8n | Played, tmp_path: Path, s3: S3Server) -> N8n | Played:
    """Fetch a backup from the bucket by rclone, open it by age, and run the page's lines for curl."""
    pair = age_key("first")
    encryption = JobEncryption(method="age", scope="all", recipients=(pair.recipient,), decrypt_with=(pair.identity,))
    bucket = s3.destination(prefix="hand/")
    site = site_of(tmp_path, origin, job={"encryption": encryption, "destinations": (bucket,)}, credentials="none")
    backup = saved(site)
    hand = tmp_path / "hand"
    hand.mkdir()
    (hand / "identity").write_text(pair.identity.reveal())
    fetched = s3.root / s3.bucket / "hand" / backup.artifact
    shell(f"age --decrypt --identity identity {fetched} > {backup.id}.tar.gz", hand)
    name = "automation-backup-2026-11-21T03-00-00"
    shell(blocks()[0].splitlines()[0].replace(name, backup.id), hand)
    target = server()
    (hand / backup.id / "key.header").write_text(f"X-N8N-API-KEY: {target.api.key}\n")
    shell(blocks()[1], hand / backup.id, N8N=target.url)
    return target


def test_by_hand_with_curl(n8n: Player, other: Player, s3: S3Server, tmp_path: Path) -> None:
    """From the bucket alone, with age, tar, curl and jq as the page has it: the same workflows, active as they were."""
    for name in ("한글 ../../x 🚀", "twice", "twice", ""):
        n8n.api.good("POST", "/workflows", workflow(name))
    n8n.api.good("POST", f"/workflows/{by_name(n8n)['']['id']}/activate", {})
    n8n.api.good("POST", "/workflows", called("inner"))
    target = by_hand(lambda: other, n8n, tmp_path, s3)
    assert state_of(target) == state_of(n8n)


def test_by_hand_with_n8ns_program(filled: Player, other: Player, tmp_path: Path) -> None:
    """The lines of the manifest name the files that the archive has."""
    site = site_of(tmp_path, filled)
    backup = saved(site)
    folder = unpacked(site, backup, tmp_path / "out")
    lines = [line.replace("{folder}", str(folder)) for line in manifest_of(backup).source.by_hand]
    command = next(line for line in lines if line.startswith("n8n import:credentials"))
    subprocess.run(
        [*other.command, *command.split()[1:]], env={**os.environ, "N8N_USER_FOLDER": str(other.folder)}, check=True
    )
    assert json.loads((other.folder / ".n8n" / "credentials.json").read_text()) == CREDENTIALS
    assert Path(next(line for line in lines if "import:workflow" in line).rpartition("=")[2]).is_dir()


@pytest.mark.skipif(not REAL, reason="n8n itself: make test-n8n")
def test_n8n_itself_takes_it_by_hand(s3: S3Server, tmp_path: Path) -> None:
    """By curl, and by its own program with the ids, pinned data and credentials that the backup holds."""
    find_tool("jq")
    with start_n8n(tmp_path / "n8n") as first, start_n8n(tmp_path / "second") as second:
        fill_n8n(first)
        site = site_of(tmp_path, first)
        backup = saved(site)
        folder = unpacked(site, backup, tmp_path / "out")
        lines = "\n".join(manifest_of(backup).source.by_hand).replace("{folder}", str(folder))
        starter = tmp_path / "bin" / "n8n"
        starter.parent.mkdir()
        starter.write_text(f'#!/bin/sh\nexec {" ".join(second.command)} "$@"\n')
        starter.chmod(0o755)
        shell(lines, tmp_path, PATH=f"{starter.parent}:{os.environ['PATH']}", N8N_USER_FOLDER=str(second.folder))
        assert {row["id"] for row in by_name(second).values()} == {row["id"] for row in by_name(first).values()}
        good(site_of(tmp_path, second, credentials="none").run())
        second.clear()
        first.clear()
        first.api.good("POST", "/workflows", workflow("한글 ../../x 🚀"))
        target = by_hand(lambda: second, first, tmp_path, s3)
        assert state_of(target) == state_of(first)


# Through a daemon


class Nowhere:
    """A site without a MongoDB."""

    def uri_for(self, database: str) -> str:
        """Return a connection string that nobody answers."""
        return f"mongodb://127.0.0.1:1/{database}"

    def client(self, **_options: Any) -> Any:
        """Nobody asks."""
        raise AssertionError


def test_the_commands_say_what_changes(filled: Player) -> None:
    """From the host file to the lines on the screen: run, show, a dry run line by line, active-only, restore."""
    with open_site(Nowhere(), fill=False) as site:
        secret = site.folder / "n8n-key"
        secret.touch(mode=0o600)
        secret.write_text(f"{KEY}\n")
        site.write_config(
            f"""
            [nanumpay]
            enabled = false
            [[job]]
            name = "automation"
            type = "n8n"
            url = "{filled.url}"
            api_key = {{ file = "{secret}" }}
            command = {json.dumps(filled.command)}
            user_folder = "{filled.folder}"
            """
        )
        site.start()
        done = backupctl(site.socket, "run", "automation")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "12 workflows" in done.stdout
        assert "n8n import:workflow --separate" in backupctl(site.socket, "show", "latest").stdout
        before = state_of(filled)
        Source(filled).spoil()
        dry = ("restore", "latest", "--overwrite", "--dry-run")
        said = backupctl(site.socket, *dry).stdout
        for line in ("outer (", ": becomes active", "comes back: Set; goes: Other", ": new", "the same: 8 workflows"):
            assert line in said
        assert "11 workflows; workflows of the same name are replaced" in said
        said = backupctl(site.socket, *dry, "--active-only").stdout
        assert "3 workflows" in said
        assert ": new" not in said
        refused = backupctl(site.socket, "restore", "latest", "--yes")
        assert refused.returncode != 0
        assert "other than in the backup" in refused.stdout + refused.stderr
        done = backupctl(site.socket, "restore", "latest", "--overwrite", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert state_of(filled) == before
        logged = "".join(path.read_text(errors="replace") for path in site.folder.rglob("*.log"))
        assert KEY not in done.stdout + done.stderr + logged
