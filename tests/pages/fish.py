"""Writes the completion for fish: one line for each word that can be offered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.pages.programs import Item, Program

__all__ = ["completion"]

_TEMPLATE: Final = """\
# fish completion for {name}. Written by `make man` from the program's own parser.

# Prints the command (or a dash) and which of its arguments is being typed, counted from 1.
function __{id}_place
    set -l tokens (commandline -opc)
    set -l command -
    set -l at 1
    set -l value no
    for token in $tokens[2..-1]
        if test $value = yes
            set value no
            continue
        end
        switch $token
            case {valued}
                set value yes
            case '-*'
            case '*'
                if test $command = -
                    set command $token
                else
                    set at (math $at + 1)
                end
        end
    end
    echo $command $at
end

# Is the command one of these?
function __{id}_in
    set -l place (__{id}_place | string split ' ')
    contains -- $place[1] $argv
end

# Is it this argument of this command?
function __{id}_at
    test (__{id}_place) = "$argv"
end

# Prints the words that the daemon knows.
function __{id}_words
    set -l tokens (commandline -opc)
    set -l socket
    for i in (seq (count $tokens))
        if string match -q -- '--socket=*' $tokens[$i]
            set socket --socket (string replace -- --socket= '' $tokens[$i])
        else if test $tokens[$i] = --socket; and set -q tokens[(math $i + 1)]
            set socket --socket $tokens[(math $i + 1)]
        end
    end
    {client} complete $socket $argv 2>/dev/null
end

complete -c {name} -f
{lines}
"""


def completion(program: Program) -> str:
    """Return the script."""
    valued = {flag for command in program.all for item in command.options if item.metavar for flag in item.flags}
    flags = {flag for command in program.all for item in command.options if not item.metavar for flag in item.flags}
    assert not valued & flags, f"{valued & flags} take a value in one command and none in another"
    return _TEMPLATE.format(
        name=program.name,
        id=program.identifier,
        valued=" ".join(sorted(valued)),
        client="$tokens[1]" if program.name == "backupctl" else "backupctl",
        lines="\n".join(_lines(program)),
    )


def _lines(program: Program) -> Iterable[str]:
    start = f"complete -c {program.name}"
    for item in program.common:
        yield f"{start}{_option(item, program)}"
    for item in program.top.options:
        if item not in program.common:
            yield f"{start} -n '__{program.identifier}_in -'{_option(item, program)}"
    for command in program.commands:
        yield f"\n{start} -n '__{program.identifier}_in -' -a {command.name} -d {_quoted(command.help)}"
        for at, item in enumerate(command.arguments, start=1):
            if item.words:
                place = f"__{program.identifier}_at {command.name} {at}"
                yield f"{start} -n '{place}'{_words(item, program)}{'' if item.dynamic else _about(item)}"
        for item in command.options:
            if item not in program.common:
                yield f"{start} -n '__{program.identifier}_in {command.name}'{_option(item, program)}"


def _option(item: Item, program: Program) -> str:
    names = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in item.flags)
    value = ""
    if item.metavar:
        value = " -r -F" if item.words == ("@files",) else f" -x{_words(item, program)}"
    return f"{names}{value}{_about(item)}"


def _words(item: Item, program: Program) -> str:
    kinds = [word[1:] for word in item.words if word.startswith("@") and word != "@dirs"]
    plain = [word for word in item.words if not word.startswith("@")]
    given = [*plain]
    given += [f"(__{program.identifier}_words {' '.join(kinds)})"] if kinds else []
    given += ["(__fish_complete_directories)"] if "@dirs" in item.words else []
    # In the order that was told: the newest first.
    return f"{' -k' if kinds else ''} -a '{' '.join(given)}'" if given else ""


def _about(item: Item) -> str:
    return f" -d {_quoted(item.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
