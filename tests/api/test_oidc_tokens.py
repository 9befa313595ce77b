"""Tokens of an issuer: which are taken and which never, whom they stand for, and what becomes of the issuer's keys."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric import ed448
from jwt import PyJWKClientError, PyJWTError

from api.http.middleware import issuer_keys as jwks
from api.http.middleware.issuer_keys import COOL_DOWN_SECONDS, MOST_DOCUMENT_BYTES, IssuerKeys
from application.settings import Settings, SettingsError
from domain.values import Role
from tests.support.api_requests import brought, client_key, give, problem, walk
from tests.support.oidc_issuer import DISCOVERY, KEYS, Issuer, jwk, private_key, without_signature
from tests.support.running_desk import Reply, RunningDesk, wait_until
from tests.support.write_side import beside

OWN, OTHER = private_key("RS256"), private_key("RS256", 2)
SPARE = private_key("EdDSA", 2)
WIDE = ed448.Ed448PrivateKey.generate()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer that answers."""
    with Issuer() as answering:
        answering.keys["spare"] = jwk("spare", "EdDSA", SPARE)
        answering.keys["wide"] = jwk("wide", "EdDSA", WIDE)
        yield answering


@pytest.fixture(scope="module")
def served(module_database: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk that trusts the issuer; one process, so that fetches can be counted."""
    desk = RunningDesk(module_database, tmp_path_factory.mktemp("served"), workers=1)
    desk.environment |= issuer.environment | {"DESKLEDGER_FAILED_SIGN_INS": "0"}
    with desk as running:
        yield running


def read(served: RunningDesk, token: str) -> Reply:
    """A query that an auditor may make."""
    return served.get("/v1/queues", token)


def refused(reply: Reply) -> str:
    """What is said of a token that is not accepted."""
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="deskledger", error="invalid_token"'
    return str(problem(reply, 401, "token_invalid")["detail"])


# ── Which tokens are taken ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "Ed25519"])
def test_a_token_of_the_issuer_is_taken(served: RunningDesk, issuer: Issuer, algorithm: str) -> None:
    """Signed by any of its keys, with an algorithm that the settings allow, for this audience among others."""
    assert read(served, issuer.token(algorithm)).status == 200
    assert read(served, issuer.token(algorithm, aud=["other", "desk"])).status == 200


def past(seconds: int) -> int:
    """A moment so many seconds ago."""
    return int(time.time()) - seconds


BAD: dict[str, tuple[Callable[[Issuer], str], str]] = {
    # what is wrong with a token: how to make one, and a word of what is said
    "alg none": (lambda i: i.forged("none", None), "algorithm"),
    "alg none, without the last dot": (lambda i: i.forged("none", None)[:-1], "read"),
    "alg in small letters": (lambda i: i.forged("RS256", OWN, alg="rs256"), "algorithm"),
    "alg a list": (lambda i: i.forged("RS256", OWN, alg=["RS256"]), "algorithm"),
    "no alg": (lambda i: i.forged("RS256", OWN, alg=None), "algorithm"),
    "HS256 with the public key": (lambda i: i.forged("HS256", i.public_pem()), "algorithm"),
    "HS256 with the public key, said to be RS256": (lambda i: i.forged("HS256", i.public_pem(), alg="RS256"), "wrong"),
    "an algorithm that is not allowed": (lambda i: i.forged("PS256", OWN), "algorithm"),
    "another's signature": (lambda i: i.forged("RS256", OTHER), "signature"),
    "a signature over something else": (
        lambda i: ".".join((*i.token(a=1).split(".")[:2], i.token().split(".")[2])),
        "",
    ),
    "a key for another algorithm": (lambda i: i.token("ES256", {"kid": "RS256"}), "no such key"),
    "Ed25519 with a key of another curve": (lambda i: i.forged("Ed25519", WIDE, kid="wide"), "no such key"),
    "Ed25519 with a key for another algorithm": (lambda i: i.token("Ed25519", {"kid": "ES256"}), "no such key"),
    "Ed25519 with another's key": (lambda i: i.forged("Ed25519", SPARE, kid="Ed25519"), "signature"),
    "an unknown kid": (lambda i: i.token(headers={"kid": "unheard-of"}), "no such key"),
    "no kid, among several keys": (lambda i: i.forged("RS256", OWN, kid=None), "read"),
    "kid a number": (lambda i: i.forged("RS256", OWN, kid=7), "read"),
    "another audience": (lambda i: i.token(aud="mail"), "audience"),
    "another issuer": (lambda i: i.token(iss=i.url + "/"), "issuer"),
    "expired": (lambda i: i.token(exp=past(60)), "expired"),
    "not yet valid": (lambda i: i.token(nbf=past(-60)), "not valid yet"),
    "issued in the future": (lambda i: i.token(iat=past(-60)), "not valid yet"),
    "no iss": (lambda i: i.token(iss=None), "iss"),
    "no aud": (lambda i: i.token(aud=None), "aud"),
    "no exp": (lambda i: i.token(exp=None), "exp"),
    "no sub": (lambda i: i.token(sub=None), "sub"),
    "sub a number": (lambda i: i.forged("RS256", OWN, {"sub": 7}), "read"),
    "sub blank": (lambda i: i.token(sub=" "), "sub"),
    "sub of two lines": (lambda i: i.token(sub="a\nb"), "sub"),
    "sub with half a character": (lambda i: i.token(sub="\ud800"), "sub"),
    "sub too long": (lambda i: i.token(sub="a" * 256), "sub"),
    "exp infinite": (lambda i: i.forged("RS256", OWN, {"exp": float("inf")}), "read"),
    "exp a word": (lambda i: i.forged("RS256", OWN, {"exp": "soon"}), "read"),
    "aud an object": (lambda i: i.forged("RS256", OWN, {"aud": {"desk": 1}}), "audience"),
    "a key of its own": (lambda i: i.forged("RS256", OTHER, jwk=jwk("RS256", "RS256", OTHER)), "of its own"),
    "a key elsewhere": (lambda i: i.forged("RS256", OTHER, jku=i.url + "/own"), "of its own"),
    "a certificate elsewhere": (lambda i: i.forged("RS256", OTHER, x5u=i.url + "/own"), "of its own"),
    "a certificate": (lambda i: i.forged("RS256", OTHER, x5c=["MIIB"]), "of its own"),
    "a good signature, and a key elsewhere": (lambda i: i.token(headers={"jku": i.url + "/own"}), "of its own"),
    "for signing out": (lambda i: i.token(headers={"typ": "logout+jwt"}), "type"),
    "a critical extension": (lambda i: i.forged("RS256", OWN, crit=["x"], x=1), "read"),
    "a payload apart": (lambda i: i.forged("RS256", OWN, b64=False, crit=["b64"]), "read"),
    "oversized": (lambda i: i.token(more="x" * 5_500), "characters"),
    "nested": (lambda i: without_signature([b"[" * 5_000, {}, b"x"]), "read"),
    "a nested payload": (lambda i: without_signature([{"alg": "RS256", "kid": "RS256"}, b"[" * 5_000, b"x"]), "wrong"),
    "a header that is a list": (lambda i: without_signature([[], {}, b"x"]), "read"),
    "not UTF-8": (lambda i: without_signature([b"\xff\xfe", b"\xff", b"\xff"]), "read"),
    "not base64": (lambda i: "!!.!!.!!", "read"),
    "dots": (lambda i: "." * 3_000, "read"),
    "encrypted": (lambda i: without_signature([{"alg": "RSA-OAEP", "enc": "A256GCM"}, b"a", b"b", b"c", b"d"]), ""),
    "a word": (lambda i: "nonsense", "read"),
    "not ASCII": (lambda i: "\xe9.\xe9.\xe9", "read"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_token_is_401(served: RunningDesk, issuer: Issuer, wrong: str) -> None:
    """With a challenge that says so (RFC 6750), and a word of why; nothing of the token comes back."""
    make, says = BAD[wrong]
    token = make(issuer)
    reply = read(served, token)
    assert says in refused(reply)
    assert token[:40].encode() not in reply.data


def test_no_address_in_a_token_is_ever_asked(served: RunningDesk, issuer: Issuer) -> None:
    """What a token names beside its issuer is not fetched, whoever signed it."""
    for name in ("jku", "x5u"):
        refused(read(served, issuer.forged("RS256", OTHER, kid="elsewhere", **{name: issuer.url + "/own"})))
    assert set(issuer.asked) == {"/realm" + DISCOVERY, "/realm" + KEYS}


def test_an_expired_token_is_taken_for_seconds_only(served: RunningDesk, issuer: Issuer) -> None:
    """Clocks differ by some seconds: a token that has just expired is taken, and not remembered."""
    token = issuer.token(exp=past(8))
    assert read(served, token).status == 200
    wait_until(lambda: read(served, token).status == 401, "the token has expired")


def test_a_remembered_token_ends_with_its_time(served: RunningDesk, issuer: Issuer) -> None:
    """A token is checked again when its time is over, at the latest, and is refused then."""
    token = issuer.token(exp=past(7))
    statuses = []

    def ended() -> bool:
        statuses.append(read(served, token).status)
        return statuses[-1] == 401

    wait_until(ended, "the token has ended")
    assert set(statuses) == {200, 401}


# ── Whom a token stands for ─────────────────────────────────────────────────────────────────────────────────


def test_the_history_shows_whom_the_token_names(served: RunningDesk, issuer: Issuer) -> None:
    """The actor's id is `oidc:` and the subject, the name is the claim's: no key can have such an id."""
    ticket = served.ticket()
    token = issuer.token(sub="248289761001", name="Night Shift", roles=["agent"], levels=["tier1"])
    assert give(served, ticket, "resolve", token).status == 200
    actor = served.get(f"/v1/tickets/{ticket}/history").json["items"][-1]["actor"]
    assert actor == {"id": "oidc:248289761001", "name": "Night Shift", "role": "agent"}
    named = served.key(Role.QUALITY, name="oidc:248289761001")
    assert give(served, ticket, "verify", named).status == 200
    assert served.get(f"/v1/tickets/{ticket}/history").json["items"][-1]["actor"]["id"].startswith("oidc-248289761001-")


def test_a_token_acts_at_its_levels_only(served: RunningDesk, issuer: Issuer) -> None:
    """An agent's levels come from the token, as those of a key do."""
    ticket = served.ticket()
    assert (
        "tier1"
        in problem(
            give(served, ticket, "resolve", issuer.token(roles=["agent"], levels=["tier2"])), 403, "role_missing"
        )["detail"]
    )


def test_a_client_with_a_token_sees_what_a_client_with_a_key_sees(served: RunningDesk, issuer: Issuer) -> None:
    """The own tickets, and nothing of others."""
    own, other = brought(served, "tier1", "c-own"), brought(served, "tier1", "c-other")
    served.caught_up()
    token, key = issuer.token(roles=["client"], client_user_id="c-own"), client_key(served, "c-own")
    for path in ("", "/history"):
        assert served.get(f"/v1/tickets/{own}{path}", token).data == served.get(f"/v1/tickets/{own}{path}", key).data
        problem(served.get(f"/v1/tickets/{other}{path}", token), 404, "unknown_ticket")
    assert [row["ticket_id"] for row in walk(served, "/v1/tickets", key=token)] == [own]


@pytest.mark.parametrize(
    "claims",
    [{"roles": None}, {"roles": []}, {"roles": ["boss", "system"]}, {"roles": {"admin": 1}}, {"roles": ["client"]}],
    ids=str,
)
def test_a_token_without_a_role_that_we_know_may_nothing(
    served: RunningDesk, issuer: Issuer, claims: dict[str, object]
) -> None:
    """403 for whatever it tries; a client's role without a client is none."""
    token = issuer.token(**claims)
    ticket = brought(served, "tier1")
    for method, path, body in (
        ("GET", "/v1/tickets", None),
        ("GET", f"/v1/tickets/{ticket}", None),
        ("POST", f"/v1/tickets/{ticket}:add_note", {"text": "x"}),
        ("GET", "/v1/reports", None),
        ("GET", "/v1/nothing", None),
    ):
        problem(served.request(method, path, body, token), 403, "role_missing")


def test_idempotency_keys_of_a_token_are_the_persons_own(served: RunningDesk, issuer: Issuer) -> None:
    """Another token of the same person repeats a request; another person under the same key does another one."""
    ticket, once = brought(served, "tier1"), {"Idempotency-Key": "note-1"}

    def note(sub: str, now: int) -> Reply:
        token = issuer.token(sub=sub, roles=["intake"], jti=str(now))
        return served.request("POST", f"/v1/tickets/{ticket}:add_note", {"text": "x"}, token, once)

    first, again, other = note("one", 1), note("one", 2), note("two", 3)
    assert (again.data, again.headers["Idempotency-Replayed"]) == (first.data, "true")
    assert other.json["version"] == first.json["version"] + 1


# ── The issuer's keys ───────────────────────────────────────────────────────────────────────────────────────


def test_unknown_kids_cause_one_fetch_in_a_while(served: RunningDesk, issuer: Issuer) -> None:
    """Whoever sends tokens with random kids makes the desk ask the issuer once in a cool-down, and not more."""
    begun, before = time.monotonic(), issuer.fetches
    for number in range(60):
        refused(read(served, issuer.token(headers={"kid": f"random-{number}"})))
    assert issuer.fetches - before <= 1 + (time.monotonic() - begun) / COOL_DOWN_SECONDS


def test_a_new_key_is_found_and_a_withdrawn_one_ends(served: RunningDesk, issuer: Issuer) -> None:
    """A token under a key that was published just now is taken within the cool-down; one under a withdrawn key not."""
    under_spare = issuer.forged("EdDSA", SPARE, kid="spare")  # the same one again: what was let in is remembered
    assert read(served, under_spare).status == 200
    del issuer.keys["spare"]  # first: who fetches in between must not be shown both
    issuer.keys["next"] = jwk("next", "RS256", OTHER)
    wait_until(lambda: read(served, issuer.forged("RS256", OTHER, kid="next")).status == 200, "the new key")
    assert "no such key" in refused(read(served, under_spare))


def test_keys_are_kept_while_the_issuer_is_down(served: RunningDesk, issuer: Issuer) -> None:
    """It answers with errors: tokens under known keys are taken all the same, also new ones."""
    before, issuer.status = len(issuer.asked), 503
    try:
        wait_until(lambda: asks_in_vain(served, issuer) and len(issuer.asked) > before, "the issuer was asked")
        assert read(served, issuer.token(jti="new")).status == 200
    finally:
        issuer.status = 200


def test_nobody_waits_for_an_issuer_that_hangs(served: RunningDesk, issuer: Issuer) -> None:
    """Its keys are fetched beside the event loop: who brings a token under a known key is answered meanwhile."""
    before = len(issuer.asked)
    issuer.held.clear()
    try:
        ask = lambda: wait_until(lambda: asks_in_vain(served, issuer) and len(issuer.asked) > before, "")  # noqa: E731
        with beside(ask) as asking:
            wait_until(lambda: len(issuer.asked) > before, "the issuer was asked")
            assert {read(served, issuer.token(jti=str(number))).status for number in range(20)} == {200}
            assert not asking[0].done()  # who brings an unknown key waits still
            issuer.held.set()
    finally:
        issuer.held.set()


def asks_in_vain(served: RunningDesk, issuer: Issuer) -> bool:
    """Sends a token under a key that the issuer does not have."""
    return bool(refused(read(served, issuer.token(headers={"kid": "unheard-of"}))))


def test_without_keys_no_token_can_be_checked(database: str, tmp_path: Path) -> None:
    """The issuer was never reached: 503 with Retry-After, keys of the desk work; when it answers, tokens work."""
    with Issuer() as issuer:
        issuer.status = 500
        desk = RunningDesk(database, tmp_path, workers=1, parts=("api",))
        desk.environment |= issuer.environment
        with desk:
            reply = read(desk, issuer.token())
            assert (problem(reply, 503, "issuer_unavailable"), reply.headers["Retry-After"]) == (reply.json, "5")
            assert desk.get("/v1/queues").status == 200
            issuer.status = 200
            wait_until(lambda: read(desk, issuer.token()).status == 200, "the keys are there")


def issuer_keys(issuer: Issuer, url: str | None = None) -> IssuerKeys:
    """The keys of an issuer, as the settings name them; nothing is fetched yet."""
    return IssuerKeys(Settings(oidc_issuer=issuer.url, oidc_audience="desk", oidc_jwks_url=url))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"issuer": "https://id.example.org"}, "speaks for another issuer"),
        ({"jwks_uri": "http://id.example.org/keys"}, "a URL like https://"),
        ({"jwks_uri": "file:///etc/passwd"}, "a URL like https://"),
        ({"keys": []}, "did not contain any keys"),
        ({"keys": "x"}, "Expected `array`"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "RS256"}]}, "did not contain any usable keys"),
        ({"keys": [jwk("x", "RS256", OWN) | {"use": "enc"}]}, "did not contain any keys"),
        ({"keys": [jwk("x", "RS256", OWN) | {"d": "AQAB"}]}, "did not contain any keys"),
        ({"keys": [jwk("x", "RS256", OWN) | {"alg": "RS512"}]}, "did not contain any keys"),
        ({"keys": ["x" * MOST_DOCUMENT_BYTES]}, f"more than {MOST_DOCUMENT_BYTES} bytes"),
    ],
)
def test_what_an_issuer_publishes_is_looked_at(issuer: Issuer, more: dict[str, object], says: str) -> None:
    """Another issuer's document, another scheme, secrets among the keys, too much of it: the keys of before stay."""
    issuer.more = more
    try:
        with pytest.raises((ValueError, PyJWTError), match=says):
            issuer_keys(issuer).load()
    finally:
        issuer.more = {}


def test_an_issuer_sends_nobody_elsewhere(issuer: Issuer) -> None:
    """A redirect is not followed."""
    issuer.status = 302
    try:
        with pytest.raises(PyJWKClientError, match="answers 302"):
            issuer_keys(issuer, issuer.url + KEYS).load()
    finally:
        issuer.status = 200


def test_an_issuer_that_is_slow_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds, whatever it has sent by then."""
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.05)
    issuer.held.clear()
    try:
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            issuer_keys(issuer, issuer.url + KEYS).load()
    finally:
        issuer.held.set()


def test_keys_from_a_file_need_no_issuer_that_answers(database: str, tmp_path: Path) -> None:
    """Nobody is asked; a key that is added to the file is found, as is one under a name that was unknown."""
    with Issuer() as issuer:
        file = tmp_path / "keys.json"
        file.write_text(json.dumps(issuer.document(KEYS)))
        desk = RunningDesk(database, tmp_path, workers=1, parts=("api",))
        desk.environment |= issuer.environment | {"DESKLEDGER_OIDC_JWKS_FILE": str(file)}
        with desk:
            assert read(desk, issuer.token()).status == 200
            issuer.keys["next"] = jwk("next", "RS256", OTHER)
            file.write_text(json.dumps(issuer.document(KEYS)))
            wait_until(lambda: read(desk, issuer.forged("RS256", OTHER, kid="next")).status == 200, "the new key")
            assert issuer.asked == []


@pytest.mark.parametrize("content", [None, "", "{}", '{"keys": [1]}', "[" * 5_000], ids=str)
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None) -> None:
    """With one line that names the variable and what it takes."""
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"^DESKLEDGER_OIDC_JWKS_FILE=.* takes the path of a file with a JSON"):
        IssuerKeys(Settings(oidc_issuer="https://id.example.org", oidc_audience="desk", oidc_jwks_file=file))


def test_keys_are_fetched_although_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few minutes, whoever comes meanwhile: a key that was withdrawn in a long pause is taken for no request."""
    monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "COOL_DOWN_SECONDS", 0.0)
    file = tmp_path / "keys.json"

    def publish(kid: str) -> None:
        file.with_suffix(".new").write_text(json.dumps({"keys": [jwk(kid, "EdDSA", SPARE)]}))
        file.with_suffix(".new").replace(file)

    async def meet() -> None:
        publish("old")
        keys = IssuerKeys(Settings(oidc_issuer="https://id.example.org", oidc_audience="desk", oidc_jwks_file=file))
        fetching = asyncio.create_task(keys.keep_fresh())
        assert await keys.find("old", "EdDSA")
        publish("new")
        async with asyncio.timeout(30):
            while keys.knows("old"):
                await asyncio.sleep(0.01)
        with pytest.raises(PyJWKClientError):
            await keys.find("old", "EdDSA")
        fetching.cancel()

    asyncio.run(meet())


def test_a_token_without_a_kid_is_under_the_only_key(issuer: Issuer) -> None:
    """Where several keys could be meant, none is; an algorithm that a key is not for finds none, either."""

    async def meet() -> None:
        keys = issuer_keys(issuer)
        keys.load()
        assert (await keys.find(None, "ES256")).key_id == "ES256"
        issuer.keys["second"] = jwk("second", "ES256", private_key("ES256", 2))
        keys.load()
        for kid, algorithm in ((None, "ES256"), ("second", "RS256")):
            with pytest.raises(PyJWKClientError, match="no such key"):
                await keys.find(kid, algorithm)

    try:
        asyncio.run(meet())
    finally:
        del issuer.keys["second"]


def test_who_hangs_up_takes_no_fetch_from_others(issuer: Issuer) -> None:
    """Several wait for one fetch; it goes on when the one who caused it is gone."""

    async def meet() -> None:
        keys = issuer_keys(issuer)
        first = asyncio.create_task(keys.find("RS256", "RS256"))
        while len(issuer.asked) == before:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(keys.find("RS256", "RS256")) for _ in range(3)]
        first.cancel()
        await asyncio.wait((first,))
        issuer.held.set()
        assert {key.key_id for key in await asyncio.gather(*others)} == {"RS256"}
        assert len(issuer.asked) == before + 2  # what the issuer publishes, and its keys

    before = len(issuer.asked)
    issuer.held.clear()
    try:
        asyncio.run(meet())
    finally:
        issuer.held.set()


def test_an_end_beyond_all_time_is_no_token(served: RunningDesk, issuer: Issuer) -> None:
    """Only an issuer could sign it, and it is refused all the same."""
    refused(read(served, issuer.token(exp=int("9" * 310))))
