"""Plays the program pbm as its documentation and sources have it (2.10 to 2.14): a cluster in a file beside it.

The shapes are those of cmd/pbm of percona/percona-backup-mongodb, with every key that it writes. No real one was asked.
Each question for a backup or a restore takes it one step further.
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def describe(backup: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return what describe-backup says."""
    done = backup["status"] == "done"
    return {
        "name": backup["name"],
        **({"profile": backup["profile"]} if backup.get("profile") else {}),
        "storage_type": "s3",
        "opid": "6841cc7f1f576b79efb26752",
        "type": backup["type"],
        "last_write_ts": backup["last_write"] if done else 0,
        "last_transition_ts": backup["last_write"] + 2,
        "last_write_time": "2026-11-21T02:00:09Z",
        "last_transition_time": "2026-11-21T02:00:11Z",
        "sel_user_and_roles": False,
        "mongodb_version": "7.0.12-7",
        "fcv": "7.0",
        "pbm_version": state["version"],
        "status": backup["status"],
        "size": 3543348019 if done else 0,
        "size_uncompressed": 4294967296 if done else 0,
        "size_h": "3.3 GiB",
        "size_uncompressed_h": "4.0 GiB",
        **({"error": backup["error"]} if backup.get("error") else {}),
        "replsets": [
            {
                "name": name,
                "status": backup.get("members", {}).get(name, backup["status"]),
                "node": f"{name}0:27018",
                "size": (at + 1) * 1000000 if done else 0,
                "size_uncompressed": 0,
                "size_uncompressed_h": "0 B",
                "last_write_ts": backup["last_write"],
                "last_transition_ts": backup["last_write"] + 2,
                "last_write_time": "2026-11-21T02:00:09Z",
                "last_transition_time": "2026-11-21T02:00:11Z",
                **({"configsvr": True} if name == "cfg" else {}),
            }
            for at, name in enumerate(state["sets"])
        ],
    }


def status(state: dict[str, Any]) -> dict[str, Any]:
    """Return what status says."""
    return {
        "backups": {
            "type": state["storage"],
            "path": "s3://https://minio.example.com/pbm" if state["storage"] else "",
            "snapshot": [
                {
                    "name": one["name"],
                    "size": 3543348019,
                    "status": "error" if one.get("stuck") else one["status"],
                    "printStatus": one["status"],
                    **({"error": one["stuck"]} if one.get("stuck") else {}),
                    "restoreTo": one["last_write"],
                    "pbmVersion": state["version"],
                    "type": one["type"],
                    "src": "",
                }
                for one in state["backups"]
            ]
            or None,
            "pitrChunks": {
                "pitrChunks": [
                    {"range": {"start": a, "end": b}, **({"noBaseSnapshot": True} if c else {})}
                    for a, b, c in state["spans"]
                ],
                "size": 677901884,
            },
        },
        "cluster": [
            {
                "rs": name,
                "nodes": [
                    {
                        "host": f"{name}{at}:27018",
                        "agent": "v" + state["version"],
                        "role": "PSS"[at],
                        "prio_pitr": "",
                        "prio_backup": "",
                        "ok": f"{name}{at}" not in state["ill"],
                        **(
                            {"errors": ["lost agent, last heartbeat: 1700000000"]}
                            if f"{name}{at}" in state["ill"]
                            else {}
                        ),
                    }
                    for at in range(3)
                ],
            }
            for name in state["sets"]
        ],
        "pitr": {"conf": state["pitr"], "run": state["pitr"], "nodes": None},
        "running": state["running"],
    }


def advance(one: dict[str, Any], steps: list[str]) -> None:
    """Take a backup or restore one step further."""
    if one["status"] in steps and one["status"] != steps[-1] and not one.get("stuck"):
        one["status"] = steps[steps.index(one["status"]) + 1]


def fail(text: str) -> NoReturn:
    """End as cobra does."""
    sys.stderr.write(f"Error: {text}\n")
    raise SystemExit(1)


def say(answer: object) -> None:
    """Answer as --out=json does."""
    sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")


def find(state: dict[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """Return the backup or restore of that name."""
    return next((one for one in state[kind] if one["name"] == name), None)


def main(words: list[str], state: dict[str, Any]) -> None:
    """Do one command."""
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    names = [word for word in words if not word.startswith("--")]
    command = names.pop(0)
    if command == "version":
        print(state["version"])
        return
    assert options.get("out") == "json", words
    if os.environ.get("PBM_MONGODB_URI") != state["uri"]:
        say(
            {
                "Error": "connect to mongodb: create mongo connection: ping: connection() error occurred during "
                "connection handshake: auth error: sasl conversation error: unable to authenticate"
            }
        )
        raise SystemExit(1)
    fault = state["faults"].get(command)
    if fault and fault.get("times", 99) > 0:
        fault["times"] = fault.get("times", 99) - 1
        fail(fault["text"])
    if command == "status":
        say(status(state))
    elif command == "backup":
        if state["running"]:
            fail("another operation in progress, backup/6841cc7f1f576b79efb26752 [cfg/cfg0:27018]")
        state["clock"] += 60
        name = f"2026-11-21T02:{len(state['made']):02d}:00Z"
        state["made"].append(name)
        state["backups"].append(
            {
                "name": name,
                "status": "running",
                "type": options["type"],
                "last_write": state["clock"],
                "profile": options.get("profile", ""),
                **state["next"],
            }
        )
        state["running"] = {
            "type": "backup",
            "opID": "6841cc7f1f576b79efb26752",
            "name": name,
            "startTS": state["clock"],
            "status": "snapshot backup",
        }
        say({"name": name, "storagePath": "s3://https://minio.example.com/pbm"})
    elif command == "describe-backup":
        one = find(state, "backups", names[0])
        if one is None:
            fail("get backup meta: not found")
        advance(one, state["steps"])
        if one["status"] in ("done", "error", "canceled") and state["running"].get("name") == one["name"]:
            state["running"] = {}
        if one["status"] == "error":
            one.setdefault("error", "")
        say(describe(one, state))
    elif command == "cancel-backup":
        one = find(state, "backups", state["running"].get("name"))
        if one is not None:
            one["status"] = "canceled"
            state["running"] = {}
        say({"msg": "Backup cancellation has started"})
    elif command == "delete-backup":
        assert "yes" in options
        one = find(state, "backups", names[0])
        if one is None:
            fail("get backup metadata: not found")
        done = [other for other in state["backups"] if other["status"] == "done"]
        if state["pitr"] and done == [one]:
            fail("backup cannot be deleted: cannot delete the last PITR base snapshot while PITR is enabled")
        print(f'Snapshots:\n - "{names[0]}" [size: 3.30GB type: <logical>, restore time: 2026-11-21T02:00:09Z]')
        state["backups"].remove(one)
        print('Waiting for delete to be done ..{"msg":"[done]"}')
    elif command == "restore":
        series = tuple(int(part) for part in state["version"].split(".")[:2])
        if series < (2, 14) and "yes" in options:
            fail("unknown flag: --yes")
        if series >= (2, 14) and "yes" not in options:
            fail("no tty")
        name = f"2026-11-22T03:{len(state['restores']):02d}:00.123456789Z"
        state["restores"].append({"name": name, "status": "starting", "words": words, **state["next_restore"]})
        say({"name": name, **({"snapshot": names[0]} if names else {})})
    elif command == "describe-restore":
        one = find(state, "restores", names[0])
        if one is None:
            fail("get restore meta: not found")
        advance(one, ["starting", "running", "dumpDone", one.get("ends", "done")])
        say(
            {
                "name": one["name"],
                "opid": "6841cc7f1f576b79efb26753",
                "backup": "",
                "type": "logical",
                "status": one["status"],
                **({"error": one["error"]} if one["status"] == "error" else {}),
                "last_transition_ts": state["clock"],
                "last_transition_time": "2026-11-22T03:00:00Z",
                "replsets": [
                    {
                        "name": name,
                        "status": one["status"],
                        "last_transition_ts": 0,
                        "last_transition_time": "",
                        **({"error": one["error"]} if one["status"] == "error" and name == "rs1" else {}),
                    }
                    for name in state["sets"]
                ],
            }
        )
    else:
        fail(f'unknown command "{command}" for "pbm"')


if __name__ == "__main__":
    with (HERE / "state.json").open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held = json.load(file)
        held["asked"].append(sys.argv[1:])
        try:
            main(sys.argv[1:], held)
        finally:
            file.seek(0)
            file.truncate()
            json.dump(held, file)
