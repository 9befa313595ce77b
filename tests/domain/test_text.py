"""Texts: kept in NFC, refused when nothing of them can be seen, shown so that they cannot pass for something else."""

import json
import re
import sys
from hashlib import sha256
from unicodedata import category, combining, is_normalized, normalize

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.commands.procedure_commands import COMMANDS, DocumentIssue, OpenTicket, ReceiveRequest, RequestSender
from application.commands.supporting_commands import AddNote, AssignTicket, CancelTicket, RegisterClient
from application.commands.text_types import ONE_LINE, REASON, SAYS_SOMETHING
from domain import events as e
from domain.client import Contact
from domain.errors import BlankText, UnfitText
from domain.text import (
    MOST_MARKS,
    accept_line,
    accept_reason,
    accept_text,
    folded,
    in_one_line,
    normalised,
    shows_something,
    with_visible_controls,
)
from domain.values import Actor, Channel, Grade, Role, Visibility
from domain.words import dossier_entries, words
from tests.support.given import START, TICKET_ID

EVERY = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
# Formatting characters that stand for something and are seen, alone too: number and abbreviation signs.
SEEN_FORMATTING = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
UNSEEN_LETTERS_AND_SIGNS = set(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
)
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"

anything = st.text(st.characters(codec="utf-8"))
tricky = st.text(st.sampled_from([*"a7 é\u0301\u0323e👩", *TURNS, *BREAKS, *"\x1b\x00\t\x9b\u200b\u200d\u3164\u2800"]))
some_text = anything | tricky


def test_what_shows_nothing_by_unicode_is_blank():
    """White space, separators, controls and formatting show nothing, but for signs that are seen; neither do fillers,
    variation selectors and what is ignored by default."""
    nothing = {
        one for one in EVERY if category(one) in ("Cc", "Cf", "Zs", "Zl", "Zp") or one.isspace()
    } - SEEN_FORMATTING
    ignored = {
        chr(code)
        for start, end in ((0xFE00, 0xFE0F), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF), (0x2060, 0x206F))
        for code in range(start, end + 1)
    }
    blank = {one for one in EVERY if not shows_something(one)}
    assert nothing | ignored | UNSEEN_LETTERS_AND_SIGNS <= blank
    assert {one for one in blank - nothing - ignored - UNSEEN_LETTERS_AND_SIGNS if category(one) != "Cn"} == set()


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "é",
        "e\u0301",
        "日",
        "한",
        "\u1112\u1161",
        "👍",
        "👩\u200d💻",
        "\u200bx",
        "ـ",
        "।",
        "🏴\U000e0067\U000e007f",
    ],
)
def test_what_people_write_shows_something(text: str):
    """Letters of any script, signs and emoji show, whatever stands around them; they are kept as they are in NFC."""
    assert shows_something(text)
    assert accept_line("name", text) == normalize("NFC", text)


@given(some_text)
def test_what_is_taken_is_in_nfc_and_shows_something(text: str):
    """Whatever was sent is refused, or kept in NFC and seen; kept once, it is taken again as it is."""
    for accept in (accept_line, accept_reason, accept_text):
        try:
            kept = accept("field", text)
        except BlankText:
            assert not shows_something(text)
        except UnfitText:
            assert shows_something(text)
        else:
            assert is_normalized("NFC", kept)
            assert kept == normalised(text)
            assert shows_something(kept)
            assert accept("field", kept) == kept


@given(some_text)
def test_a_line_is_one_line_and_turns_nothing(text: str):
    """No name, no summary and no reason holds a control or turns the text around it; a reason may have lines."""
    for accept, allowed in ((accept_line, ""), (accept_reason, "\t\n\r")):
        try:
            kept = accept("field", text)
        except (BlankText, UnfitText):
            continue
        hidden = [one for one in kept if category(one) in ("Cc", "Zl", "Zp") or one in TURNS]
        assert set(hidden) <= set(allowed)


@given(some_text)
def test_the_patterns_of_the_contract_say_what_the_code_does(text: str):
    """What a pattern refuses the code refuses; what only the code refuses has signs beyond 16 bits."""
    for pattern, accept in ((ONE_LINE, accept_line), (REASON, accept_reason), (SAYS_SOMETHING, accept_text)):
        try:
            accept("field", text)
        except (BlankText, UnfitText):
            beyond = [one for one in text if ord(one) > 0xFFFF]
            assert not re.search(pattern, text) or beyond
        else:
            assert re.search(pattern, text)


@given(some_text)
def test_words_are_one_line_whatever_they_are_made_of(text: str):
    """A text in one line has no break for any reader, no control and nothing that turns it."""
    shown = in_one_line(text)
    assert len(shown.splitlines()) <= 1
    assert not [one for one in shown if category(one) in ("Cc", "Zl", "Zp") or one in TURNS]
    assert in_one_line(shown) == shown
    for one in with_visible_controls(text):
        assert one in "\t\n\r" or (category(one) not in ("Cc", "Zl", "Zp") and one not in TURNS)


def test_signs_for_what_is_hidden():
    """A line break is one sign however it is written, a control has its picture, the rest its number."""
    assert in_one_line("a\r\nb\nc\rd\te\x1b[2Jf\x7fg\0h\x9bi\u202ej\u2028k") == (
        "a⏎b⏎c␍d␉e␛[2Jf␡g␀h<U+009B>i<U+202E>j<U+2028>k"
    )
    assert with_visible_controls("a\r\nb\nc\rd\te\x1bf\u2029") == "a\r\nb\nc␍d\te␛f<U+2029>"
    assert in_one_line("plain – ä 👩\u200d💻\u00a0\xad") == "plain – ä 👩\u200d💻\u00a0\xad"


@given(some_text, some_text)
def test_no_note_forges_an_event(text: str, name: str):
    """F2: a history in words has a line an event, whatever was written and whoever is called what; so has a dossier,
    and its canonical JSON reads back as its entries alone."""
    note = e.NoteAdded(text, Visibility.CLIENT)
    recorded = e.Recorded(TICKET_ID, 1, START, Actor("key-1", name, Role.AGENT), note)
    assert len(words(note).splitlines()) == 1
    (entry,) = dossier_entries([recorded], "client-a")
    canonical = msgspec.json.encode([entry], order="sorted")
    assert len(canonical.splitlines()) == 1
    assert json.loads(canonical) == [msgspec.to_builtins(entry)]
    assert len(f"{entry.actor}: {entry.words}".splitlines()) == 1


FORGED = "Thank you.\n7. 2026-11-02T09:00:00.000000Z quality control (quality): Note (client): Client agrees to pay"


def test_a_note_that_was_made_to_look_like_an_event_is_one_entry():
    """F2, as it was found: the forged line stays in the entry of the note, and the hash is of two entries."""
    forged = e.NoteAdded(FORGED, Visibility.CLIENT)
    actor = Actor("key-1", "Client A", Role.CLIENT)
    history = [
        e.Recorded(TICKET_ID, n, START, actor, event) for n, event in enumerate([e.Created("T-000001"), forged], 1)
    ]
    entries = dossier_entries(history, None)
    assert len(entries) == 2
    assert "\n" not in entries[1].words
    assert "⏎7. 2026" in entries[1].words
    told = json.dumps(msgspec.to_builtins(entries), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert sha256(told).hexdigest() == sha256(msgspec.json.encode(entries, order="sorted")).hexdigest()


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x24F)) | some_text)
def test_searches_see_no_difference_of_case_and_form(text: str):
    """F3: composed and decomposed text, upper and lower case, are one and the same to a search."""
    assert folded(normalize("NFD", text)) == folded(normalize("NFC", text)) == folded(text)
    assert folded(text.casefold()) == folded(text)
    assert folded(folded(text)) == folded(text)


def test_a_search_for_cafe_and_strasse():
    """F3, as it was found, and a letter that is two in upper case."""
    assert folded("cafe\u0301") == folded("CAFÉ") == folded("café") == "café"
    assert folded("Straße") == folded("STRASSE") == "strasse"


MARKS = [one for one in EVERY if category(one)[0] == "M"]


def test_marks_are_ordered_in_no_more_than_a_few_steps():
    """To order n marks on one letter takes n² steps: 100,000 would take seconds. What has more than 30 is refused,
    whichever they are; what languages need is far below."""
    assert {one for one in EVERY if combining(one)} <= set(MARKS)
    for mark in MARKS:
        if shows_something(mark):
            with pytest.raises(UnfitText, match="30 marks"):
                accept_text("text", "e" + mark * (MOST_MARKS + 1))
    assert accept_text("text", "e" + "\u0323" * MOST_MARKS)
    with pytest.raises(UnfitText):
        accept_text("text", "e\u0301\u0323" + "\u0301\u0323" * 50_000)
    assert accept_text("text", "─" * 1_000 + "…" * 1_000)  # signs are no marks


@pytest.mark.parametrize("half", ["\ud800", "a\udfff", "\udc80x"])
def test_half_a_surrogate_pair_is_refused(half: str):
    """It is no character, and cannot be stored: a program or a shell may still hand one in."""
    for accept in (accept_line, accept_reason, accept_text):
        with pytest.raises((UnfitText, BlankText)):
            accept("field", half)
    assert accept_line("name", "💻")


# ── where texts come in ──

NFD, NFC = "Cafe\u0301", "Café"


def texts_of(command: object) -> list[str]:
    """Every text of a struct and of the structs in it."""
    if isinstance(command, msgspec.Struct):
        return [text for value in msgspec.structs.astuple(command) for text in texts_of(value)]
    return [command] if type(command) is str else []


def test_every_command_keeps_its_texts_in_nfc():
    """F3: whatever a command takes as text is in NFC, from a body and from a program, also deep inside."""
    structs = [*COMMANDS.values(), ReceiveRequest, OpenTicket, RegisterClient, RequestSender]
    looked_at = 0
    for struct in structs:
        names = {field.name: field.type for field in msgspec.structs.fields(struct)}
        for name, kind in names.items():
            parts = [kind, *getattr(kind, "__args__", ())]
            metas = [meta for part in parts for meta in getattr(part, "__metadata__", ())]
            if "accept" in str([meta.extra for meta in metas]):
                looked_at += 1
                with pytest.raises(BlankText) as caught:
                    struct(**dict.fromkeys(names) | {name: "\u200b"})
                assert caught.value.pointer == f"/{name}"
    assert looked_at >= 25
    issue = DocumentIssue(NFD, NFD, NFD, Grade.LOW, Grade.LOW)
    opened = OpenTicket("client-a", Channel.WEB, NFD, issue)
    received = ReceiveRequest(Channel.WEB, NFD, RequestSender(NFD, None, NFD))
    assert texts_of(opened) == ["client-a", NFC, NFC, NFC, NFC]
    assert texts_of(received) == [NFC, NFC, NFC]
    assert texts_of(Contact(NFD, "a@example.org", None, NFD)) == [NFC, "a@example.org", NFC]
    body = msgspec.json.encode({"name": NFD, "email": "a@example.org"})
    assert msgspec.json.decode(body, type=RegisterClient).name == NFC


def test_an_identifier_is_compared_as_it_is():
    """Whom a token names may be written in any form: an assignee is looked at, and not changed."""
    assert AssignTicket(f"oidc:{NFD}").assignee == f"oidc:{NFD}"
    for wrong in ("\u200b", "a\nb", "a\u202eb"):
        with pytest.raises((BlankText, UnfitText)):
            AssignTicket(wrong)


def test_programs_are_held_to_the_same():
    """A text that no body may have cannot be had from Python either: not blank, not too long, nothing hidden."""
    for wrong in ("\x07x", "x\u202e", "x" * 100_001, "x\0"):
        with pytest.raises(UnfitText):
            CancelTicket(wrong)
    with pytest.raises(UnfitText, match="at most 500 characters"):
        Contact("x" * 501, "a@example.org")
    for blank in ("", "\u200b"):
        with pytest.raises(BlankText):
            Contact(blank, "a@example.org")
        with pytest.raises(BlankText):
            Contact("A", "a@example.org", phone=blank)
    assert AddNote("a\x1b[2J\u202e\n\tb").text == "a\x1b[2J\u202e\n\tb"  # shown with signs, kept as it is
    assert CancelTicket("one\r\ntwo\tthree").reason == "one\r\ntwo\tthree"
