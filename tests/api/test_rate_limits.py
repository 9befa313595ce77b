"""Who asks too often waits, and nobody else does; who guesses keys is slow; what is remembered of either is bounded."""

import json
import math
import random
import time
from collections.abc import Iterator
from itertools import count

import pytest
from falcon.testing import create_asgi_req

from api.http.middleware.authentication import KEY_SECONDS
from api.http.middleware.rate_limits import Addresses, Buckets, FailedSignIns
from domain.values import Role
from tests.support.api_requests import problem
from tests.support.oidc_issuer import KEYS, Issuer, private_key
from tests.support.running_desk import Reply, RunningDesk, wait_until

RATE, QUOTA = 2, 20
FAILURES = 30
_numbers = count(1)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer whose keys are in a file."""
    with Issuer() as signing:
        yield signing


@pytest.fixture(scope="module")
def served(module_database: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """One process of the API, behind a proxy that it trusts, with limits that are soon reached."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "keys.json").write_text(json.dumps(issuer.document(KEYS)))
    desk = RunningDesk(module_database, directory, workers=1, parts=("api",))
    desk.environment |= issuer.environment | {
        "DESKLEDGER_OIDC_JWKS_FILE": str(directory / "keys.json"),
        "DESKLEDGER_RATE_LIMIT": str(RATE),
        "DESKLEDGER_FAILED_SIGN_INS": str(FAILURES),
        "DESKLEDGER_TRUSTED_PROXIES": "127.0.0.1",
    }
    with desk as running:
        yield running


@pytest.fixture
def address() -> str:
    """An address that nobody has come from yet."""
    return f"192.0.2.{next(_numbers)}"


def someone(served: RunningDesk) -> str:
    """A key that was never used."""
    return served.key(Role.AUDITOR, name=f"limited-{next(_numbers)}")


def spend(served: RunningDesk, key: str) -> tuple[int, Reply]:
    """Asks until it is too often: how many requests were answered, and the first that was not."""
    begun = time.monotonic()
    for answered in range(QUOTA * 10):
        reply = served.get("/v1/reports", key)
        if reply.status != 200:
            assert answered >= QUOTA
            assert answered <= QUOTA + (time.monotonic() - begun) * RATE + 1
            return answered, reply
    raise AssertionError("there is no limit")


# ── Requests of one principal ───────────────────────────────────────────────────────────────────────────────


def test_too_many_requests_are_429_until_later(served: RunningDesk) -> None:
    """A burst of ten seconds' requests is answered, then 429 with Retry-After; after it, a request is answered."""
    key = someone(served)
    _, reply = spend(served, key)
    problem(reply, 429, "rate_limited")
    seconds = int(reply.headers["Retry-After"])
    assert 1 <= seconds <= math.ceil(1 / RATE)
    wait_until(lambda: served.get("/v1/reports", key).status == 200, "the caller may go on")


def test_every_answer_says_what_is_left(served: RunningDesk) -> None:
    """draft-ietf-httpapi-ratelimit-headers-10: the policy, what is left of it, and when it is whole again."""
    key = someone(served)
    for left in (QUOTA - 1, QUOTA - 2):
        reply = served.get("/v1/reports", key)
        assert reply.headers["RateLimit-Policy"] == '"default";q=20;w=10'
        assert reply.headers["RateLimit"] == f'"default";r={left};t=1'
    assert served.get("/v1/nothing", key).headers["RateLimit"].startswith('"default";r=17;')
    _, reply = spend(served, someone(served))
    assert (reply.headers["RateLimit-Policy"], reply.headers["RateLimit"]) == (
        '"default";q=20;w=10',
        '"default";r=0;t=1',
    )


def test_a_request_too_many_does_nothing(served: RunningDesk) -> None:
    """It is refused before anything is read for it: also what would be another error is 429."""
    key = served.key(Role.INTAKE, name=f"limited-{next(_numbers)}")
    spend_all = [served.request("POST", "/v1/requests", b"{", key).status for _ in range(QUOTA + 15)]
    assert set(spend_all) == {400, 429}
    refused = served.request("POST", "/v1/requests", {"channel": "web", "text": "x", "sender": {}}, key)
    assert refused.status == 429
    assert served.get("/v1/events").json["items"] == []


def test_others_are_not_kept_waiting(served: RunningDesk) -> None:
    """Each principal has a limit of its own; who has no key has none to spend."""
    spend(served, someone(served))
    assert served.get("/v1/reports", someone(served)).status == 200
    assert served.request("GET", "/livez").status == 200


def test_a_person_has_one_limit_however_many_tokens(served: RunningDesk, issuer: Issuer) -> None:
    """What counts is whom a token stands for."""
    tokens = [issuer.token(jti=str(number)) for number in range(2)]
    spend(served, tokens[0])
    assert served.get("/v1/reports", tokens[1]).status == 429
    assert served.get("/v1/reports", issuer.token(sub="somebody-else")).status == 200


def test_buckets_give_what_they_promise() -> None:
    """In no span of time more than the burst and what has flowed in; over a long one not less than what has."""
    chance = random.Random(4)
    for _ in range(20):
        rate, burst = chance.uniform(0.5, 50), chance.randint(1, 40)
        buckets, now, taken = Buckets(rate, burst), 1000.0, [0.0] * 0
        for _ in range(400):
            now += chance.expovariate(rate * 2)
            if not (wait := buckets.wait("x", now)):
                left, full = buckets.take("x", now)
                taken.append(now)
                assert 0 <= left < burst
                assert abs(burst - left - full * rate) < 1 + 1e-6
            else:
                assert buckets.wait("x", now + wait + 1e-6) == 0
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                assert last - first + 1 <= burst + (taken[last] - taken[first]) * rate + 1e-3
        assert len(taken) >= min(400, (now - 1000) * rate) * 0.7


def test_buckets_remember_so_many_names() -> None:
    """The name that was away longest is forgotten, which gives it a full bucket: memory is bounded, not the service."""
    buckets = Buckets(1, 1, most=3)
    for name in "abcad":
        buckets.take(name, 100.0 if name != "a" else 90.0)
    assert [name for name in "abcd" if buckets.wait(name, 100.0)] == ["c", "d"]
    assert list(buckets._full_at) == ["c", "a", "d"]


# ── Failed sign-ins of one address ──────────────────────────────────────────────────────────────────────────


def sent(served: RunningDesk, secret: str | None, address: str) -> Reply:
    """A request by way of the proxy."""
    headers = {"X-Forwarded-For": address} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    return Reply(served.http.request("GET", f"{served.base}/v1/reports", headers=headers))


def guess(served: RunningDesk, address: str) -> Reply:
    """Guesses until it is too often; the first answer that is not 401."""
    for number in range(FAILURES * 2):
        reply = sent(served, f"dl_guess-{number}" if number % 2 else f"guess.{number}", address)
        if reply.status != 401:
            assert FAILURES <= number <= FAILURES + 5
            return reply
    raise AssertionError("there is no limit")


def test_who_guesses_keys_has_to_wait(served: RunningDesk, address: str) -> None:
    """After so many refused keys and tokens, an address is told to wait with what is refused next."""
    reply = guess(served, address)
    problem(reply, 429, "too_many_failures")
    assert 1 <= int(reply.headers["Retry-After"]) <= 2
    wait_until(lambda: sent(served, "dl_guess", address).status == 401, "a guess may come again")


def test_no_good_key_is_kept_out_by_bad_ones(served: RunningDesk, address: str) -> None:
    """However many keys were refused at an address, one that this process has never seen is let in there at once."""
    bad = {sent(served, f"dl_bad-{number}", address).status for number in range(320)}
    assert bad == {401, 429}
    for _ in range(5):
        problem(sent(served, "dl_bad", address), 429, "too_many_failures")
        assert sent(served, someone(served), address).status == 200


def test_who_is_let_in_is_not_kept_out_by_a_neighbour(served: RunningDesk, address: str) -> None:
    """Who came from that address with a good key before goes on; and no other address is concerned."""
    key = someone(served)
    assert sent(served, key, address).status == 200
    guess(served, address)
    forgotten = time.monotonic() + KEY_SECONDS  # from then on the key is looked up again
    waits = lambda: sent(served, "dl_guess", address).status == 429 and time.monotonic() > forgotten  # noqa: E731
    wait_until(waits, "the address has to wait")
    assert sent(served, key, address).status == 200
    assert sent(served, someone(served), f"{address}, 198.51.100.1").status == 200


def test_who_sends_no_key_guesses_nothing(served: RunningDesk, address: str) -> None:
    """A browser that looks by is told what to send, as often as it comes."""
    assert {sent(served, None, address).status for _ in range(FAILURES + 10)} == {401}
    assert sent(served, someone(served), address).status == 200


def test_failures_without_a_limit_are_not_counted() -> None:
    """0 turns it off."""
    failures = FailedSignIns(0)
    assert not any(failures.count("192.0.2.1") for _ in range(1_000))
    failures.demand_room("192.0.2.1")


def test_the_last_failure_is_told_once() -> None:
    """So that the log has one line when an address begins to wait, and not one for each guess."""
    failures = FailedSignIns(10)
    assert [failures.count("192.0.2.1") for _ in range(14)] == [False] * 9 + [True] + [False] * 4


PROXIES = "10.0.0.0/8, fd00::1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1", "10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "198.51.100.1, nonsense", "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", None, "10.1.1.1"),
        ("::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "198.51.100.1", "2001:db8:1:2::/64"),
        ("", None, "None"),
    ],
)
def test_a_proxy_is_believed_when_it_is_trusted(peer: str, forwarded: str | None, found: str) -> None:
    """The last address that no trusted proxy has; of IPv6 the network, whose addresses one machine takes at will."""
    req = create_asgi_req(headers={} if forwarded is None else {"X-Forwarded-For": forwarded})
    req.scope["client"] = (peer, 4711) if peer else None
    assert Addresses(PROXIES).of(req) == found


def test_nobody_is_believed_unless_a_setting_says_so() -> None:
    """Or everybody could choose the address to be counted by."""
    req = create_asgi_req(headers={"X-Forwarded-For": "198.51.100.1"})
    req.scope["client"] = ("192.0.2.7", 4711)
    assert Addresses(None).of(req) == "192.0.2.7"


def test_a_token_is_looked_at_wherever_it_comes_from(served: RunningDesk, issuer: Issuer, address: str) -> None:
    """Somebody with an old script does not lock out an office: a good token is taken there, a bad one has to wait."""
    guess(served, address)
    waits = lambda: sent(served, "dl_guess", address).status == 429  # noqa: E731
    wait_until(waits, "the address has to wait")
    assert sent(served, issuer.token(sub="colleague"), address).status == 200
    wait_until(waits, "the address has to wait")
    problem(sent(served, issuer.forged("RS256", private_key("RS256", 2)), address), 429, "too_many_failures")
