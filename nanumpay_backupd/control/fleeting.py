"""The method that changes who holds the fleet's lease. How the fleet stands is told by the status."""

from __future__ import annotations

from typing import Any

from nanumpay_backupd.control.desk import Desk
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.fleet.lease import Role

__all__ = ["Fleeting"]


class Fleeting(Desk):
    """The handler about more than one host."""

    async def change_fleet(self, call: Call) -> dict[str, Any]:
        """Answer ChangeFleet."""
        self._admin(call, "change who holds the fleet's lease")
        keeper, action, host = self._supervisor.fleet, call.params["action"], call.params.get("host") or ""
        if keeper is None:
            raise RefusedError("this host is in no fleet", hint="see docs/fleet.md")
        here = keeper.place.host
        if action == "forget":
            if not await keeper.forget(host):
                raise NotFoundError(f"there is no host {host!r} in the fleet", hint="see: backupctl fleet")
            return {"text": f"host {host} is forgotten; should it come back, it is there again"}
        if action == "take":
            if keeper.role is not Role.STANDBY:
                return {"text": f"host {here} holds the lease already"}
            await keeper.want()
            return {"text": f"host {keeper.holder} hands over to {here} when its runs have ended"}
        if action != "hand-over":
            raise RefusedError(f"there is no action {action!r}", hint="take, hand-over or forget")
        if keeper.role is Role.STANDBY:
            raise RefusedError(f"host {here} does not hold the lease", hint="see who does: backupctl fleet")
        keeper.hand_over(host)
        return {"text": f"host {here} hands over to {host or 'any other'} when its runs have ended"}
