"""Completion as bash, zsh and fish do it: the real shells are asked what they offer, and a control socket answers."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.cli.complete import WORDS
from nanumpay_backupd.cli.completion import FOLDER, file_name
from nanumpay_backupd.cli.options import SHELLS
from tests.pages.programs import PROGRAMS
from tests.servers.canned_backupd import BACKUP, LIVE, RUN, SWAP, CannedDaemon, canned_daemon, job
from tests.servers.tools import find_tool, tools_path

_PATIENCE: Final = 30.0
OLDER: Final = [f"nanumpay-backup-2026-11-{day}T17-00-00" for day in (19, 18, 17)]
BACKUPS: Final = [BACKUP, *OLDER]
RUNS: Final = [LIVE, RUN, "20261119T170000Z-11c0"]

# What is typed, and all that is offered. Nothing behind a space means: the next word.
OFFERED: Final[Sequence[tuple[str, Sequence[str]]]] = (
    ("backupctl ", [command.name for command in PROGRAMS["backupctl"].commands]),
    ("backupctl re", ["restore", "reload", "rebuild", "report"]),
    ("backupctl --json --color never tim", ["timeline"]),
    ("backupctl --color ", ["auto", "always", "never"]),
    ("backupctl run ", ["nanumpay"]),
    ("backupctl run --kind ", ["full", "incremental", "differential"]),
    ("backupctl run --kind=i", ["incremental"]),
    ("backupctl run nanumpay --collection ", ["admins", "users", "weeklypaymentplans"]),
    ("backupctl run --no-wait --format j", ["json"]),
    ("backupctl show ", ["latest", *BACKUPS, *RUNS]),
    ("backupctl show 202611", RUNS),
    ("backupctl logs -n 20 ", RUNS),
    ("backupctl restore ", ["latest", *BACKUPS]),
    ("backupctl restore nanumpay-backup-2026-11-19T17-00-00 --from ", ["local", "app", "nas"]),
    ("backupctl restore latest --at 10:30:59 --from=n", ["nas"]),
    ("backupctl restore latest --at ", ["latest"]),
    ("backupctl verify --level ", ["checksum", "structure", "restore"]),
    ("backupctl verify --job ", ["nanumpay"]),
    ("backupctl drill --backup nanumpay-backup-2026-11-19", [OLDER[0]]),
    ("backupctl swaps ", ["undo", "redo", "drop"]),
    ("backupctl swaps undo ", [SWAP]),
    ("backupctl delete nanumpay-backup-2026-11-19T17-00-00 --fo", ["--force"]),
    ("backupctl test ", ["app", "nas"]),
    ("backupctl notify ", ["test"]),
    ("backupctl notify test ", ["ops-mail", "team", "database", "heartbeat/nanumpay"]),
    ("backupctl report --language ", ["en", "ko"]),
    ("backupctl cancel ", ["running-run"]),
    ("backupctl completion ", list(SHELLS)),
    ("backupctl completion fish nanu", ["nanumpay-backupd"]),
    ("nanumpay-backupd ", [command.name for command in PROGRAMS["nanumpay-backupd"].commands]),
    ("nanumpay-backupd --config o", ["own.toml"]),
    ("nanumpay-backupd run-once ", ["nanumpay"]),
    ("nanumpay-backupd run-once nanumpay --kind d", ["differential"]),
    ("nanumpay-backupd restore --from ", ["nas", "conf"]),
    ("nanumpay-backupd restore --work c", ["conf"]),
)
# All options behind a dash, of every command and of none.
DASHES: Final = [
    (f"{program.name} {command.name} -".replace("  ", " "), {flag for item in command.options for flag in item.flags})
    for program in PROGRAMS.values()
    for command in program.all
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CannedDaemon, Path]]:
    """Serve made-up answers, of which one is a run that is going on."""
    path = tmp_path_factory.mktemp("socket") / "control.sock"
    with canned_daemon(path) as server:
        server.replies["ListJobs"] = {"jobs": [job(running="running-run")]}
        yield server, path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home without settings of its own, and in it a folder and a host file to find."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "conf").mkdir()
    (folder / "own.toml").touch()
    return folder


def environment(home: Path, socket: Path) -> dict[str, str]:
    """Make an environment in which nobody's own settings change what a shell offers."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("NANUMPAY_TEST")}
    paths = {"HOME": str(home), "ZDOTDIR": str(home), "PATH": tools_path()}
    return kept | paths | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "NANUMPAY_BACKUPD_SOCKET": str(socket)}


class Typist:
    """A shell in a pseudo-terminal. Each line that is typed ends in keys that write to ``out`` what is offered."""

    def __init__(self, argv: Sequence[str], home: Path, socket: Path, start: str, out: Path) -> None:
        self.out = out
        self.out.touch()
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv,
            env=environment(home, socket),
            cwd=home,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.ends = 0
        self.screen = b""
        os.write(self.master, f"{start}\n".encode())

    def ask(self, text: str, keys: str) -> list[str]:
        """Type text and keys, and return what was written since, up to the line END."""
        before = self.out.stat().st_size
        os.write(self.master, f"{text}{keys}".encode())
        deadline = time.monotonic() + _PATIENCE
        while not (found := self.out.read_text(encoding="utf-8")[before:]).endswith("END\n"):
            assert time.monotonic() < deadline, f"{text!r} was not answered: {self.screen[-2000:]!r}"
            assert self.process.poll() is None, f"the shell is gone: {self.screen[-2000:]!r}"
            if select.select([self.master], [], [], 0.02)[0]:
                self.screen += os.read(self.master, 65536)
        return found.splitlines()[:-1]

    def close(self) -> None:
        """End the shell."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


_BASH: Final = r"""
PS1='$ '; bind 'set enable-bracketed-paste off'
for file in {files}; do source "$file"; done
__out() {{ printf '%s\nEND\n' "$READLINE_LINE" >> {out}; READLINE_LINE=; READLINE_POINT=0; }}
bind '"\C-xi": insert-completions'; bind -x '"\C-xo": __out'
"""
_ZSH: Final = r"""
unsetopt beep; LISTMAX=10000; PS1='$ '
fpath=({folder} $fpath)
autoload -Uz compinit; compinit -u -D
zstyle ':completion:*' use-cache no
compadd() {{
  local -a __found; local -i __end=${{@[(i)(-|--)]}}
  if [[ -z ${{(M)@[1,__end]:#-[a-zA-Z]#[OAD]}} ]]; then
    builtin compadd -O __found "$@"
    (( $#__found )) && print -rl -- "${{__found[@]}}" >> {out}
  fi
  builtin compadd "$@"
}}
__out() {{ print END >> {out}; BUFFER=; zle reset-prompt }}
zle -N __out; bindkey '^Xo' __out
zle -C __list list-choices _main_complete; bindkey '^Xi' __list
setopt extendedglob
"""


def by_bash(home: Path, socket: Path, lines: Sequence[str], work: Path) -> dict[str, list[str]]:
    """Ask bash: readline inserts all that is possible, and the line is written out."""
    files = " ".join(shlex.quote(str(FOLDER / file_name("bash", name))) for name in PROGRAMS)
    out = work / "out"
    start = work / "start.bash"
    start.write_text(_BASH.format(files=files, out=shlex.quote(str(out))), encoding="ascii")
    shell = Typist([str(find_tool("bash")), "--norc", "--noprofile", "-i"], home, socket, f"source {start}", out)
    try:
        answers = {line: shell.ask(line, "\x18i\x18o") for line in lines}
    finally:
        shell.close()
    return {line: _inserted(line, answer[0]) for line, answer in answers.items()}


def _inserted(typed: str, line: str) -> list[str]:
    """Return the words that were put in place of the last one."""
    if line == typed:
        return []
    start = typed.rpartition(" ")[0] + " "
    if "=" in typed.rpartition(" ")[2]:
        start = typed.rpartition("=")[0] + "="
    assert line.startswith(start)
    return line.removeprefix(start).split()


def by_zsh(home: Path, socket: Path, lines: Sequence[str], work: Path) -> dict[str, list[str]]:
    """Ask zsh: what its completion adds is written out."""
    out = work / "out"
    start = work / "start.zsh"
    start.write_text(_ZSH.format(folder=FOLDER, out=shlex.quote(str(out))), encoding="ascii")
    shell = Typist([str(find_tool("zsh")), "-f", "-i"], home, socket, f"source {start}", out)
    try:
        return {line: shell.ask(line, "\x18i\x18o") for line in lines}
    finally:
        shell.close()


def by_fish(home: Path, socket: Path, lines: Sequence[str], work: Path) -> dict[str, list[str]]:
    """Ask fish, which tells what it would offer."""
    script = "".join(f"source {shlex.quote(str(FOLDER / file_name('fish', name)))}\n" for name in PROGRAMS)
    script += "".join(f"complete -C {shlex.quote(line)}\necho END\n" for line in lines)
    (work / "ask.fish").write_text(script, encoding="ascii")
    done = subprocess.run(
        [find_tool("fish"), "--no-config", work / "ask.fish"],
        env=environment(home, socket),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers = done.stdout.split("END\n")[:-1]
    assert len(answers) == len(lines)
    return {
        line: [word.partition("\t")[0] for word in answer.splitlines()]
        for line, answer in zip(lines, answers, strict=True)
    }


ASK: Final[dict[str, Callable[[Path, Path, Sequence[str], Path], dict[str, list[str]]]]] = {
    "bash": by_bash,
    "zsh": by_zsh,
    "fish": by_fish,
}
shells = pytest.mark.parametrize("shell", SHELLS)


@shells
def test_what_is_offered(shell: str, daemon: tuple[CannedDaemon, Path], home: Path, tmp_path: Path) -> None:
    """At each place exactly the words that may stand there: commands, choices, files, and what the daemon knows."""
    _, socket = daemon
    offered = ASK[shell](home, socket, [line for line, _ in OFFERED], tmp_path)
    wrong = {
        line: (sorted(_words(line, offered[line])), sorted(wanted))
        for line, wanted in OFFERED
        if sorted(_words(line, offered[line])) != sorted(wanted)
    }
    assert wrong == {}
    assert list(dict.fromkeys(offered["backupctl restore "])) == ["latest", *BACKUPS], "the newest is not the first"


def _words(line: str, offered: list[str]) -> set[str]:
    """Return the words alone: fish offers --from=nas whole; a folder's slash comes with the Tab key."""
    last = line.rpartition(" ")[2]
    start = last.partition("=")[0] + "=" if "=" in last else ""
    return {word.removeprefix(start).rstrip("/") for word in offered}


@shells
def test_every_option_is_offered_and_no_other(
    shell: str, daemon: tuple[CannedDaemon, Path], home: Path, tmp_path: Path
) -> None:
    """Behind a dash all options of the command; bash leaves out short ones that have a long form."""
    _, socket = daemon
    offered = ASK[shell](home, socket, [line for line, _ in DASHES], tmp_path)
    found = {line: {word.rstrip("=") for word in words} for line, words in offered.items()}
    wanted = {line: flags - {"-h"} if shell == "bash" else flags for line, flags in DASHES}
    assert found == wanted


@shells
def test_without_a_daemon(shell: str, home: Path, tmp_path: Path) -> None:
    """What the daemon would know is not offered; all else is, and nothing is complained about."""
    lines = ["backupctl run ", "backupctl show ", "backupctl run --kind ", "backupctl sta"]
    offered = ASK[shell](home, tmp_path / "nothing.sock", lines, tmp_path)
    without = {line: [word for word in words if not word.startswith("-")] for line, words in offered.items()}
    assert [sorted(without[line]) for line in lines] == [
        [],
        ["latest"],
        ["differential", "full", "incremental"],
        ["status"],
    ]


@shells
def test_the_socket_of_the_line_is_asked(
    shell: str, daemon: tuple[CannedDaemon, Path], home: Path, tmp_path: Path
) -> None:
    """--socket on the line counts for completion too, in both forms."""
    _, socket = daemon
    lines = [f"backupctl --socket {socket} run ", f"backupctl run --socket={socket} "]
    offered = ASK[shell](home, tmp_path / "nothing.sock", lines, tmp_path)
    assert offered == {line: ["nanumpay"] for line in lines}


class TestWords:
    """`backupctl complete`, which the shells call."""

    def complete(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call it as the shells do."""
        command = [sys.executable, "-m", "nanumpay_backupd.cli", "complete", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)

    @pytest.mark.parametrize("kind", sorted(WORDS.keys() - {"groups", "made"}))
    def test_every_kind_has_words_and_remarks(self, kind: str, daemon: tuple[CannedDaemon, Path]) -> None:
        """A word a line, newest first where there is an order, and something about it behind a tab."""
        done = self.complete("--socket", str(daemon[1]), kind)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines
        assert all(len(line.split("\t")) == 2 and all(line.split("\t")) for line in lines)

    def test_groups(self, tmp_path: Path) -> None:
        """Their names, and what their runs made; where there are none, nothing."""
        group = {"name": "shop", "jobs": ["nanumpay", "files"], "enabled": True, "schedule": [], "timezone": "UTC"}
        made = {"id": "shop-group-2026-11-21T02-00-00", "group": "shop", "run": "r", "outcome": "succeeded"}
        made |= {"started": "2026-11-21T02:00:00Z", "ended": "2026-11-21T02:00:09Z", "state": "whole"}
        path = tmp_path / "control.sock"
        with canned_daemon(path) as server:
            assert self.complete("--socket", str(path), "groups", "made").stdout == ""
            server.replies["ListJobs"] = {"jobs": [job()], "groups": [{**group, "notes": []}]}
            server.replies["ListBackups"] = {
                "backups": [],
                "hidden_slices": 0,
                "groups": [{**made, "members": [], "sent": []}],
            }
            done = self.complete("--socket", str(path), "groups", "made")
        assert done.stdout.splitlines() == [
            "shop\tgroup of nanumpay, files",
            "shop-group-2026-11-21T02-00-00\tgroup shop, whole",
        ]

    def test_several_kinds(self, daemon: tuple[CannedDaemon, Path]) -> None:
        """Are answered one after the other."""
        done = self.complete("--socket", str(daemon[1]), "backups", "runs")
        assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [*BACKUPS, *RUNS]

    @pytest.mark.parametrize("words", [["backups"], ["nonsense"], [], ["--socket"]])
    def test_silence(self, words: list[str], tmp_path: Path) -> None:
        """Without a daemon, and for words that make no sense: nothing on either stream, and 0."""
        done = self.complete("--socket", str(tmp_path / "nothing.sock"), *words)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)

    def test_a_fault_of_the_daemon_is_silence(self, daemon: tuple[CannedDaemon, Path], tmp_path: Path) -> None:
        """So is an answer in which something is missing."""
        path = tmp_path / "odd.sock"
        with canned_daemon(path) as server:
            server.replies["ListSwaps"] = {"swaps": [], "problems": []}
            done = self.complete("--socket", str(path), "swaps", "jobs")
        assert (done.stdout.partition("\t")[0], done.stderr, done.returncode) == ("nanumpay", "", 0)


class TestCommand:
    """`backupctl completion`, for those who installed with pip."""

    @shells
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_prints_the_script(self, shell: str, program: str) -> None:
        """Without a daemon, exactly the file."""
        command = [sys.executable, "-m", "nanumpay_backupd.cli", "completion", shell, program]
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=True)
        assert done.stdout == (FOLDER / file_name(shell, program)).read_bytes()

    def test_the_program_may_be_left_out(self) -> None:
        """It is backupctl's then."""
        command = [sys.executable, "-m", "nanumpay_backupd.cli", "completion", "bash"]
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=True)
        assert done.stdout == (FOLDER / "backupctl.bash").read_bytes()

    def test_every_script_can_be_printed(self) -> None:
        """The folder has no other files."""
        names = {file_name(shell, program) for shell in SHELLS for program in PROGRAMS}
        assert {path.name for path in FOLDER.iterdir()} == names
