"""Tools that end well and did not do it: no output, half of it, garbage. None of it becomes a backup."""

from __future__ import annotations

import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.model import CopyState, Outcome
from nanumpay_backupd.settings.schema import RetryPolicy
from tests.fault.subjects import Encrypted, Mongo, Subject
from tests.fault.survivors import Host
from tests.fault.workers import Stable, stable
from tests.servers.mongod import Mongod
from tests.servers.tools import find_tool
from tests.workbench import small_disk

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise(
        "The exit code of a tool is not believed: what is short, missing or garbage is no backup.", item=3
    ),
]
MIB: Final = 1 << 20

# What the tool does instead; ``real`` is the real one with the arguments, $OUT the folder that mongodump should fill.
LIES: Final = {
    "tar": {
        "nothing": "exit 0",
        "garbage": "head -c 30000 /dev/urandom",
        "half": "real | head -c 12000",
        "not a word": "exit 2",
    },
    "mongodump": {
        "nothing": "exit 0",
        "garbage": 'real; head -c 5000 /dev/urandom > "$(find "$OUT" -name users.bson)"',
        "half": 'real; truncate -s 1000 "$(find "$OUT" -name users.bson)"',
        "a file is gone": 'real; rm "$(find "$OUT" -name orders.bson)"',
        "not a word": "exit 1",
    },
    "gpg": {
        "nothing": "exit 0",
        "garbage": "cat > /dev/null; head -c 3000 /dev/urandom",
        "half": "real | head -c 150",
        "not a word": "exit 2",
    },
}
DAILY: Final = {("tar", "half"), ("mongodump", "nothing")}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stable]:
    """The process that forks."""
    with small_disk(tmp_path_factory.mktemp("lies") / "disk", 256 * MIB) as disk, stable(disk) as running:
        yield running


@pytest.fixture(scope="module")
def subjects(workers: Stable, mongod_standalone: Mongod) -> Iterator[dict[str, Subject]]:
    """What each tool works on."""
    roots = {tool: workers.folder / uuid.uuid4().hex for tool in LIES}
    mongo = Mongo(roots["mongodump"], mongod_standalone)
    yield {"tar": Subject(roots["tar"]), "mongodump": mongo, "gpg": Encrypted(roots["gpg"])}
    mongo.close()


def liar(tool: str, lie: str, folder: Path) -> Path:
    """Write a program that lies where it should make something, and is the real one otherwise."""
    real = shlex.quote(str(shutil.which(tool) or find_tool(tool)))
    makes = {"tar": "*--create*", "mongodump": "*--out=*", "gpg": "*--symmetric*|*--encrypt*"}[tool]
    folder.mkdir(exist_ok=True)
    path = folder / tool
    path.write_text(
        "#!/bin/bash\n"
        f'case "$*" in {makes}) ;; *) exec {real} "$@";; esac\n'
        'for word; do case "$word" in --out=*) OUT="${word#--out=}";; esac; done\n'
        'ARGS=("$@")\n'
        f'real() {{ {real} "${{ARGS[@]}}"; }}\n'
        f"{lie}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def assert_none_good(host: Host, good: int) -> None:
    """Check that so many copies count as good, and what the lie left, if anything, as corrupt."""
    copies = [copy.state for backup in host.backups() for copy in backup.copies]
    assert sum(state in (CopyState.UPLOADED, CopyState.VERIFIED) for state in copies) == good
    assert set(copies) <= {CopyState.UPLOADED, CopyState.VERIFIED, CopyState.CORRUPT}


@pytest.mark.parametrize(
    "tool, lie",
    [
        pytest.param(tool, lie, marks=() if (tool, lie) in DAILY else pytest.mark.fault_long)
        for tool, lies in LIES.items()
        for lie in lies
    ],
)
def test_no_lie_becomes_a_backup(workers: Stable, subjects: dict[str, Subject], tool: str, lie: str) -> None:
    """The run fails with a code and a sentence, nothing of it counts as good, older ones stay, the next succeeds."""
    subject = subjects[tool]
    host = Host.made(subject.root / "host", workers, subject.source, retry=RetryPolicy(attempts=1), **subject.job)
    host.good()
    before = host.files()
    path = str(liar(tool, LIES[tool][lie], subject.root / "bin"))
    changes: dict[str, Any] = (
        {"source": msgspec.structs.replace(subject.source, **{tool: path})} if tool != "gpg" else {}
    )
    if tool == "gpg":
        changes = {"encryption": msgspec.structs.replace(host.job.encryption, gpg=path)}
    spec = host.spec(job=changes)
    ended = workers.run(spec)
    record = host.record(spec.run)
    assert record is not None
    assert record.outcome is Outcome.FAILED, ended.said[-2000:]
    assert record.error is not None
    code = record.error.code
    assert code in ("tool-failed", "dump-incomplete", "source-damaged") or code.startswith("verify-"), record.error
    assert record.error.message
    assert "Traceback" not in ended.said
    host.recover()
    assert_none_good(host, len(before))
    host.assert_true()
    host.good()
    host.assert_true()
    assert_none_good(host, len(before) + 2)
    host.assert_kept(before)
