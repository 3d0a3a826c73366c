"""The application's interface against its own description: whatever is sent, the answer is one that it names.

No answer is a defect (5xx), and none is of another shape than the description says.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.web.openapi import describe
from tests.openapi import anything, complaints, fitting
from tests.servers.daemon import Site
from tests.servers.web import Page

pytestmark = pytest.mark.servers

DOCUMENT: Final = describe("")
OPERATIONS: Final = [
    (path, method, way) for path, ways in DOCUMENT["paths"].items() for method, way in ways.items()
]  # fmt: skip
STREAMS: Final = {"/api/admin/backup/events"}
BEGIN: Final = {"/api/admin/backup/run-now", "/api/admin/backup/execute"}
"""They begin a run where what is sent makes sense: here it is always of a job that there is not."""
REACH: Final = "/api/admin/settings/test"


def judged(path: str, way: dict[str, Any], answer: httpx.Response) -> None:
    """Hold an answer against the description of its request."""
    assert answer.status_code < 500, answer.text
    described = way["responses"].get(str(answer.status_code))
    assert described is not None, f"{path} does not name {answer.status_code}: {answer.text}"
    schema = described.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        assert answer.headers["content-type"].startswith("application/json")
        assert complaints(DOCUMENT, schema, answer.json()) == []
    assert "Traceback" not in answer.text


@st.composite
def requests(draw: st.DrawFn, path: str, way: dict[str, Any]) -> dict[str, Any]:
    """Make a request: one in three of its parts is not as it should be."""
    found: dict[str, Any] = {"params": {}, "headers": {}}
    where = path
    for parameter in way.get("parameters", ()):
        if not parameter["required"] and draw(st.booleans()):
            continue
        value = str(draw(fitting(DOCUMENT, parameter["schema"], 0.3)))
        if parameter["in"] == "path":
            where = where.replace("{" + parameter["name"] + "}", quote(value, safe="") or "-")
        elif parameter["in"] == "query":
            found["params"][parameter["name"]] = value
        else:
            found["headers"][parameter["name"]] = quote(value, safe='=-"')
    if "requestBody" in way:
        schema = way["requestBody"]["content"]["application/json"]["schema"]
        body = draw(fitting(DOCUMENT, schema, 0.3) | anything())
        if path in BEGIN and isinstance(body, dict):
            body["job"] = "no-such-job"
        found["json"] = body
    if path.endswith("/system"):
        found["headers"]["If-Match"] = '"never"'
    return {"url": where, **found}


@pytest.mark.parametrize("path, method, way", OPERATIONS, ids=[f"{method} {path}" for path, method, _ in OPERATIONS])
@given(data=st.data())
@settings(max_examples=15)
def test_whatever_is_sent(boss: httpx.Client, path: str, method: str, way: dict[str, Any], data: st.DataObject) -> None:
    """It is answered as described."""
    request = data.draw(requests(path, way))
    if path == REACH:
        request["json"] = {"backup": {"storage": {"type": "none"}}, "more": request["json"]}
    if path in BEGIN and not isinstance(request.get("json"), dict):
        request["json"] = [request.get("json")]  # nothing at all would mean: the application's own job
    if path in STREAMS:
        with boss.stream(method.upper(), **request) as answer:
            assert answer.status_code < 500
            return
    if "json" in request:  # as text: also what is no JSON but is often taken for it (Infinity)
        request["content"] = json.dumps(request.pop("json"))
        request["headers"]["content-type"] = "application/json"
    with contextlib.suppress(httpx.InvalidURL):  # the client's own word: such a request is not sent
        judged(path, way, boss.request(method.upper(), **request))


@pytest.mark.parametrize("path, method, way", OPERATIONS, ids=[f"{method} {path}" for path, method, _ in OPERATIONS])
def test_who_is_not_known(web_page: Page, path: str, method: str, way: dict[str, Any]) -> None:
    """Without a token, and with one that is nobody's, the answer is the one described."""
    nobody = web_page.browser()
    for headers in ({}, {"authorization": "Bearer nbt_" + "x" * 43}):
        answer = nobody.request(method.upper(), path.replace("{run}", "x"), headers=headers, params={"file": "x"})
        assert answer.status_code == 401
        judged(path, way, answer)


def test_what_is_done(web_site: Site, boss: httpx.Client) -> None:
    """The answers of what is done are as described as well: a run begun and stopped, settings saved and tried."""

    def ask(method: str, path: str, **more: Any) -> Any:
        answer = boss.request(method, path, **more)
        judged(path, DOCUMENT["paths"][path][method.lower()], answer)
        assert answer.is_success, answer.text
        return answer.json()

    begun = ask("POST", "/api/admin/backup/run-now", json={"job": "photos"})
    web_site.ended(begun["run"])
    web_site.hold("nanumpay_backupd.pipeline.proving:prove")
    try:
        begun = ask("POST", "/api/admin/backup/run-now", json={"job": "photos"})
        web_site.wait_held()
        assert ask("POST", "/api/admin/backup/cancel", json={"run": begun["run"]})["run"] == begun["run"]
    finally:
        web_site.release()
    assert web_site.ended(begun["run"])["outcome"] == "cancelled"
    known = ask("GET", "/api/admin/settings/system")
    ask("PUT", "/api/admin/settings/system", json={"backup": known["backup"]})
    place = {"type": "ftp", "ftp": {"host": "127.0.0.1", "port": 1, "username": "x"}}
    assert ask("POST", REACH, json={"backup": {"storage": place}})["checks"]
    assert ask("POST", "/api/admin/settings/preview", json={"backup": {"time": "03:00"}})["runs"]
