"""Writes the completion for bash: a table of words and a function that finds the place on the line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from tests.pages.programs import Command, Item, Program

__all__ = ["completion"]

_TEMPLATE: Final = """\
# bash completion for {name}                                -*- shell-script -*-
# Written by `make man` from the program's own parser. Works without the package bash-completion too.

# What an option or argument of a command takes: words; @KIND, which the daemon knows; @files, @dirs. False: no value.
__{id}_takes() {{
    case $1 in
{takes}
        *) return 1 ;;
    esac
}}

__{id}_options() {{
    case $1 in
{options}
    esac
}}

_{id}() {{
    local IFS=$' \\t\\n' REPLY='' cur=${{COMP_WORDS[COMP_CWORD]}}
    local word='' option='' command='' socket='' glued='' prefix='' kinds='' found
    local -i i at=1
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        # bash splits words at colons and equal signs.
        if [[ $word == : ]]; then
            glued=1
        elif [[ $glued ]]; then
            glued=''
        elif [[ $option && $word == '=' ]]; then
            continue
        elif [[ $option ]]; then
            [[ $option == --socket ]] && socket=$word
            option=''
        else
            case $word in
                --socket=*) socket=${{word#*=}} ;;
                -*=*) ;;
                -?*) __{id}_takes "$command $word" && option=$word ;;
                *) if [[ $command ]]; then at+=1; else command=$word; fi ;;
            esac
        fi
    done
    [[ $glued || $cur == : ]] && return
    [[ $option && $cur == '=' ]] && cur=''

    if [[ $option ]]; then
        __{id}_takes "$command $option"
    elif [[ $cur == --*=* ]]; then
        prefix=${{cur%%=*}}=
        __{id}_takes "$command ${{cur%%=*}}" || return
        cur=${{cur#*=}}
    elif [[ $cur == -* ]]; then
        __{id}_options "$command"
    elif [[ ! $command ]]; then
        REPLY={commands}
    else
        __{id}_takes "$command $at" || __{id}_options "$command"
    fi

    for word in $REPLY; do
        case $word in
            @files | @dirs)
                compopt -o filenames 2>/dev/null
                [[ $word == @dirs ]] && option=-d || option=-f
                while IFS= read -r found; do
                    COMPREPLY+=("$prefix$found")
                done < <(compgen $option -- "$cur")
                ;;
            @*) kinds+=" ${{word#@}}" ;;
            "$cur"*) COMPREPLY+=("$prefix$word") ;;
        esac
    done
    [[ $kinds ]] || return
    compopt -o nosort 2>/dev/null
    while IFS=$'\\t' read -r word _; do
        if [[ $word == "$cur"* ]]; then
            printf -v word %q "$word"
            COMPREPLY+=("$prefix$word")
        fi
    done < <({client} complete ${{socket:+--socket "$socket"}} $kinds 2>/dev/null)
}}

complete -F _{id} {name}
"""


def completion(program: Program) -> str:
    """Return the script."""
    return _TEMPLATE.format(
        name=program.name,
        id=program.identifier,
        takes="\n".join(_takes(program)),
        options="\n".join(_options(command) for command in program.all),
        commands=shlex.quote(" ".join(command.name for command in program.commands)),
        # As it was typed, so that the one of another environment is asked.
        client='"${COMP_WORDS[0]}"' if program.name == "backupctl" else "backupctl",
    )


def _takes(program: Program) -> Iterable[str]:
    for item in program.common:
        if item.metavar:
            yield _case(" | ".join(f"*' {flag}'" for flag in item.flags), item)
    for command in program.commands:
        for item in command.options:
            if item.metavar and item not in program.common:
                yield _case(" | ".join(shlex.quote(f"{command.name} {flag}") for flag in item.flags), item)
        for at, item in enumerate(command.arguments, start=1):
            yield _case(f"'{command.name} {at}'", item)


def _case(pattern: str, item: Item) -> str:
    return f"        {pattern}) REPLY={shlex.quote(' '.join(item.words))} ;;"


def _options(command: Command) -> str:
    # The short form of what has a long one is not offered: it is known, or not looked for.
    return (
        f"        {command.name or repr('')}) REPLY={shlex.quote(' '.join(item.name for item in command.options))} ;;"
    )
