"""The manners of every answer: OPTIONS, HEAD, Accept, other origins, and what a browser may do with it."""

from collections.abc import Iterator

import pytest

from api.openapi.operations import ENDPOINTS
from tests.support.running_desk import Reply, RunningDesk

PAGE = "https://desk.example.org"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@pytest.fixture(scope="module")
def desk(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk that lets the pages of one other origin use it."""
    served = RunningDesk(module_database, tmp_path_factory.mktemp("manners"), workers=1)
    served.environment["DESKLEDGER_CORS_ORIGINS"] = PAGE
    with served:
        yield served


def ask(desk: RunningDesk, method: str, path: str, **headers: str) -> Reply:
    """A request without a key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(desk.http.request(method, desk.base + path, headers=named))


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/requests", "OPTIONS, POST"),
        ("/v1/tickets", "GET, HEAD, OPTIONS, POST"),
        ("/v1/tickets/019ab000-7c00-7000-8000-00000000002a:escalate", "OPTIONS, POST"),
        ("/v1/clients/client-1", "GET, HEAD, OPTIONS, PUT"),
        ("/v1/webhooks/019ab000-7c00-7000-8000-00000000002a:ping", "OPTIONS, POST"),
        ("/v1/webhooks/019ab000-7c00-7000-8000-00000000002a/deliveries", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_says_what_an_address_takes(desk: RunningDesk, path: str, methods: str) -> None:
    """OPTIONS answers 204 with Allow, without a key; any other method is 405 with the same Allow."""
    reply = ask(desk, "OPTIONS", path)
    assert (reply.status, reply.data, reply.headers["Allow"]) == (204, b"", methods)
    refused = desk.request("TRACE" if path == "/docs" else "DELETE", path)
    assert (refused.status, set(refused.headers["Allow"].replace(" ", "").split(","))) == (
        405,
        set(methods.split(", ")),
    )


def test_options_of_nothing_is_404(desk: RunningDesk) -> None:
    """An address that is none takes no method."""
    reply = ask(desk, "OPTIONS", "/v1/nothing")
    assert (reply.status, reply.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/queues", "/v1/nothing", "/livez", "/metrics", "/v1/events?limit=0"])
def test_every_answer_is_safe_in_a_browser(desk: RunningDesk, path: str) -> None:
    """Answers and errors alike are not kept, not sniffed, not framed, and load nothing."""
    headers = desk.get(path).headers
    assert {name: headers[name] for name in SAFE} == SAFE
    assert {name: ask(desk, "GET", path).headers[name] for name in SAFE} == SAFE  # without a key, too


GETS = [
    endpoint.path.format(queue="tier1", user_id="client-1", metric="backlog")
    for endpoint in ENDPOINTS
    if endpoint.method == "GET" and "_id}" not in endpoint.path.replace("user_id}", "")
]


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(desk: RunningDesk, path: str) -> None:
    """Whatever answers GET answers HEAD, with the same status and headers, and without a body."""
    desk.client()
    got, head = desk.get(path), desk.request("HEAD", path)
    assert (head.status, head.data) == (got.status, b"")
    changing = {"date", "x-request-id", "content-length"}
    assert {name.lower() for name in head.headers} - changing == {name.lower() for name in got.headers} - changing


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/v1/queues", "text/html", 406),
        ("/v1/queues", "nonsense", 406),
        ("/v1/queues", "application/json;q=0, */*", 406),
        ("/v1/queues", "application/*", 200),
        ("/v1/queues", "text/html, */*;q=0.1", 200),
        ("/v1/queues", "application/json; charset=utf-8", 200),
        ("/docs", "application/json", 406),
        ("/docs", "text/html,application/xhtml+xml", 200),
        ("/metrics", "text/plain", 200),
        ("/openapi.json", "application/yaml", 406),
        ("/v1/events", "text/csv", 406),
        ("/v1/events?limit=1", "application/x-ndjson", 200),
    ],
)
def test_an_accept_that_nothing_fits_is_406(desk: RunningDesk, path: str, accept: str, status: int) -> None:
    """Who names only what there is not is told what there is; everybody else gets it."""
    reply = desk.request("GET", path, headers={"Accept": accept})
    assert reply.status == status
    assert status == 200 or reply.json["code"] == "not_acceptable"


def test_a_command_that_could_not_be_answered_is_not_done(desk: RunningDesk) -> None:
    """406 comes before anything is recorded."""
    desk.caught_up()  # with what other tests have recorded
    before = desk.get("/v1/events").headers["Deskledger-Position"]
    reply = desk.request(
        "POST", "/v1/requests", {"channel": "web", "text": "x", "sender": {}}, headers={"Accept": "a/b"}
    )
    desk.caught_up()
    assert (reply.status, desk.get("/v1/events").headers["Deskledger-Position"]) == (406, before)


def test_a_page_of_a_named_origin_may_use_the_api(desk: RunningDesk) -> None:
    """A preflight needs no key; answers and errors say that the page may read them, and which headers of theirs."""
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization, if-match"}
    preflight = ask(desk, "OPTIONS", "/v1/requests", Origin=PAGE, **asked)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization, if-match"
    for reply in (
        ask(desk, "GET", "/v1/queues", Origin=PAGE),
        desk.request("GET", "/v1/queues", headers={"Origin": PAGE}),
    ):
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE
        assert {"ETag", "Location", "Link", "Retry-After", "RateLimit", "Deskledger-Position"} <= set(
            reply.headers["Access-Control-Expose-Headers"].split(", ")
        )
        assert "Origin" in reply.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in reply.headers


def test_a_page_of_another_origin_may_not(desk: RunningDesk) -> None:
    """Whoever is not in the setting gets no leave, and a shared cache keeps both answers apart."""
    asked = {"Access_Control_Request_Method": "GET"}
    for reply in (
        ask(desk, "GET", "/livez", Origin="https://evil.example"),
        ask(desk, "OPTIONS", "/livez", Origin="null", **asked),
    ):
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
        assert "Origin" in reply.headers["Vary"]


def test_without_the_setting_no_page_may(shared_desk: RunningDesk) -> None:
    """Off is the default."""
    reply = ask(shared_desk, "GET", "/livez", Origin=PAGE)
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]
