"""Plays n8n's program as it was recorded: version, credentials out and in, which stay in a file of its folder."""

import json
import os
import sys
from pathlib import Path

_NONE = "No credentials found with specified filters\n"
_NO_LIST = "File does not seem to contain credentials. Make sure the credentials are contained in an array.\n"


def main(arguments: list[str]) -> int:
    """Do one command and return its exit code."""
    held = Path(os.environ["N8N_USER_FOLDER"], ".n8n", "credentials.json")
    credentials = json.loads(held.read_text()) if held.exists() else []
    if arguments == ["--version"]:
        print(os.environ.get("PLAYED_VERSION", "2.4.8"))
    elif arguments[:2] == ["export:credentials", "--all"]:
        if not credentials:
            sys.stdout.write("Error exporting credentials. See log messages for details.\n" + _NONE * 2)
            return 1
        said = json.dumps(credentials, ensure_ascii=False, separators=(",", ":"))
        sys.stdout.write(said)
        sys.stdout.write(
            f"Successfully exported {len(credentials)} credentials.\n" if "--output=/dev/stdout" in arguments else "\n"
        )
    elif arguments[:1] == ["import:credentials"]:
        given = json.loads(Path(arguments[1].removeprefix("--input=")).read_text())
        if not isinstance(given, list):
            sys.stdout.write(
                "An error occurred while importing credentials. See log messages for details.\n" + _NO_LIST * 2
            )
            return 1
        known = {one["id"]: one for one in credentials} | {one["id"]: one for one in given}
        held.write_text(json.dumps(list(known.values())))
        sys.stdout.write(f"Successfully imported {len(given)} {'credential' if len(given) == 1 else 'credentials'}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
