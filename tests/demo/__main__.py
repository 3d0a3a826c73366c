"""``make demo``: the command line, the order of the steps, and an orderly end whatever happens."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.servers.environment import clean_environment

# Before anything is imported that reads it.
clean_environment()

from nanumpay_backupd.errors import BackupdError  # noqa: E402
from tests.demo import more, proof, story, undo  # noqa: E402
from tests.demo.house import KEPT, House, stop_kept  # noqa: E402
from tests.demo.play import change_settings, how_to_play  # noqa: E402
from tests.demo.scene import Scene  # noqa: E402
from tests.demo.site import LOGS, Answer, Site  # noqa: E402
from tests.demo.teller import DemoError, Teller  # noqa: E402
from tests.servers.tools import PROJECT  # noqa: E402

__all__ = ["main"]

_EXIT_INTERRUPTED: Final = 130
_EXIT_BROKEN_PIPE: Final = 141
_LAST_LINES: Final = 5
Step = Callable[[Scene], None]
_STEPS: Final[tuple[Step, ...]] = (
    story.start_servers,
    story.load_data,
    story.start_daemon,
    story.save_settings,
    story.await_schedule,
    proof.look,
    proof.restore_by_hand,
    undo.undo_an_accident,
    proof.retain,
    more.protect_more,
)


def main(argv: list[str] | None = None) -> int:
    """Run, stop or play with the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description="A real backup, from saved settings to restored data."
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, to play with")
    parser.add_argument("--stop", action="store_true", help="stop the demo that was left running")
    parser.add_argument(
        "--set", nargs="+", metavar="FIELD=VALUE", help="save changed backup settings in the demo that was left running"
    )
    parser.add_argument("--until", type=int, metavar="STEP", help="leave out the steps after this one")
    parser.add_argument("--folder", type=Path, default=KEPT, help="where a demo that is kept lives (default: .demo)")
    options = parser.parse_args(argv)
    teller = Teller(sys.stdout)
    try:
        if options.stop:
            teller.tick("stopped; nothing is left of it" if stop_kept(options.folder) else "no demo was running")
            return 0
        if options.set:
            change_settings(teller, options.folder, options.set)
            return 0
        return _demo(teller, options.folder.resolve() if options.keep else None, _STEPS[: options.until])
    except (DemoError, BackupdError) as error:
        teller.cross(str(error), error.hint)
        return 1
    except BrokenPipeError:
        # Whoever read this left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _demo(teller: Teller, kept: Path | None, steps: Sequence[Step]) -> int:
    """Run the demo with its servers around it; with ``kept`` they stay. Returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    os.chdir(PROJECT)
    house = House(kept)
    code = _EXIT_INTERRUPTED
    try:
        with Site(house.folder, house.socket.parent, {**os.environ, "PYTHONPATH": str(PROJECT)}) as site:
            house.note(pid=site.pid)
            code = _tell(Scene(teller, house, site), steps, keep=bool(kept))
            # From here on things are put away, which a second Ctrl-C must not cut short.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            if kept and code == 0:
                site.keep()
                return code
            answer = site.stop()
        code = _check_end(teller, house, code, answer)
        return code
    finally:
        # Only a failure leaves its logs behind, and only a success that is to be played with the rest.
        if code == _EXIT_INTERRUPTED or (code == 0 and not kept):
            house.remove()


def _tell(scene: Scene, steps: Sequence[Step], *, keep: bool) -> int:
    """Go through the steps; returns the exit code. What is expected to go wrong is told in a sentence."""
    teller, house = scene.tell, scene.house
    try:
        teller.title("nanumpay-backupd: one real backup, from saved settings to restored data")
        teller.note(
            f"Everything happens in {house.folder}; the servers listen on 127.0.0.1 only. It takes half a minute."
        )
        for step in steps:
            step(scene)
        scene.summary.append(("the whole demo", f"{teller.seconds:.1f} s"))
        teller.heading("Summary")
        teller.table(scene.summary)
        if keep:
            how_to_play(scene)
        return 0
    except KeyboardInterrupt:
        teller.end_line()
        teller.cross("interrupted")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except (DemoError, BackupdError) as error:
        teller.cross(str(error), error.hint)
    except Exception as error:  # a defect of the demo; everything must be stopped all the same
        (house.folder / "demo-error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        teller.cross(f"unexpected {type(error).__name__}: {error}", f"see {house.folder}/demo-error.txt")
    finally:
        scene.close()
    return 1


def _check_end(teller: Teller, house: House, code: int, answer: Answer) -> int:
    """Say that everything was stopped, after looking for what was not; returns the exit code."""
    daemon = answer.get("codes", {}).get("daemon")
    left = _processes_of(house.folder)
    if left:
        teller.cross("still running: " + "; ".join(left))
        code = code or 1
    elif daemon not in (0, None, -signal.SIGTERM):  # by the signal where it had not got as far as catching it
        teller.cross(f"the daemon ended with exit code {daemon}")
        code = code or 1
    else:
        teller.tick("everything was stopped, nothing is left running", answer.get("seconds"))
    if code == 1:
        logs = [name for name in (*LOGS, "demo-error.txt") if (house.folder / name).exists()]
        teller.note(f"The logs are kept in {house.folder}: {', '.join(logs) or 'none yet'}")
        if "daemon.log" in logs:
            teller.note("The end of daemon.log:")
            text = (house.folder / "daemon.log").read_text(encoding="utf-8", errors="replace")
            teller.output(text.splitlines()[-_LAST_LINES:])
    return code


def _processes_of(folder: Path) -> list[str]:
    """Return the command lines of living processes that have to do with a demo's folder."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            place = os.fsencode((process / "cwd").readlink())
            if command and os.fsencode(folder) in b"\0".join((command, place, (process / "environ").read_bytes())):
                words = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
                found.append(f"{process.name} {words}")
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
