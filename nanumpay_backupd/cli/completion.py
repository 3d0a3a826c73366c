"""The command completion: prints the script of a shell. The scripts are in completions/, their words in `complete`."""

from __future__ import annotations

from pathlib import Path

from nanumpay_backupd.errors import EXIT_OK, NotFoundError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from nanumpay_backupd.cli.context import Context

__all__ = ["FOLDER", "completion", "file_name"]

FOLDER = Path(__file__).parent / "completions"


def file_name(shell: str, program: str) -> str:
    """Name the script of a shell for a program: the one under which the shells look for it."""
    return f"_{program}" if shell == "zsh" else f"{program}.{shell}"


def completion(context: Context) -> int:
    """Print the completion script of a shell; no daemon is asked."""
    path = FOLDER / file_name(context.args.shell, context.args.program)
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read: {error.strerror}", hint="this installation is not whole: install it again"
        ) from None
    context.screen.stream.write(text)
    return EXIT_OK
