"""Who is on the other end of the control socket, and whether they may restore and delete. No protocol."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["Peer", "is_user", "may_administer", "peer_of"]

_UCRED: Final = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """A caller as the kernel knows it (SO_PEERCRED): at the time of its connect, and not to be forged."""

    uid: int
    gid: int
    pid: int


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid=uid, gid=gid, pid=pid)


def may_administer(peer: Peer, admin_group: str | None) -> bool:
    """Tell whether a caller may restore and delete: root, the service user itself, or a member of ``admin_group``.

    Membership is what the user database says now, primary or supplementary. A group that does not exist has no
    members; an empty or absent ``admin_group`` admits nobody else.
    """
    if peer.uid in (0, os.geteuid()):
        return True
    if not admin_group:
        return False
    try:
        wanted = grp.getgrnam(admin_group).gr_gid
    except KeyError:
        return False
    try:
        user = pwd.getpwuid(peer.uid)
    except KeyError:  # a user without a name (a container's): the kernel's word is all there is
        return peer.gid == wanted
    return wanted in os.getgrouplist(user.pw_name, user.pw_gid)


def is_user(peer: Peer, name: str) -> bool:
    """Tell whether a caller is the user of that name, as the user database has it now."""
    try:
        return bool(name) and pwd.getpwnam(name).pw_uid == peer.uid
    except KeyError:
        return False
