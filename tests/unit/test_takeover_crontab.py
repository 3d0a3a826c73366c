"""Which lines of a crontab the old program's are, and that nothing else of it is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.takeover.crontab import Verdict, judge, without_old_program

PROGRAM = "/opt/nanumpay/bin/nanumpay-backup"
MARK = b"# nanumpay-backup\n"
OLD = b"0 2 * * * /opt/nanumpay/bin/nanumpay-backup >> /logs/backup.log 2>&1\n"

TAKEN = [
    f"0 2 * * * {PROGRAM} >> /logs/backup.log 2>&1",
    f"30 3 1 * * {PROGRAM}",
    f"  \t5\t4  * *\t0   {PROGRAM}  ",
    f"*/5 * * * * {PROGRAM} &> /dev/null",
    f"@daily {PROGRAM}",
    "@reboot nanumpay-backup",
    f"0 2 * * * {PROGRAM} # every night",
    f'0 2 * * * "{PROGRAM}" >/dev/null 2>&1',
    "0 2 * * * cd /opt/nanumpay/bin && ./nanumpay-backup",
    f"0 2 * * * sleep 60; {PROGRAM}",
    f"0 2 * * * [ -x {PROGRAM} ] && {PROGRAM}",
    f"0 2 * * * test -x {PROGRAM} && {PROGRAM} | logger -t backup",
    f"0 2 * * * {PROGRAM} 2>&1 | tee -a /logs/backup.log",
    f"0 2 * * * (date; {PROGRAM})>> /logs/backup.log 2>&1",
    f"0 2 * * * {PROGRAM} >> /logs/backup-$(date +\\%F).log 2>&1",
    f"0 2 * * * {PROGRAM} || echo failed | mail -s 'backup failed' root",
    f"0 2 * * * FORCE_BACKUP=true MONGODB_URI='mongodb://a:b@h/n?w=1&x=2' {PROGRAM}",
    f"0 2 * * * . /etc/nanumpay/nanumpay.env; {PROGRAM}",
    f"0 2 * * * nice -n 10 ionice -c 3 {PROGRAM}",
    f"0 2 * * * nice -10 ionice -c3 nohup {PROGRAM} &",
    f"0 2 * * * flock -n /run/lock/backup timeout -k 5 2h {PROGRAM}",
    f"0 2 * * * env -u LANG A=b {PROGRAM}",
    f"0 2 * * * sudo -u nanumpay {PROGRAM}",
    f"0 2 * * * runuser -u nanumpay -- {PROGRAM}",
    f"0 2 * * * sh -c '{PROGRAM} >> /logs/backup.log'",
    "0 2 * * * bash -lc 'cd /opt/nanumpay && bin/nanumpay-backup' > /dev/null",
    f"0 2 * * * /bin/sh {PROGRAM}",
    f"0 2 * * * {PROGRAM}%text for its standard input",
    f"0 2 * * * {PROGRAM}\r",
]
TOLD = [
    f"0 2 * * * {PROGRAM} && /usr/local/bin/copy-offsite",
    f"0 2 * * * /usr/local/bin/before; {PROGRAM}",
    f"0 2 * * * {PROGRAM} && curl -fsS https://monitor.example/ping",
    f"0 2 * * * cp {PROGRAM} /srv/",
    f"0 2 * * * timeout 60 cp {PROGRAM} /srv/",
    f"0 2 * * * tar -czf /srv/bin.tgz {PROGRAM} etc",
    f"0 2 * * * test -x {PROGRAM} || echo 'it is gone'",
    f"0 2 * * * root {PROGRAM}",
    f"0 2 * * * {PROGRAM} $(cat /etc/options)",
    f'0 2 * * * echo "`reboot`"; {PROGRAM}',
    f"0 2 * * * {PROGRAM} 'never closed",
    f"0 2 * * * sh -c 'cp {PROGRAM} /srv'",
    f"0 2 * * * sh -x /usr/local/bin/wrapper -c {PROGRAM}",
    f"0 2 * * * if true; then {PROGRAM}; fi",
    f"0 2 * * * echo '; {PROGRAM}'",
    f"0 2 * * * curl -o /tmp/x https://example.org > {PROGRAM}",
    f"BACKUP_APP_PATH={PROGRAM}",
    f'"BACKUP APP" = {PROGRAM}',
    f"please do not run {PROGRAM}",
    f"0 2 * * * {PROGRAM} > >(sort)",
]
LEFT = [
    "",
    "   ",
    "MAILTO=root",
    "PATH=/usr/bin:/bin",
    "0 2 * * * /usr/local/bin/report",
    f"#0 2 * * * {PROGRAM} >> /logs/backup.log 2>&1",
    f"  # 0 2 * * * {PROGRAM}",
    "# nanumpay-backup was here; do not put it back",
    "0 3 * * * runuser -u nanumpay -- nanumpay-backupd run-once nanumpay",
    "0 3 * * * /usr/sbin/nanumpay-backupd run-once",
    "*/5 * * * * backupctl status > /dev/null || mail -s 'nanumpay-backupd' root < /dev/null",
    "0 4 * * * find /srv/nanumpay-backups -mtime +30 -delete",
    "0 4 * * * find /srv -name 'nanumpay-backup-*.tar.gz' -mtime +30 -delete",
    "0 4 * * * rsync -a /opt/nanumpay/backups/ nas:/nanumpay-backup/",
    "0 4 * * * /opt/nanumpay/bin/nanumpay-backup.old-program",
    "0 4 * * * /usr/local/bin/my-nanumpay-backup",
    "0 4 * * * logrotate /etc/nanumpay-backup.conf",
    "0 4 * * * /usr/local/bin/백업\x85도구",
]


@pytest.mark.parametrize(
    "line,verdict",
    [
        *((line, Verdict.TAKE) for line in TAKEN),
        *((line, Verdict.TELL) for line in TOLD),
        *((line, Verdict.LEAVE) for line in LEFT),
    ],
)
def test_verdict(line: str, verdict: Verdict) -> None:
    """A line goes only when all it does is run the old program; one that merely names it is told, others are left."""
    assert judge(line.encode()) is verdict
    assert judge(line.encode() + b"\n") is verdict


@pytest.mark.parametrize(
    "before,after",
    [
        pytest.param(MARK + OLD, b"", id="nothing else"),
        pytest.param(b"A=1\n" + MARK + OLD + b"0 1 * * * x\n", b"A=1\n0 1 * * * x\n", id="between others"),
        pytest.param(b"\n\n" + MARK + OLD + b"\n", b"\n\n\n", id="empty lines stay"),
        pytest.param(OLD + OLD, b"", id="twice, without the comment"),
        pytest.param(MARK + MARK + OLD, b"", id="the comment twice"),
        pytest.param(MARK + b"# mine\n" + OLD, MARK + b"# mine\n", id="another comment between"),
        pytest.param(b"# mine\n" + OLD, b"# mine\n", id="another comment above"),
        pytest.param(MARK + b"0 1 * * * x\n", MARK + b"0 1 * * * x\n", id="the comment above another line"),
        pytest.param(MARK + b"#" + OLD, MARK + b"#" + OLD, id="a line switched off by hand"),
        pytest.param(MARK, MARK, id="the comment alone"),
        pytest.param(b"  #nanumpay-backup \r\n" + OLD.replace(b"\n", b"\r\n") + b"A=1\r\n", b"A=1\r\n", id="CRLF"),
        pytest.param(b"0 1 * * * x\n" + OLD.rstrip(), b"0 1 * * * x\n", id="no newline at its end"),
        pytest.param(OLD + b"0 1 * * * x", b"0 1 * * * x", id="no newline at the other's end"),
        pytest.param(
            b"\xff\x00\x0b\x0c\n" + OLD + b"\xea\xb0\x80\r\r\n", b"\xff\x00\x0b\x0c\n\xea\xb0\x80\r\r\n", id="bytes"
        ),
        pytest.param(b"", b"", id="empty"),
    ],
)
def test_taken_out(before: bytes, after: bytes) -> None:
    """The program's lines and the comment right above them go; of all else every byte stays."""
    found = without_old_program(before)
    assert found.kept == after
    assert bool(found.taken) == (before != after)


def test_what_is_taken_and_told_is_named() -> None:
    """The caller can say which lines went and which have to be looked at, in the crontab's order."""
    both = f"0 2 * * * {PROGRAM} && /usr/local/bin/copy".encode()
    found = without_old_program(both + b"\r\n" + MARK + OLD + b"A=1\n")
    assert found.taken == (MARK.rstrip(), OLD.rstrip())
    assert found.doubtful == (both,)
    assert found.kept == both + b"\r\nA=1\n"


OTHERS = st.one_of(
    st.sampled_from([line.encode() for line in (*LEFT, *TOLD)]),
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")).filter(lambda data: b"nanumpay" not in data),
    st.from_regex(rb"\A[*0-9]{1,2} \* \* \* \* /usr/bin/[a-z-]{1,12}( [a-z/]{1,8}){0,2}\Z"),
)
LINES = st.lists(
    st.one_of(
        st.tuples(st.just(False), OTHERS),
        st.tuples(st.just(True), st.sampled_from([line.encode() for line in TAKEN])),
    ),
    max_size=12,
)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@given(LINES, ENDS, st.booleans())
def test_other_lines_keep_every_byte_and_their_order(lines: list[tuple[bool, bytes]], end: bytes, cut: bool) -> None:
    """Whatever stands between the program's lines is there afterwards as it was, with its own line ends."""
    crontab = b"".join(line + end for _, line in lines)
    wanted = b"".join(line + end for old, line in lines if not old)
    if cut and lines:
        crontab = crontab.removesuffix(end)
        wanted = wanted if lines[-1][0] else wanted.removesuffix(end)
    found = without_old_program(crontab)
    assert found.kept == wanted
    assert len(found.taken) == sum(old for old, _ in lines)


@given(st.one_of(st.binary(max_size=200), LINES.map(lambda lines: MARK.join(line + b"\n" for _, line in lines))))
def test_what_is_left_is_made_of_lines_that_were_there_and_a_second_time_changes_nothing(crontab: bytes) -> None:
    """Any bytes can be judged; lines only vanish as a whole, and nothing remains to be taken."""
    found = without_old_program(crontab)
    rest = iter(crontab.split(b"\n"))
    assert all(line in rest for line in found.kept.split(b"\n")[:-1])
    again = without_old_program(found.kept)
    assert again.kept == found.kept
    assert again.taken == ()


@given(st.text(alphabet="'\"\\;&|<>() $`%#ab=-/", max_size=60))
def test_any_command_is_judged(text: str) -> None:
    """No quoting makes the judging fail, and what merely stands beside the program's name never makes it run."""
    assert judge(f"0 2 * * * {text}".encode()) is Verdict.LEAVE
    assert judge(f"0 2 * * * unknown {text} {PROGRAM}".encode()) in {Verdict.TELL, Verdict.LEAVE}
