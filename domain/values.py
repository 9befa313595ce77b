"""The words of the procedure as types: levels, states, queues, grades, and who acts."""

from enum import StrEnum
from typing import Literal

import msgspec


class Level(StrEnum):
    """A rung of the ladder. Five of them resolve; the IT manager decides and never resolves."""

    TIER1 = "tier1"
    TIER2 = "tier2"
    TIER3 = "tier3"
    ONSITE = "onsite"
    IT_MANAGER = "it_manager"
    NOC = "noc"


class State(StrEnum):
    """Where a ticket stands in the procedure."""

    RECEIVED = "received"
    IDENTIFIED = "identified"
    CREATED = "created"
    DOCUMENTED = "documented"
    IN_SUPPORT = "in_support"
    RESOLVED = "resolved"
    VERIFIED = "verified"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    DECIDING = "deciding"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"


class Queue(StrEnum):
    """Where an open ticket waits; every open ticket is in exactly one."""

    INTAKE = "intake"
    TIER1 = "tier1"
    TIER2 = "tier2"
    TIER3 = "tier3"
    ONSITE = "onsite"
    NOC = "noc"
    QUALITY_CONTROL = "quality_control"
    CLOSING = "closing"
    IT_MANAGER = "it_manager"


class Qualification(StrEnum):
    """What the receiving level said: can the issue be resolved here?"""

    TO_QUALIFY = "to_qualify"
    CAN_RESOLVE = "can_resolve"
    CANNOT_RESOLVE = "cannot_resolve"


class Channel(StrEnum):
    """How a request came in, or how a client confirmed something."""

    EMAIL = "email"
    PHONE = "phone"
    WEB = "web"
    WALK_IN = "walk_in"
    API = "api"


class Grade(StrEnum):
    """A grade of impact or urgency."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Visibility(StrEnum):
    """Who may read a note."""

    INTERNAL = "internal"
    CLIENT = "client"


class Relation(StrEnum):
    """What a linked ticket is to this one."""

    DUPLICATE_OF = "duplicate_of"
    FOLLOW_UP_OF = "follow_up_of"
    RELATED_TO = "related_to"


class Role(StrEnum):
    """What a key or token allows its holder to be."""

    INTAKE = "intake"
    AGENT = "agent"
    QUALITY = "quality"
    IT_MANAGER = "it_manager"
    CLIENT = "client"
    AUDITOR = "auditor"
    REPORTER = "reporter"
    ADMIN = "admin"
    SYSTEM = "system"  # the desk itself: it records what became of a closing e-mail; no key can carry it


Priority = Literal[1, 2, 3, 4, 5]

# ITIL's matrix: impact, urgency, priority; 1 is worked first.
PRIORITIES: dict[Grade, dict[Grade, Priority]] = {
    Grade.HIGH: {Grade.HIGH: 1, Grade.MEDIUM: 2, Grade.LOW: 3},
    Grade.MEDIUM: {Grade.HIGH: 2, Grade.MEDIUM: 3, Grade.LOW: 4},
    Grade.LOW: {Grade.HIGH: 3, Grade.MEDIUM: 4, Grade.LOW: 5},
}


class Actor(msgspec.Struct, frozen=True):
    """Who did it, and in which role."""

    id: str
    name: str
    role: Role


class Principal(msgspec.Struct, frozen=True):
    """Who asks: an API key's holder, the roles it carries, and the levels or the client it stands for."""

    id: str
    name: str
    roles: frozenset[Role]
    levels: frozenset[Level] = frozenset()
    client_user_id: str | None = None


class Sender(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who sent a request, as far as the channel tells."""

    name: str | None = None
    email: str | None = None
    phone: str | None = None


class DossierEntry(msgspec.Struct, frozen=True):
    """An event as a dossier shows it to the client.

    `at` has six digits of a second; `sha256` is of what the event says, and null where that is withheld.
    """

    version: int
    at: str
    actor: str
    role: Role
    words: str
    sha256: str | None
