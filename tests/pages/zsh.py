"""Writes the completion for zsh: specifications for `_arguments`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.pages.programs import Command, Item, Program

__all__ = ["completion"]

_TEMPLATE: Final = """\
#compdef {name}
# zsh completion for {name}. Written by `make man` from the program's own parser.

# Offers words: as they are given, and with @KIND those that the daemon knows.
__{id}_words() {{
  local word line previous
  local -a plain kinds socket found
  for word; do
    case $word in
      @files) _files ;;
      @dirs) _files -/ ;;
      @*) kinds+=("${{word#@}}") ;;
      *) plain+=("$word") ;;
    esac
  done
  (( $#plain )) && compadd -V words -- $plain
  (( $#kinds )) || return
  for word in "${{(@Q)typed}}"; do
    [[ $word == --socket=* ]] && socket=(--socket "${{word#*=}}")
    [[ $previous == --socket ]] && socket=(--socket "$word")
    previous=$word
  done
  for line in "${{(@f)$({client} complete $socket $kinds 2>/dev/null)}}"; do
    [[ -n $line ]] && found+=("${{${{line%%$'\\t'*}}//:/\\\\:}}:${{line#*$'\\t'}}")
  done
  (( $#found )) && _describe -V -t "$kinds[1]" "$kinds[1]" found
}}

_{id}() {{
  local curcontext=$curcontext state
  local -a line typed=("${{words[@]}}")
  local -A opt_args
  local -a common=(
{common}
  )
  _arguments -C -S $common{top} '(-): :->command' '(-)*:: :->argument' && return

  case $state in
    command)
      local -a commands=(
{commands}
      )
      _describe -t commands '{name} command' commands
      ;;
    argument)
      curcontext=${{curcontext%:*:*}}:{name}-$words[1]:
      case $words[1] in
{cases}
      esac
      ;;
  esac
}}

if [[ $funcstack[1] == _{id} || $funcstack[1] == _{name} ]]; then
  _{id} "$@"
else
  compdef _{id} {name}
fi
"""


def completion(program: Program) -> str:
    """Return the script."""
    top = [item for item in program.top.options if item not in program.common]
    return _TEMPLATE.format(
        name=program.name,
        id=program.identifier,
        client='"${~${(Q)typed[1]}}"' if program.name == "backupctl" else "backupctl",
        common="\n".join(f"    {spec}" for item in program.common for spec in _option(item, program)),
        top="".join(f" {spec}" for item in top for spec in _option(item, program)),
        commands="\n".join(f"        {_quoted(f'{item.name}:{_plain(item.help)}')}" for item in program.commands),
        cases="\n".join(_case(command, program) for command in program.commands),
    )


def _case(command: Command, program: Program) -> str:
    specs = [spec for item in command.options if item not in program.common for spec in _option(item, program)]
    specs += [_argument(at, item, program) for at, item in enumerate(command.arguments, start=1)]
    lines = "".join(f" \\\n            {spec}" for spec in specs)
    return f"        {command.name})\n          _arguments -S $common{lines}\n          ;;"


def _option(item: Item, program: Program) -> Iterable[str]:
    ends = item.name in ("--help", "--version")
    excluded = "(- *)" if ends else f"({' '.join(item.flags)})" if len(item.flags) > 1 else ""
    value = f":{_plain(item.metavar)}:{_action(item, program)}" if item.metavar else ""
    for flag in item.flags:
        joint = "" if not item.metavar else "=" if flag.startswith("--") else "+"
        yield _quoted(f"{excluded}{flag}{joint}[{_plain(item.help)}]{value}")


def _argument(at: int, item: Item, program: Program) -> str:
    return _quoted(f"{at}{':' if item.required else '::'}{_plain(item.metavar)}:{_action(item, program)}")


def _action(item: Item, program: Program) -> str:
    if item.words == ("@files",):
        return "_files"
    if item.words == ("@dirs",):
        return "_files -/"
    if any(word.startswith("@") for word in item.words):
        # The space keeps _arguments from adding words of its own.
        return f" __{program.identifier}_words {' '.join(item.words)}"
    return f"({' '.join(item.words)})" if item.words else " "


def _plain(text: str) -> str:
    """Keep away what means something in a specification."""
    for sign in "\\[]:":
        text = text.replace(sign, f"\\{sign}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
