"""Which member of a replica set is read, and the connection string for it alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.sources.mongo_member import Member, best, direct_uri

LAGS = st.lists(st.floats(0, 300), max_size=4)


@given(LAGS, st.sampled_from(["secondary", "secondaryPreferred"]), st.booleans())
def test_the_secondary_least_behind_or_the_primary_where_that_may_be(
    lags: list[float], preference: str, primary: bool
) -> None:
    """None that lags too far is read, the primary only where no secondary will do and it may be."""
    members = [Member(f"s{at}", primary=False, lag=lag) for at, lag in enumerate(lags)]
    members += [Member("p", primary=True, lag=0.0)] if primary else []
    chosen = best(members, preference, 90.0)
    good = [lag for lag in lags if lag <= 90.0]
    if good:
        assert chosen is not None
        assert (chosen.primary, chosen.lag) == (False, min(good))
    elif preference == "secondary" or not primary:
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen.primary


@pytest.mark.parametrize(
    "uri, direct",
    [
        ("mongodb://a,b/n?replicaSet=rs0", "mongodb://b:1/n?directConnection=true"),
        ("mongodb://u:p%40w@a:2,b/n", "mongodb://u:p%40w@b:1/n?directConnection=true"),
        (
            "mongodb://u:p@a/?tls=true&readPreference=secondary&authSource=x",
            "mongodb://u:p@b:1/?tls=true&authSource=x&directConnection=true",
        ),
        ("mongodb://a", "mongodb://b:1/?directConnection=true"),
    ],
)
def test_the_connection_string_of_one_member(uri: str, direct: str) -> None:
    """Login, database and TLS stay; what means the whole set goes."""
    assert direct_uri(uri, "b:1") == direct


def test_a_name_for_members_that_are_looked_up_is_refused() -> None:
    """mongodb+srv names no members."""
    with pytest.raises(ConfigError):
        direct_uri("mongodb+srv://cluster.example.com/n", "b:1")
