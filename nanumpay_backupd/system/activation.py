"""Sockets that systemd listens on and hands over at the start (sd_listen_fds(3)). What is served there is not here.

systemd passes them as the descriptors from 3 on. LISTEN_PID says for which process they are meant, LISTEN_FDS how many
there are, LISTEN_FDNAMES what the socket units call them.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

from nanumpay_backupd.errors import ConfigError

__all__ = ["FIRST_FD", "VARIABLES", "passed_socket"]

FIRST_FD: Final = 3
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What must not be handed on to children: the descriptors are not."""


def passed_socket(environ: MutableMapping[str, str] = os.environ) -> int | None:
    """Return the descriptor that systemd passed to this very process, None when there is none.

    It is closed in children, and the variables are taken out of ``environ``. Raises ConfigError when there are several:
    nobody could say which of them is the control socket, and a second one (on a TCP port, say) would be a way in.
    """
    mine = environ.get("LISTEN_PID") == str(os.getpid())
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES", "")
    for name in VARIABLES:
        environ.pop(name, None)
    if not mine or not count.isdecimal() or int(count) == 0:
        return None
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)  # noqa: FBT003 - has no keywords
    if int(count) > 1:
        named = names.replace(":", ", ") or "without names"
        raise ConfigError(
            f"systemd passed {count} sockets ({named}), but there is one control socket",
            hint="let nanumpay-backupd.socket have one ListenStream=, and no other unit name it in Service=; "
            "see: systemctl cat nanumpay-backupd.socket",
            code="control-socket",
        )
    return FIRST_FD
