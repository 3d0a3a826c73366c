"""Every code that is raised anywhere, and whether trying again can help: one answer for each, wherever it is raised."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from nanumpay_backupd import errors
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.stores.base import store_error
from tests.servers.tools import PROJECT

# What may pass by itself: no connection, somebody else at it, a process that was killed, a wait that was too long.
HELPS = frozenset(
    "busy catalog-unusable daemon-stopping daemon-timeout deadline destination-mismatch destination-unreachable "
    "dump-incomplete fleet-unreachable interrupted not-holder notify-failed notify-timeout out-of-resources "
    "publish-failed relay-failed scratch-failed settings-failed settings-unreachable sign-in-wait source-busy "
    "source-lagging source-loading source-unreachable tool-timeout "
    "worker-start".split()
)
# Wrong passwords, rights, keys, names and versions, no room, damage, what somebody decided.
IN_VAIN = frozenset(
    "artifact-missing bad-request bad-time cancelled catalog-damaged catalog-newer chain-broken chain-missing "
    "config-invalid control-socket copy-unusable destination-auth destination-denied destination-full "
    "destination-hostkey destination-not-found destination-tls drill-failed drill-impossible encryption-off "
    "extra-missing failed folder-unusable hook-failed group-partial "
    "full-too-old job-disabled key-missing key-wrong lease-lost memory-limit metrics-failed newest-verified "
    "no-oplog no-space "
    "no-such-moment not-allowed not-found notify-address object-locked object-missing oplog-short permission-denied "
    "pinned recipient-unusable replay-refused restore-failed restore-incomplete settings-auth settings-invalid "
    "settings-missing settings-uri not-for-this-source source-auth source-damaged source-empty "
    "source-too-old swap-failed swap-impossible swap-unfinished target-exists target-refused tool-missing "
    "csrf not-signed-in not-typed password-weak settings-changed sign-in-refused token-refused too-large web-listen "
    "web-state wrong-host "
    "tool-too-old usage verify-checksum verify-counts verify-failed verify-size verify-structure watch-ended".split()
)
# Where it depends on what happened, the place that raises it knows: a dump is made again when its tool was killed or
# failed, a restore never; what a server answers may pass or not; a refusal because the daemon stops passes.
# A program's own file is not a run's, nor is the socket of a daemon that does not run one of a daemon that ended.
DEPENDS = frozenset(
    "daemon-unreachable destination-failed internal notify-failed refused source-failed tool-failed tool-killed "
    "write-failed".split()
)


def raised() -> Iterator[tuple[str, bool, str]]:
    """Yield code, retryable and place of every fault made in this program whose code is written there."""
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    for path in (PROJECT / "nanumpay_backupd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kind = kinds.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            if not isinstance(node, ast.Call) or kind is None or not issubclass(kind, BackupdError):
                continue
            given = {word.arg: word.value for word in node.keywords}
            code, retryable = given.get("code"), given.get("retryable")
            if not isinstance(code, ast.Constant | None) or not isinstance(retryable, ast.Constant | None):
                continue  # handed on from another one
            yield (
                str(code.value) if code is not None else kind.default_code,
                bool(retryable.value) if retryable is not None else kind.default_retryable,
                f"{path.relative_to(PROJECT)}:{node.lineno}",
            )


def test_a_code_says_the_same_wherever_it_is_raised() -> None:
    """A fault that may pass is tried again, a lasting one never: nobody has to know where it came from."""
    wrong = []
    for code, retryable, place in raised():
        if code not in DEPENDS and retryable is not (code in HELPS):
            wrong.append(f"{place}: {code} is raised with retryable={retryable}")
    assert wrong == []


def test_every_code_has_its_answer() -> None:
    """A new code is put here by whoever makes it, with thought; one that nobody raises any more goes."""
    known = HELPS | IN_VAIN | DEPENDS
    found = {code for code, _, _ in raised()}
    assert found <= known
    assert not HELPS & IN_VAIN
    explained = Path(PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [code for code in known if f"| `{code}` |" not in explained] == []


def test_what_a_destination_refuses_is_not_tried_again() -> None:
    """The drivers' faults get their answer from the code."""
    for code in HELPS | IN_VAIN:
        if code.startswith("destination-"):
            assert store_error(code, "x").retryable is (code in HELPS)
