"""What points to nothing any more: tickets whose assignee is nobody, and links that lead in circles."""

from collections.abc import Iterable
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from application.helpdesk import HelpDesk
from application.mail.closure_mail import DESK_ACTOR
from domain.procedure import DOSSIER_STANDS
from domain.values import Relation

KEY_ENDED = "the API key has ended"
MOST_TAKEN_BACK = 1_000  # in one look
MOST_CIRCLES = 3
HAS_SUMMARIES: LiteralString = "select to_regclass('ticket_summaries') is not null"
HELD_BY_ENDED_KEYS: LiteralString = """
    select ticket_id, assignee from api_keys cross join lateral (  -- by the index on assignees, for each key
        select ticket_id, assignee from ticket_summaries
        where assignee = api_keys.id and queue is not null and state <> all(%s) offset 0) held
    where (revoked_at is not null or expires_at <= %s) and (%s::text is null or api_keys.id = %s)
    order by ticket_id limit %s"""
HELD_BY_NOBODY: LiteralString = """
    select ticket_id, assignee, count(*) over () from ticket_summaries
    where assignee is not null and queue is not null
        and not exists (select from people where people.id = assignee)
        and not exists (
            select from api_keys where api_keys.id = assignee and revoked_at is null
                and (expires_at is null or expires_at > now()))
    order by ticket_id limit 3"""
SELECT_LINKS: LiteralString = """
    select stream_id, body->>'other_ticket_id', body->>'relation' from events
    where type = 'Ticket.Linked' order by ord"""


def take_back_tickets(connection: psycopg.Connection[Any], now: datetime, key_id: str | None = None) -> list[UUID]:
    """Frees the tickets that keys hold which have ended, or that one key; returns them.

    A ticket whose dossier is with the client stays as it is until the client has said something: to free it would void
    the dossier.
    """
    if not connection.execute(HAS_SUMMARIES).fetchall()[0][0]:
        return []
    asked = ([str(state) for state in DOSSIER_STANDS], now, key_id, key_id, MOST_TAKEN_BACK)
    held = connection.execute(HELD_BY_ENDED_KEYS, asked).fetchall()
    if not held:
        return []
    with HelpDesk(connection) as desk:
        return [ticket for ticket, who in held if desk.take_back(ticket, who, KEY_ENDED, DESK_ACTOR, now)]


def held_by_nobody(connection: psycopg.Connection[Any]) -> tuple[int, list[tuple[UUID, str]]]:
    """How many tickets are assigned to nobody who could work on them; the first of them, each with the assignee."""
    rows = connection.execute(HELD_BY_NOBODY).fetchall()
    return (rows[0][2] if rows else 0), [(ticket, who) for ticket, who, _ in rows]


def link_circles(connection: psycopg.Connection[Any]) -> list[list[UUID]]:
    """Circles of duplicates and of follow-ups, at most three; each begins and ends with the same ticket."""
    links = connection.execute(SELECT_LINKS).fetchall()
    kinds = (Relation.DUPLICATE_OF, Relation.FOLLOW_UP_OF)
    found = [circle for kind in kinds for circle in circles((a, UUID(b)) for a, b, of in links if of == kind)]
    return found[:MOST_CIRCLES]


def circles(links: Iterable[tuple[UUID, UUID]]) -> list[list[UUID]]:
    """Circles that these links make, at most three."""
    graph: dict[UUID, set[UUID]] = {}
    for ticket, other in links:
        graph.setdefault(other, set()).add(ticket)
    found: list[list[UUID]] = []
    while len(found) < MOST_CIRCLES:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            circle: list[UUID] = error.args[1]
            found.append(circle)
            graph[circle[1]].discard(circle[0])  # look for the others without this link
    return found
