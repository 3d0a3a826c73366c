"""The command line of `backupctl`: what it accepts, what it says about mistakes, its help."""

from __future__ import annotations

import re
import shlex

import pytest

from nanumpay_backupd.cli.options import COMMANDS, DEFAULT_SOCKET, parse
from nanumpay_backupd.errors import UsageError


@pytest.fixture(autouse=True)
def no_socket_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a socket that the environment names out of these tests."""
    monkeypatch.delenv("NANUMPAY_BACKUPD_SOCKET", raising=False)


@pytest.mark.parametrize("words", [["--socket", "/s", "list", "--json"], ["--json", "list", "--socket=/s"]])
def test_common_options_stand_before_or_after_the_command(words: list[str]) -> None:
    """The place of a common option makes no difference."""
    args = parse(words)
    assert (args.command, args.socket, args.json, args.color) == ("list", "/s", True, "auto")


def test_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the environment, which wins over the usual place."""
    assert parse(["jobs"]).socket == DEFAULT_SOCKET
    monkeypatch.setenv("NANUMPAY_BACKUPD_SOCKET", "/e")
    assert parse(["jobs"]).socket == "/e"
    assert parse(["jobs", "--socket", "/s"]).socket == "/s"


@pytest.mark.parametrize(
    "line,expected",
    [
        ("status --watch", {"watch": True}),
        ("run", {"job": None, "no_wait": False, "force": False}),
        ("run shop --no-wait --force", {"job": "shop", "no_wait": True, "force": True, "kind": None}),
        ("run --collection users", {"collection": "users", "format": None}),
        ("run shop --collection a.b --format json", {"job": "shop", "collection": "a.b", "format": "json"}),
        ("run --kind differential", {"kind": "differential"}),
        ("runs --slices", {"slices": True}),
        ("list shop --slices", {"job": "shop", "slices": True}),
        ("timeline shop", {"job": "shop"}),
        ("verify", {"backup": None, "job": None, "level": None, "source": None, "no_wait": False}),
        ("verify b --level structure --from nas", {"backup": "b", "level": "structure", "source": "nas"}),
        (
            "drill shop --backup b --from nas --no-wait",
            {"job": "shop", "backup": "b", "source": "nas", "no_wait": True},
        ),
        ("restore latest --at 10:30 --job shop --swap", {"at": "10:30", "job": "shop", "swap": True}),
        ("cancel", {"run": None}),
        ("cancel r1", {"run": "r1"}),
        ("runs -n 5", {"job": None, "limit": 5}),
        ("list shop", {"job": "shop", "limit": None}),
        ("show latest", {"id": "latest"}),
        ("delete b --from nas --force --yes", {"backup": "b", "destination": "nas", "force": True, "yes": True}),
        ("prune shop --apply", {"job": "shop", "apply": True, "yes": False}),
        ("prune --at 2027-03-01 --assume-schedule", {"job": None, "at": "2027-03-01", "assume_schedule": True}),
        ("pin b-1 --reason x", {"backup": "b-1", "reason": "x"}),
        ("unpin b-1 --all", {"backup": "b-1", "all": True}),
        ("logs -f -n 20 r1", {"follow": True, "limit": 20, "run": "r1"}),
        ("test nas", {"destination": "nas"}),
        ("swaps", {"what": None, "swap": None, "yes": False}),
        ("swaps drop s --yes", {"what": "drop", "swap": "s", "yes": True}),
    ],
)
def test_arguments(line: str, expected: dict[str, object]) -> None:
    """Every command takes the arguments that the documentation gives it."""
    args = vars(parse(line.split()))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    "line,sentence,hint",
    [
        ("stauts", "unknown command 'stauts'", "did you mean 'status'?"),
        ("backup", "unknown command 'backup'", "all commands: backupctl --help"),
        ("", "a command is missing", "try: backupctl status"),
        ("--verson", "backupctl takes no option '--verson'", "did you mean '--version'?"),
        ("run --frce", "run takes no option '--frce'", "did you mean '--force'?"),
        ("run --jso", "run takes no option '--jso'", "did you mean '--json'?"),
        ("run --jsn=1", "run takes no option '--jsn=1'", "did you mean '--json'?"),
        ("run --format json", "--collection is missing", "backupctl run --collection NAME --format json"),
        ("run --collection users --format csv", "invalid choice: 'csv'", "see: backupctl run --help"),
        ("list -x", "list takes no option '-x'", "see: backupctl list --help"),
        ("status now", "status takes no argument 'now'", "see: backupctl status --help"),
        ("list -n 0", "argument -n: '0' is not a whole number above 0", "see: backupctl list --help"),
        ("list -n -1", "argument -n: '-1' is not", "see: backupctl list --help"),
        ("show", "the following arguments are required: BACKUP|RUN", "see: backupctl show --help"),
        ("run --kind half", "invalid choice: 'half'", "see: backupctl run --help"),
        ("verify --level deep", "invalid choice: 'deep'", "see: backupctl verify --help"),
        ("restore latest --at 5m ago", "restore takes no argument 'ago'", '--at "5 minutes ago"'),
        ("prune --apply --at 2027-03-01", "what will be deleted one day cannot be deleted now", "leave --apply out"),
        ("prune --assume-schedule", "--at is missing", "add for example --at 2027-03-01"),
        ("--color pink status", "invalid choice: 'pink'", "see: backupctl --help"),
    ],
)
def test_mistakes(line: str, sentence: str, hint: str) -> None:
    """A mistake is a sentence about what was typed, with what was probably meant or where to look."""
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert sentence in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every help ends with examples, and each example is a command line that is accepted."""
    with pytest.raises(SystemExit) as left:
        parse([*command.split(), "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    examples = [line.strip() for line in text.partition("examples:")[2].splitlines() if line.startswith("  backupctl ")]
    assert examples
    for example in examples:
        words = shlex.split(re.split(r" \| | > |   ", example)[0])
        assert parse(words[1:]).command == (command or words[1])
