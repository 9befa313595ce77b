"""Texts over HTTP: kept in one form, found in any, and shown so that nothing can be forged with them."""

import hashlib
import json
from typing import Any
from unicodedata import normalize
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from application.clock import utc_now
from application.identity.api_keys import hash_of
from application.store.event_store import to_row
from application.store.postgres.database import connect
from domain.events import Recorded, RequestReceived
from domain.values import Actor, Channel, Role
from tests.support.running_desk import RunningDesk
from tests.support.write_side import append

NFC = "Café Zoë Ångström"
NFD = normalize("NFD", NFC)
FORGED = "Yes.\n7. 2026-11-02T09:00:00.000000Z quality control (quality): Note (client): Client agrees to pay"


def test_a_text_is_kept_in_one_form_however_it_was_sent(shared_desk: RunningDesk) -> None:
    """F3: in the ticket, in its history and in the directory a decomposed text is composed."""
    entry = {"name": NFD, "email": "zoe@example.org", "organisation": NFD}
    assert shared_desk.request("PUT", "/v1/clients/zoe", entry).json["name"] == NFC
    again = shared_desk.request("PUT", "/v1/clients/zoe", entry | {"name": NFC})
    assert (again.status, again.json["version"]) == (200, 1)  # it says so already
    issue = {"summary": NFD, "description": NFD, "category": NFD, "impact": "low", "urgency": "low"}
    body = {"client_user_id": "zoe", "channel": "web", "text": NFD, "issue": issue}
    ticket = shared_desk.request("POST", "/v1/tickets", body).json["ticket_id"]
    assert shared_desk.do(ticket, "add_note", text=NFD).status == 200
    told = json.dumps(
        [shared_desk.get(f"/v1/tickets/{ticket}{part}").json for part in ("", "/history")], ensure_ascii=False
    )
    assert NFC in told
    assert NFD not in told


def test_what_was_sent_is_what_a_repetition_is_held_against(shared_desk: RunningDesk) -> None:
    """F3: under an idempotency key the bytes count: the same get the first answer, others are another request."""
    ticket, key = shared_desk.ticket(), {"Idempotency-Key": str(uuid4()), "If-Match": "*"}
    sent = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in (NFD, NFD, NFC)]
    first, again, other = (
        shared_desk.request("POST", f"/v1/tickets/{ticket}:add_note", one, headers=key) for one in sent
    )
    assert (first.status, again.data, again.headers["Idempotency-Replayed"]) == (200, first.data, "true")
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


def test_a_request_that_was_done_keeps_its_answer_when_texts_are_taken_more_strictly(shared_desk: RunningDesk) -> None:
    """A text of before, which would be refused now: sent again under its key, it has its first answer; under another
    key it is refused."""
    ticket, key = shared_desk.ticket(), str(uuid4())
    path, body = f"/v1/tickets/{ticket}:await_client", b'{"reason": "\\u200b"}'
    answer = b'{"ticket_id":"%s","version":6}' % ticket.encode()
    digest = hashlib.sha256(f"POST {path}\n".encode() + body).digest()
    (who,) = {each["actor"]["id"] for each in shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"]}
    with connect(shared_desk.database, "test") as connection:
        kept = "insert into idempotency (principal, key, request_hash, answer, at) values (%s, %s, %s, %s, now())"
        connection.execute(kept, (who, key, digest, answer))
    again = shared_desk.request("POST", path, body, headers={"If-Match": "*", "Idempotency-Key": key})
    assert (again.status, again.data, again.headers["Idempotency-Replayed"]) == (200, answer, "true")
    for headers in ({"If-Match": "*"}, {"If-Match": "*", "Idempotency-Key": str(uuid4())}):
        refused = shared_desk.request("POST", path, body, headers=headers)
        assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/reason")


@pytest.mark.parametrize(("owner", "status"), [("client-1", 200), ("somebody-else", 422)])
def test_a_client_keeps_the_answer_on_an_own_ticket_alone(shared_desk: RunningDesk, owner: str, status: int) -> None:
    """Whoever may not read the ticket any more is not answered from what was kept."""
    ticket, key = shared_desk.ticket(), str(uuid4())
    path, body = f"/v1/tickets/{ticket}:cancel", b'{"reason": "\\u200b"}'
    digest = hashlib.sha256(f"POST {path}\n".encode() + body).digest()
    client = shared_desk.key(Role.CLIENT, client=owner)
    with connect(shared_desk.database, "test") as connection:
        (who,) = connection.execute("select id from api_keys where hash = %s", (hash_of(client),)).fetchone()
        kept = "insert into idempotency (principal, key, request_hash, answer, at) values (%s, %s, %s, %s, now())"
        connection.execute(kept, (who, key, digest, b'{"ticket_id":"%s","version":6}' % ticket.encode()))
    headers = {"If-Match": "*", "Idempotency-Key": key}
    assert shared_desk.request("POST", path, body, client, headers).status == status


def found(desk: RunningDesk, words: str) -> set[str]:
    """The tickets that a search finds."""
    return {row["ticket_id"] for row in desk.get(f"/v1/tickets?limit=200&q={quote(words)}").json["items"]}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_search_finds_a_word_in_any_form_and_case(shared_desk: RunningDesk, form: Any) -> None:
    """F3: composed or decomposed, in capitals or not; also in what an earlier version has stored as it came."""
    word = f"Crème{uuid4().hex[:8]}Straße"
    received = RequestReceived(Channel.WEB, normalize(form, f"the {word} is out"))
    old = UUID(int=uuid4().int)
    with connect(shared_desk.database, "test") as connection:
        append(connection, [to_row(Recorded(old, 1, utc_now(), Actor("old", "Old", Role.INTAKE), received))])
    body = {"channel": "web", "text": normalize(form, f"{word} again"), "sender": {}}
    new = shared_desk.request("POST", "/v1/requests", body).json["ticket_id"]
    shared_desk.caught_up()
    for asked in (
        word,
        word.upper(),
        word.lower(),
        word.casefold(),
        normalize("NFD", word),
        normalize("NFD", word.upper()),
    ):
        assert found(shared_desk, asked) == {str(old), new}, asked
    assert found(shared_desk, f'"the {word}"') == {str(old)}
    assert found(shared_desk, f"{word.upper()} -again") == {str(old)}
    assert found(shared_desk, word.replace("è", "e")) == set()


def digest(value: Any) -> str:
    """The recipe of events.md: the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_client_can_compute_the_hash_of_a_dossier_and_no_note_adds_to_it(shared_desk: RunningDesk) -> None:
    """F2: a note that looks like an event stays one entry. The hash follows from the answer by the recipe of the
    reference, and each entry's from the history as an auditor sees it."""
    ticket = shared_desk.ticket()
    forge = {"visibility": "client", "text": FORGED + '\u202e\x1b[2J "\\/ é \x7f\u2028'}
    for command, body in [
        ("add_note", forge),
        *[("escalate", {"reason": "too hard\r\nfor us"}), ("qualify", {"can_resolve": False, "rationale": "no"})] * 3,
        ("escalate", {"reason": "up"}),
        ("compile_dossier", {"summary": "all of it"}),
    ]:
        assert shared_desk.do(ticket, command, **body).status == 200, command
    client = shared_desk.key(Role.CLIENT, client="client-1")
    history = shared_desk.get(f"/v1/tickets/{ticket}/history").json["items"]
    for items in (history, shared_desk.get(f"/v1/tickets/{ticket}/history", client).json["items"]):
        dossier = items[-1]["data"]
        assert len(dossier["entries"]) == dossier["through_version"] == history[-1]["version"] - 1
        assert dossier["sha256"] == digest(dossier["entries"])
        assert dossier["lines"] == []
    members = ("actor", "at", "causation_id", "correlation_id", "data", "ticket_id", "type", "version")
    for entry, event in zip(dossier["entries"], history[:-1], strict=True):
        assert entry["sha256"] in (None, digest({name: event[name] for name in members}))
        assert (entry["version"], entry["role"]) == (event["version"], event["actor"]["role"])
        if event["type"] == "Ticket.NoteAdded":
            assert (entry["words"], entry["sha256"] is None) == (event["words"], False)
    for event in history:
        assert len(event["words"].splitlines()) == 1
        assert not set("\x1b\u202e\x7f") & set(event["words"])
    (noted,) = [event for event in history if event["type"] == "Ticket.NoteAdded"]
    assert noted["data"]["text"] == forge["text"]  # the record keeps what was written
    approval = {"dossier_sha256": dossier["sha256"], "confirmed_via": "email"}
    assert shared_desk.do(ticket, "approve", client, **approval).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/requests", rb'{"channel": "web", "text": "\ud800", "sender": {}}', 400),
        ("/v1/requests", rb'{"channel": "web", "text": "a\udfff\ud800", "sender": {}}', 400),
        ("/v1/requests", b'{"channel": "web", "text": "\xed\xa0\x80", "sender": {}}', 400),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x", "description": "\u200b\u3164"}, 422),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x", "description": "a\u202eb"}, 422),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x", "actor": "\u2800"}, 422),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x\n"}, 422),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x", "types": ["Ticket.Closed\n"]}, 422),
        ("/v1/webhooks", {"url": "https://127.0.0.1/x", "client_user_id": "a\n"}, 422),
    ],
)
def test_half_characters_and_hidden_ones_are_refused(
    shared_desk: RunningDesk, path: str, body: Any, status: int
) -> None:
    """Half a surrogate pair is no JSON text: 400. What cannot be seen, or is hidden, is 422 elsewhere than in commands
    too; a line break behind an identifier is no part of it."""
    key = shared_desk.key(Role.ADMIN, Role.INTAKE)
    assert shared_desk.request("POST", path, body, key).status == status


@pytest.mark.parametrize("words", ["%ED%A0%80", "%80", "e" + "%CC%81%CC%A3" * 300, "%E2%80%AE", "%E2%80%8B"])
def test_a_search_for_anything_is_answered(shared_desk: RunningDesk, words: str) -> None:
    """Half characters, marks without end, what cannot be seen: a list, or a refusal, and no mistake of the desk's."""
    assert shared_desk.get(f"/v1/tickets?q={words}").status in (200, 400)
