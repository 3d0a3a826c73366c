"""Without package and systemd: the wheel in a fresh environment, and what docs/uninstalled.md says, word for word."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from croniter import croniter

from nanumpay_backupd import __version__, arguments
from nanumpay_backupd.cli import options
from nanumpay_backupd.errors import EXIT_OK, EXIT_UNREACHABLE
from tests.integration.test_docs_restore import block
from tests.pages.yaml_subset import YamlError, read
from tests.servers.daemon import backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3
from tests.servers.tools import PROJECT, tools_path

PAGE: Final = "uninstalled.md"
_PATIENCE: Final = 120
Document = dict[str, Any]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout, without network and without leaving anything in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    for name in ("nanumpay_backupd", "docs"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*build, "-w", str(out), str(source)], check=True, timeout=_PATIENCE, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and a home; nothing in it leads to this checkout."""

    root: Path
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Make an environment of a user who just installed it: no systemd, no variables of ours."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("NANUMPAY_TEST_S")}
        without = [part for part in tools_path().split(os.pathsep) if part != str(Path(sys.executable).parent)]
        path = os.pathsep.join([str(self.root / "bin"), *without])
        return {**kept, "PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **more}

    def run(self, script: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script as a shell of that user."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Installed]:
    """Install the wheel into a fresh environment; its dependencies are those of the tests', made visible by a path."""
    # Not below pytest's folders: the path of a socket has 90 characters at most.
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        root, home = Path(name) / "env", Path(name) / "home"
        home.mkdir()
        venv.EnvBuilder(symlinks=True).create(root)
        python = root / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=_PATIENCE
        )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        others = root / "lib" / version / "site-packages" / "others.pth"
        others.write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        yield Installed(root, home)


class TestWheel:
    """What pip and pipx install."""

    def test_every_file_of_the_package_is_in_it(self, wheel: Path) -> None:
        """Modules, the interface's description, completions, the mark of types: all that is in the folder; no tests."""
        package = PROJECT / "nanumpay_backupd"
        files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted = {str(path.relative_to(PROJECT)) for path in files}
        names = set(zipfile.ZipFile(wheel).namelist())
        inside = {name for name in names if not re.match(r"nanumpay_backupd-[^/]*\.(dist-info|data)/", name)}
        assert inside == wanted
        assert any(name.endswith(".varlink") for name in wanted)
        assert any("/completions/" in name for name in wanted)

    def test_the_man_pages_are_where_pipx_looks(self, installed: Installed) -> None:
        """Below share/man of the environment."""
        pages = {path.name: path for path in (installed.root / "share" / "man").rglob("*.?")}
        ours = {path.name: path for path in (PROJECT / "docs" / "man").iterdir()}
        assert {name: path.read_bytes() for name, path in pages.items() if path.is_file()} == {
            name: path.read_bytes() for name, path in ours.items()
        }

    @pytest.mark.parametrize("program", ["backupctl", "nanumpay-backupd"])
    def test_versions(self, installed: Installed, program: str) -> None:
        """The programs are those of the wheel, and say so."""
        done = installed.run(f"{program} --version")
        assert (done.stdout, done.returncode) == (f"{program} {__version__}\n", EXIT_OK)
        where = installed.run("python -c 'import nanumpay_backupd; print(nanumpay_backupd.__file__)'")
        assert where.stdout.startswith(str(installed.root))

    def test_completion(self, installed: Installed) -> None:
        """What the page tells to type puts the scripts where bash looks for them."""
        folder = installed.home / ".local" / "share" / "bash-completion" / "completions"
        folder.mkdir(parents=True)
        page = (PROJECT / "docs" / PAGE).read_text(encoding="utf-8")
        lines = re.findall(r"^backupctl completion .*$", page, re.MULTILINE)
        assert len(lines) == 2
        assert installed.run("\n".join(lines)).returncode == EXIT_OK
        done = installed.run("for file in ~/.local/share/bash-completion/completions/*; do . $file; done; complete -p")
        assert set(re.findall(r"complete -F (\S+) (\S+)", done.stdout)) == {
            ("_backupctl", "backupctl"),
            ("_nanumpay_backupd", "nanumpay-backupd"),
        }

    def test_without_anything(self, installed: Installed) -> None:
        """Where no daemon runs, the message names the ways to another socket."""
        done = installed.run("backupctl status", NANUMPAY_BACKUPD_SOCKET=str(installed.home / "none.sock"))
        assert done.returncode == EXIT_UNREACHABLE
        assert "--socket PATH" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.servers
def test_as_a_user(installed: Installed, mongod_rs: Mongod) -> None:
    """The page's block is pasted; then check-config, run-once, the daemon in the foreground and backupctl work."""
    with open_site(mongod_rs, backup_settings()) as site:
        setup = block(PAGE, "user")
        own = {"MONGODB_URI": site.uri}
        checked = installed.run(setup, **own)
        assert checked.returncode == EXIT_OK, checked.stderr
        home = installed.home
        for place in ("backups", ".local/state/nanumpay-backupd", ".local/state/nanumpay-backupd/control.sock"):
            assert str(home / place) in checked.stdout
        once = installed.run(f"{setup}\nnanumpay-backupd run-once", **own)
        assert (once.returncode, once.stderr) == (EXIT_OK, "")
        assert str(home / "backups") in once.stdout
        (first,) = (home / "backups").glob("nanumpay-backup-*.tar.gz")
        _serve(installed, setup, own, first.name)


def _serve(installed: Installed, setup: str, own: dict[str, str], first: str) -> None:
    """Run the daemon in the foreground, use it, let it reload and stop it."""
    log = installed.home / "daemon.log"
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            ["bash", "-euc", f"{setup}\nexec nanumpay-backupd serve"],
            env=installed.environment(**own),
            cwd=installed.home,
            stdout=stream,
            stderr=stream,
        )
    try:

        def ask(words: str) -> subprocess.CompletedProcess[str]:
            return installed.run(f"{setup}\nbackupctl {words}", **own)

        wait_for(lambda: "is ready" in log.read_text() or daemon.poll() is not None, "the daemon")
        assert daemon.poll() is None, log.read_text()
        assert str(installed.home / "backups") in log.read_text()
        assert ask("status").returncode == EXIT_OK
        assert first.removesuffix(".tar.gz") in ask("list").stdout
        assert ask("run").returncode == EXIT_OK
        assert "nanumpay" in ask("complete jobs").stdout
        daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: "configuration reloaded" in log.read_text(), "the reload")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(_PATIENCE) == EXIT_OK
    finally:
        daemon.kill()
        daemon.wait()


def _ours(script: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every call of a program of ours in a script."""
    for line in script.splitlines():
        for found in re.findall(r"(?:^|\s)(?:/[\w/.-]*/)?(backupctl|nanumpay-backupd)((?: [^|;&>]*)?)", line):
            yield found[0], shlex.split(found[1])


def _parsed(program: str, words: list[str]) -> None:
    {"backupctl": options.parse, "nanumpay-backupd": arguments.parse}[program](words)


class TestWorkflow:
    """The GitHub Actions workflow."""

    workflow: Document = read(block(PAGE, "workflow"))

    def steps(self) -> dict[str, Document]:
        """Return its steps by name."""
        return {step["name"]: step for step in self.workflow["jobs"]["backup"]["steps"]}

    def test_is_one(self) -> None:
        """It has what GitHub demands, a schedule that is one, a limit, and tells of a failure."""
        assert croniter.is_valid(self.workflow["on"]["schedule"][0]["cron"])
        assert "workflow_dispatch" in self.workflow["on"]
        job = self.workflow["jobs"]["backup"]
        assert set(job) >= {"runs-on", "timeout-minutes", "steps"}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step["name"]
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
        assert job["steps"][-1]["if"] == "failure()"

    def test_its_scripts_are_scripts_and_its_calls_are_taken(self) -> None:
        """The shell reads each without complaint; what calls our programs is a command line that they accept."""
        calls = []
        for step in self.steps().values():
            if "run" in step:
                assert step["run"].isascii()
                checked = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, check=False)
                assert (checked.stderr, checked.returncode) == ("", 0)
                if step["name"] != "Install it":  # there the name is a folder
                    calls += list(_ours(step["run"]))
        assert [words for _, words in calls] == [["rebuild"], ["run-once", "nightly"]]
        for program, words in calls:
            _parsed(program, words)

    def test_secrets_are_given_to_single_steps_and_never_written_into_a_script(self) -> None:
        """An expression in a script would be put into it before the shell reads it."""
        for step in self.steps().values():
            assert "${{" not in step.get("run", "")
        assert "secrets." not in str({name: value for name, value in self.workflow.items() if name != "jobs"})
        assert "env" not in self.workflow["jobs"]["backup"]

    @pytest.mark.servers
    def test_it_backs_up(self, installed: Installed, mongod_rs: Mongod, tmp_path: Path) -> None:
        """Its steps are run with a real database and bucket; retention reaches what earlier runners have made."""
        with open_site(mongod_rs) as site, start_s3(tmp_path) as s3:
            # Each a runner of its own: nothing but the bucket stays.
            for at in range(3):
                self._run(installed, site.uri, s3.endpoint, s3.bucket, tmp_path / f"runner{at}")
            kept = sorted(path.name for path in (s3.root / s3.bucket / "nightly").glob("*.tar.gz"))
            made = sorted(path.name for path in tmp_path.glob("runner*/backups/*.tar.gz"))
            assert len(made) == 3
            assert kept == made[1:]

    def _run(self, installed: Installed, uri: str, endpoint: str, bucket: str, temp: Path) -> None:
        temp.mkdir()
        values = {
            "secrets.AWS_S3_BACKUP_BUCKET": bucket,
            "secrets.MONGODB_URI": uri,
            "secrets.AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "secrets.AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        environment = {"RUNNER_TEMP": str(temp), "GITHUB_ENV": str(temp / "env"), "AWS_ENDPOINT_URL": endpoint}
        for name in ("Write the host file", "Back up"):
            step = self.steps()[name]
            own = {key: values[value.removeprefix("${{ ").removesuffix(" }}")] for key, value in step["env"].items()}
            # Two stay instead of thirty, so that one has to go.
            script = step["run"].replace("count = 30", "count = 2")
            done = installed.run(script, **environment, **own)
            assert done.returncode == EXIT_OK, done.stderr
            assert SECRET_KEY not in done.stdout + done.stderr
            lines = (temp / "env").read_text(encoding="utf-8").splitlines()
            environment |= dict(line.split("=", 1) for line in lines)


class TestExamples:
    """The other files of the page."""

    def test_cron(self) -> None:
        """Lines of /etc/cron.d: five fields, the user, a command that is ours, and mail for what goes wrong."""
        lines = block(PAGE, "cron").splitlines()
        assert lines[0].startswith("MAILTO=")
        runs = [line for line in lines if not re.match(r"[A-Z_]+=", line)]
        assert len(runs) == 2
        for line in runs:
            *when, user, command = line.split(maxsplit=6)
            assert croniter.is_valid(" ".join(when))
            assert user == "nanumpay"
            assert command.endswith(" >/dev/null")
            ((program, words),) = _ours(command)
            _parsed(program, words)

    def test_compose(self) -> None:
        """What is mounted is what the image declares; the check of its health is a command of ours."""
        service = read(block(PAGE, "compose"))["services"]["backup"]
        dockerfile = block(PAGE, "dockerfile")
        for place in re.findall(r'"([^"]+)"', re.findall(r"^VOLUME (.*)$", dockerfile, re.MULTILINE)[0]):
            assert any(mount.split(":")[1] == place for mount in service["volumes"])
        kind, program, *words = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "backupctl")
        _parsed(program, words)

    def test_dockerfile(self) -> None:
        """It starts the daemon, as somebody without rights, with a folder for each thing that is written."""
        lines = block(PAGE, "dockerfile").replace("\\\n", " ").splitlines()
        found = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}
        assert found["ENTRYPOINT"] == '["nanumpay-backupd"]'
        _parsed("nanumpay-backupd", read(f"args: {found['CMD']}")["args"])
        assert found["USER"] == "nanumpay"
        made = re.search(r"install -d -o nanumpay -g nanumpay -m 0750 (.*)$", found["RUN"])
        assert made is not None
        assert made[1].split() == ["/backups", "/var/lib/nanumpay-backupd", "/run/nanumpay-backupd"]

    def test_cronjob(self) -> None:
        """Both containers call what there is, with the same folders, and a second run never starts beside the first."""
        spec = read(block(PAGE, "cronjob"))["spec"]
        assert croniter.is_valid(spec["schedule"])
        assert spec["concurrencyPolicy"] == "Forbid"
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        (catalog,), (backup,) = pod["initContainers"], pod["containers"]
        for container in (catalog, backup):
            _parsed("nanumpay-backupd", container["args"])
        assert catalog["volumeMounts"] == backup["volumeMounts"]
        assert {mount["name"] for mount in backup["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}

    @pytest.mark.parametrize(
        "text",
        ["a: b: c", "a: yes", "a: *b", "a: 'b", "a: >\n  b", "a:\n  b: c\n d: e", "- a\nb: c", "a: b\na: c", "\ta: b"],
    )
    def test_what_is_no_plain_yaml_is_refused(self, text: str) -> None:
        """The reader of these tests is not more lenient than others are."""
        with pytest.raises(YamlError):
            read(text)
