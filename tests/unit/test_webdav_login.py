"""What is said to WebDAV servers about who we are, beside the examples of the standards."""

from __future__ import annotations

import secrets
from typing import Final

import pytest

from nanumpay_backupd.stores.webdav_login import Login
from nanumpay_backupd.system.secrets import Secret

FIELDS: Final = (
    'realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
MD5: Final = f"Digest {FIELDS}, algorithm=MD5"
SHA: Final = f"Digest {FIELDS}, algorithm=SHA-256"


def login(*, private: bool = False) -> Login:
    """Return the account of the examples."""
    return Login("Mufasa", Secret("Circle of Life"), private=private)


@pytest.mark.parametrize(
    "asked, response",
    [
        ([MD5], "8ca523f5e9506fed4657c9700eebdbec"),
        ([SHA], "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ([MD5, SHA, 'Basic realm="x"'], "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ([f'Basic realm="a, b", {MD5}'], "8ca523f5e9506fed4657c9700eebdbec"),
    ],
)
def test_the_examples_of_rfc_7616(asked: list[str], response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are those of section 3.9.1; of several ways the best is taken, also out of one header."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    mine = login()
    assert mine.header("GET", "/dir/index.html") is None
    assert mine.learn(asked)
    said = mine.header("GET", "/dir/index.html") or ""
    assert f'response="{response}"' in said
    assert "nc=00000001" in said
    assert "nc=00000002" in (mine.header("GET", "/dir/index.html") or "")


@pytest.mark.parametrize(
    "private, first, asked, expected",
    [
        (True, "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl", 'Basic realm="x"', False),
        (True, "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl", MD5, True),
        (False, None, 'Basic realm="x"', True),
        (False, None, "Negotiate", False),
        (False, None, 'Digest realm="x", nonce="y", algorithm=MD4', False),
        (False, None, "", False),
    ],
)
def test_when_it_is_worth_another_try(private: bool, first: str | None, asked: str, expected: bool) -> None:
    """Basic is sent unasked over TLS only; what is asked for is tried when it is known, and was not tried already."""
    mine = login(private=private)
    assert mine.header("PROPFIND", "/") == first
    assert mine.learn([asked]) is expected


def test_a_wrong_password_is_tried_once() -> None:
    """Refused with what was asked for it ends, so that no account is locked; a new number is only a new number."""
    mine = login()
    assert mine.learn([MD5])
    assert not mine.learn([MD5])
    assert mine.learn([f"{MD5}, stale=true"])
    assert not mine.learn([MD5])


def test_nobody_has_nothing_to_say() -> None:
    """Without a name no login is sent, and none is tried."""
    mine = Login("", Secret(""), private=True)
    assert mine.header("GET", "/", must=True) is None
    assert not mine.learn([MD5])
