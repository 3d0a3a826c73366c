"""What every method of encryption promises, held against each with its stock tool: a message in, the same bytes out.

Damage, a wrong key, no key and a dead tool are told apart; nothing secret can be seen by others; nothing is left.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.errors import BackupdError, CancelledError, ConfigError, DecryptError, ToolError
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.age import Age
from nanumpay_backupd.transforms.encryption import Encryption, named_exactly
from nanumpay_backupd.transforms.openpgp import OpenPgp
from nanumpay_backupd.transforms.sealing import DamagedError, Sealed
from tests.keys import (
    OTHER,
    PASSPHRASE,
    VARIANTS,
    Variant,
    age_key,
    home_folders,
    pgp_key,
    ssh_key,
    variant,
)
from tests.workbench import small_disk

QUICK: Final = [name for name in VARIANTS if name != "age-passphrase"]
_PIECE: Final = 1 << 20


@pytest.fixture(params=VARIANTS)
def way(request: pytest.FixtureRequest) -> Variant:
    """Give each way to encrypt."""
    return variant(request.param)


@pytest.fixture(params=QUICK)
def quick(request: pytest.FixtureRequest) -> Variant:
    """Give each way that does not take a second for every message."""
    return variant(request.param)


def pieces(size: int, seed: int = 1) -> Iterator[bytes]:
    """Yield so many bytes that no compression makes smaller."""
    noise = random.Random(seed)
    while size > 0:
        yield noise.randbytes(min(size, _PIECE))
        size -= _PIECE


def sealed(sealing: Encryption, path: Path, size: int) -> Sealed:
    """Encrypt so many bytes into a file."""
    with sealing.writer(path) as writer:
        for piece in pieces(size):
            writer.write(piece)
        return writer.finish()


def read(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def header_of_whole(sealing: Encryption, message: bytes, size: int, step: int = _PIECE) -> tuple[str, ...]:
    """Read a message of so many plain bytes without a key, and return its header."""
    framing = sealing.framing("message")
    for at in range(0, len(message), step):
        framing.feed(message[at : at + step])
    framing.finish(size)
    return framing.header


def interrupted(sealing: Encryption, path: Path, size: int, fault: Exception | None = None) -> None:
    """Encrypt, and before the end raise ``fault``, or kill the tool."""
    with sealing.writer(path) as writer:
        writer.write(b"x" * 100)
        if fault is not None:
            raise fault
        os.kill(writer.pid, signal.SIGKILL)
        for piece in pieces(size):
            writer.write(piece)
        writer.finish()


def seen_of(pids: Iterable[int]) -> list[bytes]:
    """Return what every user of the host could see of processes, or who may look into them."""
    return [Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ")]


def digest(chunks: Iterator[bytes]) -> str:
    """Return the SHA-256 of what comes."""
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
    return whole.hexdigest()


def children() -> set[int]:
    """Return the processes that this one has started and that still run."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                rest = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(rest[1]) == os.getpid() and rest[0] != "Z":
                found.add(int(folder.name))
    return found


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 50_000_000])
def test_what_goes_in_comes_out(quick: Variant, tmp_path: Path, size: int) -> None:
    """Whatever its size, a message comes back as it was; what is told of the file is true; the check opens too."""
    with quick.make(*quick.keys) as sealing:
        made = sealed(sealing, tmp_path / "message", size)
        assert (made.size, made.sha256) == ((tmp_path / "message").stat().st_size, digest(read(tmp_path / "message")))
        check = sealing.make_check() if size % 2 else b""
        assert digest(sealing.opened(read(tmp_path / "message"), "message", check)) == digest(pieces(size))


def test_a_private_key_that_is_protected(tmp_path: Path) -> None:
    """A protected private key opens with its passphrase among the keys, and is a wrong key without it."""
    of_key = Secret("that of the key itself")
    key = pgp_key("protected", passphrase=of_key.reveal())
    with OpenPgp(recipients=[str(key.public)], keys=[key.private, of_key]) as sealing:
        sealed(sealing, tmp_path / "message", 1000)
        check = sealing.make_check()
        assert digest(sealing.opened(read(tmp_path / "message"), "message", check)) == digest(pieces(1000))
    with OpenPgp(keys=[key.private]) as sealing, pytest.raises(DecryptError) as caught:
        list(sealing.opened(read(tmp_path / "message"), "message", check))
    assert caught.value.code == "key-wrong"


def test_a_slow_passphrase_too(tmp_path: Path) -> None:
    """A passphrase of age gives back what it was given; a wrong one and none are told apart."""
    way = variant("age-passphrase")
    with way.make(PASSPHRASE) as sealing:
        made = sealed(sealing, tmp_path / "message", 100_000)
        assert made.header == ("scrypt",)
        assert digest(sealing.opened(read(tmp_path / "message"), "message")) == digest(pieces(100_000))
    for keys, code in (((OTHER,), "key-wrong"), ((), "key-missing")):
        with way.make(*keys) as sealing, pytest.raises(DecryptError) as caught:
            list(sealing.opened(read(tmp_path / "message"), "message"))
        assert caught.value.code == code


def test_without_a_key_it_tells_whom_it_is_for_and_whether_it_is_whole(way: Variant, tmp_path: Path) -> None:
    """The header names exactly the recipients, and any cut at all is found without a key."""
    with way.make() as sealing:
        made = sealed(sealing, tmp_path / "message", 70_000)
        message = (tmp_path / "message").read_bytes()
        assert header_of_whole(sealing, message, 70_000) == made.header
        if sealing.recipients():
            assert named_exactly(made.header, sealing.recipients())
            assert not named_exactly(made.header, sealing.recipients()[:-1])
            assert not named_exactly(made.header[:-1], sealing.recipients())
        else:
            assert len(made.header) == 1
        for cut in [*range(600), *range(600, len(message), 7), len(message) - 1]:
            with pytest.raises(DamagedError):
                header_of_whole(sealing, message[:cut], 70_000)


def test_in_any_pieces_the_framing_is_the_same(way: Variant) -> None:
    """A message that comes byte by byte is read as one that comes at once, and nothing may follow it."""
    with way.make() as sealing:
        message = sealing.seal(b"x" * 9000)
        headers = {header_of_whole(sealing, message, 9000, step) for step in (1, 2, 7, 4096, 1 << 20)}
        assert len(headers) == 1
        for more in (b"\0", b"\0" * 17, message):
            with pytest.raises(DamagedError):
                header_of_whole(sealing, message + more, 9000)


@pytest.mark.parametrize("name", ["openpgp-passphrase", "openpgp-keys", "age-keys", "age-ssh"])
def test_damage_is_told_as_damage_wherever_it_is(name: str, tmp_path: Path) -> None:
    """One flipped bit, or a cut, in header or data: never called a wrong key, and never other plain bytes."""
    way = variant(name)
    with way.make(*way.keys) as sealing:
        check = sealing.make_check()
        sealed(sealing, tmp_path / "message", 150_000)
        message = (tmp_path / "message").read_bytes()
        positions = [3, 20, len(message) // 2, len(message) - 1]
        cuts = [30, len(message) // 2]
        if name != "openpgp-passphrase":  # which takes longer
            positions += [0, 8, 15, 40, 100, 200, 400, len(message) - 20]
            cuts += [0, 1, 90, 300, len(message) - 1]
        spoilt = [message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :] for at in positions]
        spoilt += [message[:at] for at in cuts]
        spoilt += [message + b"\n", message + message]
        told = 0
        for number, data in enumerate(spoilt):
            try:
                plain = digest(sealing.opened(iter([data[:70_000], data[70_000:]]), f"number {number}", check))
            except DamagedError:
                told += 1
            else:
                # What was spoilt is the other recipient's: the checksum of the file tells.
                assert plain == digest(pieces(150_000))
                assert len(data) == len(message)
        assert told > len(spoilt) // 2


def test_a_wrong_key_is_told_before_anything_is_read(quick: Variant, tmp_path: Path) -> None:
    """With keys that do not fit, with none, and with the right one among others: three different answers."""
    with quick.make() as sealing:
        sealed(sealing, tmp_path / "message", 1000)
        check = sealing.make_check()
    given: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        for piece in read(tmp_path / "message"):
            given.append(piece)
            yield piece

    for keys, code in ((quick.wrong, "key-wrong"), ((), "key-missing")):
        with quick.make(*keys) as sealing:
            for attempt in (lambda: sealing.unlock(check), lambda: list(sealing.opened(chunks(), "m", check))):
                with pytest.raises(DecryptError) as caught:
                    attempt()
                assert caught.value.code == code, caught.value
                assert "docs/encryption.md" in caught.value.hint or "decrypt_with" in caught.value.hint
            assert not given
            with pytest.raises(DecryptError) as caught:
                list(sealing.opened(read(tmp_path / "message"), "message"))
            assert caught.value.code == code
    with quick.make(*quick.wrong, *quick.keys) as sealing:
        assert digest(sealing.opened(chunks(), "message", check)) == digest(pieces(1000))


def test_another_message_cannot_be_passed_off_as_a_key_check(quick: Variant) -> None:
    """What opens but does not hold the known words proves no key."""
    with quick.make(*quick.keys) as sealing, pytest.raises(DecryptError):
        sealing.unlock(sealing.seal(b"something else"))


def test_a_killed_tool_is_a_tool_s_fault(quick: Variant, tmp_path: Path) -> None:
    """Killed while it encrypts, no file is left; killed while it decrypts, nothing is called damaged."""
    with quick.make(*quick.keys) as sealing:
        path = tmp_path / "message"
        with pytest.raises(ToolError) as caught:
            interrupted(sealing, path, 50_000_000)
        assert caught.value.retryable
        assert not path.exists()
        sealed(sealing, path, 5_000_000)
        check = sealing.make_check()
        before = children()

        def chunks() -> Iterator[bytes]:
            for number, piece in enumerate(read(path)):
                if number == 2:
                    for pid in children() - before:
                        os.kill(pid, signal.SIGKILL)
                yield piece

        with pytest.raises(ToolError):
            list(sealing.opened(chunks(), "message", check))
        assert children() <= before


def test_who_is_cancelled_leaves_nothing(quick: Variant, tmp_path: Path) -> None:
    """A fault of the source comes out as it is, an abandoned reading ends its tool, an unfinished file goes."""
    with quick.make(*quick.keys) as sealing:
        sealed(sealing, tmp_path / "message", 5_000_000)
        check = sealing.make_check()
        sealing.unlock(check)
        before = children()

        def broken() -> Iterator[bytes]:
            yield from itertools.islice(read(tmp_path / "message"), 2)
            raise CancelledError("stop")

        with pytest.raises(CancelledError):
            list(sealing.opened(broken(), "message", check))
        reading = sealing.opened(read(tmp_path / "message"), "message", check)
        assert next(reading)
        reading.close()  # type: ignore[attr-defined]
        with pytest.raises(CancelledError):
            interrupted(sealing, tmp_path / "unfinished", 0, CancelledError("stop"))
        assert not (tmp_path / "unfinished").exists()
        assert children() <= before


def message_of(sealing: Encryption, path: Path, size: int) -> tuple[bytes, bytes]:
    """Encrypt so many bytes; returns the message, and what its writer told of its beginning."""
    with sealing.writer(path) as writer:
        for piece in pieces(size):
            writer.write(piece)
        writer.finish()
        return path.read_bytes(), writer.head


def test_what_is_decrypted_ahead_is_what_was_read_back(quick: Variant, tmp_path: Path) -> None:
    """A tool that got the beginning early decrypts only a message that begins so; the rest decides as ever."""
    size = 3_000_000
    plain = b"".join(pieces(size))
    before = children()
    with quick.make(*quick.keys) as sealing:
        message, head = message_of(sealing, tmp_path / "message", size)
        other, _ = message_of(sealing, tmp_path / "other", size)
        check = sealing.make_check()
        sealing.unlock(check)
        home = children()
        assert head
        assert message.startswith(head)

        def opened(data: bytes) -> bytes:
            return b"".join(sealing.opened((data[at : at + _PIECE] for at in range(0, len(data), _PIECE)), "m", check))

        for spoilt in (len(head) // 2, len(message) // 2):
            sealing.expect(head)
            damaged = message[:spoilt] + bytes([message[spoilt] ^ 1]) + message[spoilt + 1 :]
            with pytest.raises(DamagedError):
                opened(damaged)
        sealing.expect(head)
        assert opened(other) == plain
        assert opened(message) == plain
        assert children() <= home
        sealing.expect(head)
    assert children() <= before


def test_a_passphrase_is_not_hashed_again_for_what_was_begun(tmp_path: Path) -> None:
    """The tool that decrypts is the one that was started ahead."""
    with OpenPgp(passphrase=PASSPHRASE) as sealing:
        message, head = message_of(sealing, tmp_path / "message", 1_000_000)
        check = sealing.make_check()
        before = children()
        sealing.expect(head)
        begun = children() - before
        assert len(begun) == 1
        seen: list[set[int]] = []

        def chunks() -> Iterator[bytes]:
            for piece in (message[:500_000], message[500_000:]):
                yield piece
                seen.append(children() - before)

        assert len(b"".join(sealing.opened(chunks(), "message", check))) == 1_000_000
        assert seen[0] == begun


def test_a_full_disk_is_the_disk_s_fault(quick: Variant, tmp_path: Path) -> None:
    """Where the disk takes no more, that is what is told, and nothing is left."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk, quick.make() as sealing:
        with pytest.raises(OSError, match="No space left"):
            sealed(sealing, disk / "message", 20_000_000)
        assert not list(disk.iterdir())


def test_nothing_secret_can_be_seen_of_a_running_tool(way: Variant, tmp_path: Path) -> None:
    """Neither arguments nor environment of any child hold a passphrase or a private key."""
    with way.make(*way.keys) as sealing:
        before = children()

        def chunks() -> Iterator[bytes]:
            for piece in read(tmp_path / "message"):
                yield piece
                seen.extend(seen_of(children() - before))

        seen: list[bytes] = []
        with sealing.writer(tmp_path / "message") as writer:
            for piece in pieces(3_000_000):
                writer.write(piece)
            seen.extend(seen_of([writer.pid]))
            writer.finish()
        list(sealing.opened(chunks(), "message"))
        assert len(seen) > 2
        secrets = [part for key in (*way.keys, PASSPHRASE) for part in key.reveal().splitlines() if len(part) > 5]
        for text in seen:
            assert not [part for part in secrets if part.encode() in text]


def test_nothing_is_left_behind(quick: Variant, tmp_path: Path) -> None:
    """After `close`, which may be called twice, no process and no private home is there."""
    homes, before = home_folders(), children()
    sealing = quick.make(*quick.keys)
    check = sealing.make_check()
    sealing.unlock(check)
    sealing.close()
    sealing.close()
    assert home_folders() == homes
    assert children() == before


def test_the_home_of_a_killed_process_is_swept() -> None:
    """A private home whose owner is gone is removed by the next one that is made, one in use is not."""
    with OpenPgp(passphrase=PASSPHRASE) as living:
        stale = living.home.path.with_name("nanumpay-gpg-of-a-dead-process")
        stale.mkdir()
        (stale / "lock").write_text("1\n")
        (stale / "private-keys-v1.d").mkdir()
        with OpenPgp(passphrase=PASSPHRASE) as other:
            assert other.home.path != living.home.path
            assert not stale.exists()
            assert living.home.path.exists()


def test_an_older_message_opens_with_the_older_key(tmp_path: Path) -> None:
    """Several keys of both kinds may be at hand: each message is opened by its own."""
    old, new = Secret("the passphrase of last year"), pgp_key("first")
    with OpenPgp(passphrase=old) as before:
        sealed(before, tmp_path / "old", 1000)
    with OpenPgp(recipients=[str(new.public)], keys=[OTHER, new.private, old]) as now:
        sealed(now, tmp_path / "new", 1000)
        for name in ("old", "new"):
            assert digest(now.opened(read(tmp_path / name), name)) == digest(pieces(1000))


def refused(sealing: Encryption) -> ConfigError:
    """Return the fault of recipients to whom nothing can be encrypted, the same wherever it shows."""
    with sealing:
        with pytest.raises(ConfigError) as caught:
            sealing.recipients()
        with pytest.raises(ConfigError) as again:
            sealing.seal(b"x")
    assert caught.value.message == again.value.message
    assert caught.value.code == "recipient-unusable"
    assert caught.value.hint
    return caught.value


def test_key_files_to_which_nothing_can_be_encrypted(tmp_path: Path) -> None:
    """Missing, foreign, private, two in one, expired: each is named with what to do about it."""
    key, other = pgp_key("first"), pgp_key("second")
    expired = pgp_key("expired", expires="20200101T000000", made="20190101T000000")
    (tmp_path / "text").write_text("no key at all\n")
    (tmp_path / "private").write_text(key.private.reveal())
    (tmp_path / "two").write_bytes(key.public.read_bytes() + other.public.read_bytes())
    cases = {
        str(tmp_path / "missing"): "cannot be read",
        str(tmp_path / "text"): "holds no OpenPGP key",
        str(tmp_path / "private"): "holds a private key",
        str(tmp_path / "two"): "holds 2 keys",
        str(expired.public): "has expired",
    }
    for file, words in cases.items():
        error = refused(OpenPgp(recipients=[str(key.public), file]))
        assert file in error.message
        assert words in error.message
        assert key.private.reveal()[100:140] not in error.message


def test_recipients_that_the_stock_age_does_not_take(tmp_path: Path) -> None:
    """A plugin's recipient, a private key, a broken line, an empty file: refused without showing anything secret."""
    (tmp_path / "empty").write_text("# nobody\n\n")
    secret = age_key("first").identity.reveal().splitlines()[-1]
    for word in (
        "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
        secret,
        "ssh-ed25519 AAAA=",
    ):
        assert secret not in str(refused(Age(recipients=[word])))
    refused(Age(recipients=[str(tmp_path / "empty")]))
    refused(Age(recipients=[str(tmp_path / "missing")]))


def test_a_file_of_recipients(tmp_path: Path) -> None:
    """Recipients may stand in a file, one a line; a key that is named twice is one recipient."""
    ssh, native = ssh_key("first"), age_key("first")
    (tmp_path / "people").write_text(f"# the office\n{native.recipient}\n\n{ssh.recipient}\n")
    with Age(recipients=[str(tmp_path / "people"), native.recipient], keys=[ssh.identity]) as sealing:
        found = sealing.recipients()
        assert [one.name[:7] for one in found] == [native.recipient[:7], "SHA256:"]
        assert found[1].label == "first@example.com"
        assert sealing.unseal(sealing.seal(b"hello"), "message") == b"hello"


def test_when_a_key_ends_is_told() -> None:
    """The end of a key's validity is known beforehand."""
    with OpenPgp(recipients=[str(pgp_key("ending", expires="20991231T120000").public)]) as sealing:
        (one,) = sealing.recipients()
    assert one.expires is not None
    assert (one.expires.year, one.expires.month) == (2099, 12)
    assert one.label == "ending <ending@example.com>"


def test_a_missing_tool_is_named() -> None:
    """Without the tool the fault says which, and how to get it."""
    for sealing in (OpenPgp(passphrase=PASSPHRASE, gpg="gpg-not-here"), Age(passphrase=PASSPHRASE, age="age-not-here")):
        with sealing, pytest.raises(BackupdError) as caught:
            sealing.version()
        assert caught.value.code == "tool-missing"
        assert "apt-get install" in caught.value.hint


def test_versions_are_told() -> None:
    """The tools' versions can be asked for."""
    with OpenPgp() as pgp, Age() as age:
        assert pgp.version().startswith("gpg (GnuPG) ")
        assert age.version().startswith("age ")
