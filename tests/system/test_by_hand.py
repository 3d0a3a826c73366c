"""The second way of docs/install.md, without the package, and the package that comes to such a host later."""

from __future__ import annotations

from pathlib import Path

from nanumpay_backupd.errors import EXIT_OK
from tests.servers.tools import PROJECT
from tests.system.conftest import MakeHost
from tests.system.host import SERVICE, without_place
from tests.system.packages import SHIM
from tests.system.page import paste


def test_by_hand_and_then_by_package(new_host: MakeHost, package: Path) -> None:
    """What was installed by hand works; the package puts it aside, takes its place and goes on with its backups."""
    host = new_host("by-hand")
    host.copy_in(package, f"/root/{package.name}")
    # There is no network for pip: the environment that the package brings stands in for what pip would make.
    host.run(f"dpkg-deb -x {package.name} x && rm {package.name}")
    for folder in ("systemd", "docs"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file():
                host.put(f"/root/{path.relative_to(PROJECT)}", path.read_bytes())
    pip = "/opt/nanumpay-backupd/bin/pip install"
    instead = {
        "/usr/bin/python3 -m venv": "cp -a x/opt/nanumpay-backupd /opt/",
        f"{pip} --require-hashes": "true",
        f"{pip} --no-deps": "true",
    }
    host.wait_mongod()
    host.fill()
    host.save(without_place())
    paste(host, "by-hand", instead=instead)
    paste(host, "by-hand-old-program")
    backup = host.backup()["backup"]
    assert host.show("FragmentPath") == f"/etc/systemd/system/{SERVICE}.service"
    assert "FORCE_BACKUP" in host.run(f"{SHIM} --help").out

    said = host.install(package).said
    assert "/opt/nanumpay-backupd was kept as /opt/nanumpay-backupd.by-hand" in said
    for unit in (f"{SERVICE}.service", f"{SERVICE}.socket"):
        assert host.show("FragmentPath", unit=unit) == f"/lib/systemd/system/{unit}"
        assert host.show("ActiveState", unit=unit) == "active"
        assert host.run(f"systemctl is-enabled {unit}").out == "enabled\n"
    assert [item["id"] for item in host.ask("list")["backups"]] == [backup]
    assert host.backup()["outcome"] == "succeeded"
    host.reboot()
    assert host.ctl("status").code == EXIT_OK
    assert host.show("ActiveState") == "active"
    assert "FORCE_BACKUP" in host.run(f"{SHIM} --help").out
