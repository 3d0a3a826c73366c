"""The main events by which the journal can be searched: their fixed MESSAGE_IDs and fields. Sends nothing.

Each has an entry in systemd/nanumpay-backupd.catalog, which `journalctl -x` shows. An id never changes its meaning.
"""

from __future__ import annotations

from enum import Enum

from nanumpay_backupd.model import Outcome, Run

__all__ = ["Message", "message_of"]


class Message(Enum):
    """One kind of event: its id (128 bits as 32 hexadecimal digits), and the fields that its entry always has."""

    READY = ("fe5c9f2cdf1347079b742111208f11e8", "NANUMPAY_VERSION", "NANUMPAY_SOCKET", "NANUMPAY_BACKUPS")
    """The daemon is ready."""
    DAEMON_FAILED = ("31b3470f90f748b1b479f295aabd7230", "OBJECT_SYSTEMD_UNIT", "SERVICE_RESULT")
    """systemd gave up on the daemon; written by the alert unit, not by this code."""
    DEFECT = ("58e7927cd3e24431960a1f1e13926606", "ERROR_CODE")
    """A defect of this software was met."""
    RELOADED = ("c9ec054e2e2341879967135429d77190", "NANUMPAY_FILE")
    """A changed host file is in force."""
    RELOAD_REFUSED = ("881fae640b9a497eafbdeb5445e6bfe0", "ERROR_CODE", "NANUMPAY_HINT")
    """A changed host file was refused."""
    SETTINGS_IN_FORCE = ("82bc9729ca404e1e91bfc0ce8b858546", "NANUMPAY_ORIGIN", "NANUMPAY_NEXT_RUN")
    """Settings saved in the application are in force."""
    SETTINGS_REFUSED = ("bcde718e90f1409f8f932a4817425b01", "ERROR_CODE", "NANUMPAY_HINT")
    """Settings saved in the application were refused."""
    SETTINGS_UNREACHABLE = ("45c3b19a92ef413abc401e39dbb3581f", "ERROR_CODE", "NANUMPAY_HINT")
    """The application's settings cannot be read now."""
    RUN_STARTED = ("db3f145bac094d809799926646ad3d29", "RUN_ID", "JOB", "NANUMPAY_ACTION", "NANUMPAY_TRIGGER")
    """A run began."""
    RUN_SUCCEEDED = ("7ab827b9dfa54a80b71d755011d97056", "RUN_ID", "JOB")
    """A backup, or the upload of one, succeeded."""
    RUN_DEGRADED = ("e9b09cf682b84c1f8975c42d1fd72546", "RUN_ID", "JOB", "ERROR_CODE")
    """A run did what matters, but not everywhere."""
    RUN_FAILED = ("80209383fcd34c55b5c9eb4eb264a452", "RUN_ID", "JOB", "ERROR_CODE")
    """A run failed."""
    RUN_CANCELLED = ("531946e6de014b3f98db64decfeee9d3", "RUN_ID", "JOB")
    """A run was stopped by somebody, or by the service's stop."""
    RUN_INTERRUPTED = ("17dec8dd1fab4f0b87b6fac54095818a", "RUN_ID", "JOB")
    """A run's process ended without a word."""
    RUN_SKIPPED = ("ab4350c2cf1f4c158bc56b9065ba1f98", "RUN_ID", "JOB")
    """A run did not begin because the job was running."""
    RUN_MISSED = ("c05cfa0a05ef4823ad5a016cc50de152", "JOB", "NANUMPAY_DUE")
    """A run was due while the daemon was not there."""
    CHAIN_BROKEN = ("701f113b1d184e83a365cd3614370c18", "RUN_ID", "JOB")
    """The saved changes do not follow on any more."""
    COPY_CORRUPT = ("42b6639b6e4c4262816173df78d41054", "RUN_ID", "JOB")
    """One copy is not what was dumped."""
    VERIFY_SUCCEEDED = ("fd511a694a3f468ab059fe685e8f6e9a", "RUN_ID", "JOB")
    """Copies were read again and are good."""
    VERIFY_FAILED = ("bf7e0e2ccb904df0998e074b0bc3294c", "RUN_ID", "JOB", "ERROR_CODE")
    """What was written is not what was dumped."""
    DRILL_SUCCEEDED = ("92a1e8f1863b4a9bb32e7f781d7ef2d4", "RUN_ID", "JOB")
    """A backup was restored into a scratch place and is good."""
    DRILL_FAILED = ("d37e8eb3b4434b7a90965babd6392c15", "RUN_ID", "JOB", "ERROR_CODE")
    """A backup does not restore as it was dumped."""
    DRILL_NOT_DONE = ("b3296b33ec49403e9f791dbe8f7392ea", "RUN_ID", "JOB", "ERROR_CODE")
    """A drill could not be carried out."""
    RESTORE_SUCCEEDED = ("f3ba469f27004dc5b03ffac10c72d5b8", "RUN_ID", "JOB")
    """A restore succeeded."""
    RESTORE_FAILED = ("1865f39dcde0460f9546a6380b986650", "RUN_ID", "JOB", "ERROR_CODE")
    """A restore failed."""
    BACKUP_ODD = ("9619d94e567b4d3498b087a6c458039f", "RUN_ID", "JOB")
    """Data may be missing from a backup that is good otherwise."""
    COPIES_DELETED = ("22fd6c24893942aebb41a6707887664a", "JOB")
    """Copies were deleted, by retention or by somebody."""
    RPO_MISSED = ("0221e8764c9f428386cd951ec4f2cff8", "JOB", "NANUMPAY_HINT")
    """More than promised would be lost now."""
    RPO_KEPT = ("0c626bd5422644988fed49cfd08d839c", "JOB")
    """The promise is kept again."""
    RTO_MISSED = ("eacb7c605656445faae28590d5156009", "JOB", "NANUMPAY_HINT")
    """The last drill took longer than promised."""
    OPLOG_SHORT = ("d3361fc5a8824b3184ab2024e9246bbc", "JOB", "NANUMPAY_HINT")
    """The oplog hardly outlasts the pause between two slices."""

    @property
    def id(self) -> str:
        """Return what stands in the field MESSAGE_ID."""
        return str(self.value[0])

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the journal's names of the fields that are always there."""
        return tuple(self.value[1:])


_ALWAYS = {
    Outcome.CANCELLED: Message.RUN_CANCELLED,
    Outcome.INTERRUPTED: Message.RUN_INTERRUPTED,
    Outcome.SKIPPED: Message.RUN_SKIPPED,
    Outcome.DEGRADED: Message.RUN_DEGRADED,
}
_GOOD = {
    "slice": None,  # one a minute
    "verify": Message.VERIFY_SUCCEEDED,
    "drill": Message.DRILL_SUCCEEDED,
    "restore": Message.RESTORE_SUCCEEDED,
}
_BAD = {"drill": Message.DRILL_NOT_DONE, "restore": Message.RESTORE_FAILED}


def message_of(run: Run) -> Message | None:
    """Return which event the end of a run is; None for what is none, such as a slice that succeeded."""
    if run.outcome is None:
        return None
    if run.outcome in _ALWAYS:
        return _ALWAYS[run.outcome]
    if run.outcome is Outcome.SUCCEEDED:
        return _GOOD.get(run.action, Message.RUN_SUCCEEDED)
    code = run.error.code if run.error is not None else ""
    if run.action not in {"restore", "copy", "upload"} and (code.startswith("verify-") or code == "artifact-missing"):
        return Message.VERIFY_FAILED
    by_code = {"chain-broken": Message.CHAIN_BROKEN, "drill-failed": Message.DRILL_FAILED, "chain-missing": None}
    return by_code[code] if code in by_code else _BAD.get(run.action, Message.RUN_FAILED)
