"""The formats of Redis' files: walked in pieces of any size, cut anywhere, changed anywhere; LZF; addresses."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import ConfigError, VerifyError
from nanumpay_backupd.settings.redisurl import RedisPlace, parse_redis_url
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources import redis_keys
from nanumpay_backupd.sources.rdb import RdbWalk, crc64, payload_of, payload_problem
from nanumpay_backupd.sources.rdb_value import lzf, readable
from nanumpay_backupd.sources.redis_aof import AofWalk
from nanumpay_backupd.sources.redis_aof_compare import Named
from nanumpay_backupd.sources.redis_keys import Keys, KeysWalk, head, keys_in, line
from nanumpay_backupd.sources.redis_link import command
from nanumpay_backupd.system.secrets import Secret

NAMES = st.binary(max_size=90)
KEYS = st.dictionaries(st.tuples(st.integers(0, 3), NAMES), st.tuples(st.binary(max_size=200), st.integers(0, 2**50)))


def length(size: int) -> bytes:
    """Return a length as an RDB file has it."""
    if size < 64:
        return bytes([size])
    return (0x4000 | size).to_bytes(2, "big") if size < 16384 else b"\x80" + size.to_bytes(4, "big")


def rdb_of(keys: dict[tuple[int, bytes], tuple[bytes, int]], *, version: int = 10) -> bytes:
    """Return an RDB file with strings: database and name to value and time."""
    data = b"REDIS%04d" % version + b"\xfa\x09redis-ver\x057.0.0" + b"\xfa\x05ctime\xc2\x01\x02\x03\x04"
    for number in sorted({number for number, _ in keys}):
        data += b"\xfe" + length(number) + b"\xfb\x00\x00"
        for (where, name), (value, expiry) in keys.items():
            if where == number:
                data += b"\xfc" + expiry.to_bytes(8, "little") if expiry else b""
                data += b"\x00" + length(len(name)) + name + length(len(value)) + value
    data += b"\xff"
    return data + crc64(data).to_bytes(8, "little")


def fed(walk: Any, data: bytes, size: int) -> Any:
    """Give ``data`` to a walk in pieces of ``size`` bytes, and its end."""
    for at in range(0, len(data), size):
        walk(data[at : at + size])
    walk(b"")
    return walk


@given(keys=KEYS, size=st.integers(1, 300))
def test_a_file_in_pieces_is_the_same(keys: dict[tuple[int, bytes], tuple[bytes, int]], size: int) -> None:
    """However an RDB file comes, every key is seen once, and the digest is the same."""
    data, found = rdb_of(keys), {}

    def note(database: int, expiry: int, data: bytes, start: int, value: int, end: int) -> None:
        found[database, data[start:value]] = (data[value:end], expiry)

    walk = fed(RdbWalk("x.rdb", on_key=note), data, size)
    assert walk.ended
    assert walk.aux == {"redis-ver": "7.0.0", "ctime": str(int.from_bytes(b"\1\2\3\4", "little"))}
    assert found == {
        (number, b"\0" + length(len(name)) + name): (length(len(value)) + value, expiry)
        for (number, name), (value, expiry) in keys.items()
    }
    assert walk.contents == fed(RdbWalk("x.rdb"), data, 1 << 20).contents
    assert sum(walk.sizes.values()) <= len(data)


@given(keys=KEYS, data=st.data())
def test_a_file_that_is_cut_or_changed_is_found(keys: dict[tuple[int, bytes], tuple[bytes, int]], data: Any) -> None:
    """An RDB file that ends too early, or in which one byte is another, is never taken for whole."""
    whole = rdb_of(keys)
    with pytest.raises(VerifyError):
        fed(RdbWalk("x.rdb"), whole[: data.draw(st.integers(0, len(whole) - 1))], 100)
    at, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    with pytest.raises(VerifyError):
        fed(RdbWalk("x.rdb"), whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :], 100)
    assert fed(RdbWalk("x.rdb"), whole, 7).ended


def test_a_version_that_is_not_known_is_said() -> None:
    """A file of a newer form is refused with its version."""
    with pytest.raises(VerifyError, match="version 99"):
        fed(RdbWalk("x.rdb"), rdb_of({}, version=99), 100)


@given(
    keys=st.dictionaries(NAMES, st.tuples(st.binary(min_size=1, max_size=200), st.integers(0, 2**50))),
    size=st.integers(1, 300),
    cut=st.data(),
)
def test_commands_in_pieces_are_the_same(keys: dict[bytes, tuple[bytes, int]], size: int, cut: Any) -> None:
    """A file of keys gives them back in any pieces, also with names that look like commands."""
    keys[b"\r\n$1\r\n0\r\n$3\r\n*6\r\n$7\r\nRESTORE\r\n$"] = (b"x", 0)
    wanted = {name: (payload_of(value, 10), expiry) for name, (value, expiry) in keys.items()}
    data = head(7) + b"".join(line(name, expiry, payload) for name, (payload, expiry) in wanted.items())
    found = {}
    walk = fed(KeysWalk("db7.resp", lambda name, expiry, value: found.update({name: (value, expiry)})), data, size)
    assert (found, walk.count) == (wanted, len(wanted))
    assert walk.digest == fed(KeysWalk("db7.resp"), data, 1 << 20).digest
    whole = [len(head(7))]
    for name, (payload, expiry) in wanted.items():
        whole.append(whole[-1] + len(line(name, expiry, payload)))
    end = cut.draw(st.integers(0, len(data) - 1))
    if end in whole:
        assert fed(KeysWalk("db7.resp"), data[:end], size).count == whole.index(end)
    else:
        with pytest.raises(VerifyError):
            fed(KeysWalk("db7.resp"), data[:end], size)
    with contextlib.suppress(VerifyError):
        spoilt = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
        assert fed(KeysWalk("db7.resp"), spoilt, size).digest != walk.digest


def test_a_value_is_proven_by_its_own_checksum() -> None:
    """What DUMP returned is taken only as it was."""
    payload = payload_of(b"\x00\x05value", 10)
    assert payload_problem(payload) == ""
    assert payload_problem(payload[:3] + b"V" + payload[4:])
    assert payload_problem(b"short")


@given(
    keys=KEYS,
    commands=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=20),
    size=st.integers(1, 200),
    cut=st.data(),
)
def test_a_log_is_cut_behind_its_last_whole_command(
    keys: dict[tuple[int, bytes], tuple[bytes, int]], commands: list[list[bytes]], size: int, cut: Any
) -> None:
    """Of an append-only file that ends anywhere, what is whole is known: no command is parted, and no transaction."""
    preamble = cut.draw(st.sampled_from([b"", rdb_of(keys)]))
    packed = [command(*one) for one in commands]
    packed += [
        command("MULTI"),
        command("SET", "a", "1"),
        command("EXEC"),
        b"#TS:1\r\n",
        command("MULTI"),
        command("X"),
    ]
    data, ends = preamble, [len(preamble)]
    for one in packed:
        data += one
        ends.append(len(data))
    # Within a transaction, nothing is whole.
    ends = [*ends[: len(commands) + 1], *ends[len(commands) + 3 : len(commands) + 5]]
    end = cut.draw(st.integers(len(preamble), len(data)))
    walk = AofWalk("appendonly.aof")
    for at in range(0, end, size):
        walk(data[at : min(end, at + size)])
    with contextlib.suppress(VerifyError):
        walk(b"")
    assert walk.whole == max(one for one in ends if one <= end)
    good = fed(AofWalk("appendonly.aof"), data[: walk.whole], size)
    assert good.whole == walk.whole


def test_lzf() -> None:
    """Literal runs, references near and far, and those that overlap what they write; nonsense is refused."""
    assert lzf(b"\x02abc", 3) == b"abc"
    assert lzf(b"\x00a\xe0\x05\x00", 15) == b"a" * 15
    assert lzf(b"\x02abc\x80\x02", 9) == b"abcabcabc"
    for packed, size in ((b"\x02abc", 4), (b"\x02ab", 3), (b"\x20\x05", 3), (b"\xe0", 3)):
        with pytest.raises(ValueError, match="compressed"):
            lzf(packed, size)


def test_old_packings() -> None:
    """What only old servers wrote is read as well: a zipmap, a ziplist, scores as text."""
    zipmap = b"\x02" + b"\x01a" + b"\x01\x001" + b"\x02bb" + b"\x02\x0022" + b"\xff"
    assert readable(9, length(len(zipmap)) + zipmap) == {"a": "1", "bb": "22"}
    ziplist = bytes(10) + b"\x00\x03abc" + b"\x05\xf6" + b"\x02\xfe\x80" + b"\x03\xc0\x00\x80" + b"\xff"
    assert readable(10, length(len(ziplist)) + ziplist) == ["abc", "5", "-128", "-32768"]
    assert readable(3, b"\x02\x01a\x031.5\x01b\xfe") == [
        {"member": "a", "score": 1.5},
        {"member": "b", "score": {"$numberDouble": "Infinity"}},
    ]


@given(keys=KEYS, most=st.integers(1, 5))
def test_keys_of_both_forms(keys: dict[tuple[int, bytes], tuple[bytes, int]], most: int) -> None:
    """Keys of an RDB file are the same as those that were dumped by themselves, in however small lots they come."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(redis_keys, "_MOST", most)
        whole, apart = Path(folder, "dump.rdb"), Path(folder, "db2.resp")
        whole.write_bytes(rdb_of(keys))
        found = {key: told for lot in keys_in(whole) for key, told in in_full(lot).items()}
        assert {key: (payload[:-10], expiry) for key, (payload, expiry) in found.items()} == {
            key: (b"\0" + length(len(value)) + value, expiry) for key, (value, expiry) in keys.items()
        }
        mine = {name: told for (number, name), told in found.items() if number == 2}
        apart.write_bytes(head(2) + b"".join(line(name, told[1], told[0]) for name, told in mine.items()))
        assert {key[1]: told for lot in keys_in(apart) for key, told in in_full(lot).items()} == mine


@given(words=st.lists(st.lists(NAMES, min_size=1, max_size=5), max_size=20), other=NAMES)
def test_words_of_commands_are_known(words: list[list[bytes]], other: bytes) -> None:
    """Every word behind a command's name is known again, in whatever pieces it came; others mostly are not."""
    named = Named()
    data = b"".join(command(*parts) for parts in words)
    fed(AofWalk("x.aof", on_command=named.add), data, 7)
    told = {word for parts in words for word in parts[1:]}
    assert all(word in named for word in told)
    assert other in told or other not in named
    assert named.anything == any(parts[0].upper() in (b"FLUSHALL", b"EVAL") for parts in words)


@pytest.mark.parametrize("text", [b"flushdb", b"FLUSHALL", b"SwapDB", b"EVAL", b"FCALL"])
def test_commands_that_can_change_any_key(text: bytes) -> None:
    """What changes keys without naming them is noticed, however it is written."""
    named = Named()
    fed(AofWalk("x.aof", on_command=named.add), command("SET", "a", "b") + command(text, "0"), 5)
    assert named.anything


def in_full(keys: Keys | bytes) -> dict[tuple[int, bytes], tuple[bytes, int]]:
    """Return what RESTORE takes of each key of a lot, and its expiry; the two ways to its value agree."""
    assert isinstance(keys, Keys)
    assert [payload[:-10] for payload in keys.payloads] == keys.bare
    assert not any(map(payload_problem, keys.payloads))
    told = zip(keys.payloads, keys.expiries, strict=True)
    return {(keys.database, name): one for name, one in zip(keys.names, told, strict=True)}


@pytest.mark.parametrize(
    "url, place",
    [
        ("redis://h", RedisPlace(host="h")),
        ("redis://h:7000/3", RedisPlace(host="h", port=7000, database=3)),
        ("rediss://u%3A:p%40@[::1]:1", RedisPlace("::1", 1, tls=True, username="u:", password=Secret("p@"))),
        ("redis://:pw@h/", RedisPlace(host="h", password=Secret("pw"))),
        ("unix:///run/r.sock?db=2", RedisPlace(socket="/run/r.sock", database=2)),
    ],
)
def test_addresses(url: str, place: RedisPlace) -> None:
    """Every form of address says where, and who."""
    assert parse_redis_url(url) == place


@pytest.mark.parametrize("url", ["", "h:6379", "http://h", "redis://h:99999999", "redis://h/one", "unix://relative"])
def test_what_is_no_address(url: str) -> None:
    """Anything else is refused, and not shown: it may have a password in it."""
    with pytest.raises(ConfigError) as caught:
        parse_redis_url(url)
    assert not url or url not in caught.value.message


def test_settings_that_do_not_fit() -> None:
    """An AOF has a folder, databases are chosen key by key only, a certificate has a key."""
    url = Secret("redis://h")
    for source, keys in (
        (RedisSource(url=url), []),
        (RedisSource(url=url, mode=RedisMode.AOF), ["data_folder"]),
        (RedisSource(url=url, databases=(1,)), ["databases"]),
        (RedisSource(url=url, cert_file="/c"), ["key_file"]),
    ):
        assert [key for key, _, _ in source.conflicts()] == keys
    assert RedisSource(url=Secret("redis://u:pw@h"), databases=(1, 2), mode="logical").described == (
        "redis at h:6379, logical, databases 1, 2"
    )
