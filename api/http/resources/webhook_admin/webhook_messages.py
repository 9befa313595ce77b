"""What goes over the wire about webhooks: bodies, answers, parameters."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from api.http.paging import Listing, Paging
from application.clock import utc_now
from application.commands.text_types import ONE_LINE, SingleLine, UserId, WithTexts
from application.webhooks.address_rules import MOST_URL
from application.webhooks.delivery import DeliveryRow, DeliveryState
from application.webhooks.subscriptions import Subscription, WebhookView
from domain.client import EVENTS, EventType
from domain.values import Level

URL = r"^https?://[!-~]+\Z"
Url = Annotated[str, msgspec.Meta(min_length=9, max_length=MOST_URL, pattern=URL, examples=["https://example.org/in"])]
EventTypes = Annotated[list[EventType], msgspec.Meta(max_length=len(EVENTS))]
ActorId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=ONE_LINE)]
Position = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class CreateWebhook(WithTexts, frozen=True, forbid_unknown_fields=True):
    """Who is to be told what. Without filters, of everything; from `after` on, else from now on."""

    url: Url
    description: SingleLine | None = None
    types: EventTypes = []
    ticket_id: UUID | None = None
    client_user_id: UserId | None = None
    actor: ActorId | None = None
    level: Level | None = None
    after: Position | None = None


class ChangeWebhook(WithTexts, frozen=True, forbid_unknown_fields=True):
    """What is to be different; what is left out stays as it is, and null takes a filter away."""

    url: Url | UnsetType = UNSET
    description: SingleLine | UnsetType | None = UNSET
    types: EventTypes | UnsetType = UNSET
    ticket_id: UUID | UnsetType | None = UNSET
    client_user_id: UserId | UnsetType | None = UNSET
    actor: ActorId | UnsetType | None = UNSET
    level: Level | UnsetType | None = UNSET


class RotateSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how many hours what is sent is signed with the old secret, too."""

    overlap_hours: Annotated[int, msgspec.Meta(ge=0, le=168)] = 24


class DisableWebhook(WithTexts, frozen=True, forbid_unknown_fields=True):
    """Why, for whoever looks at it later."""

    reason: SingleLine | None = None


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which position on: every event after it that fits is sent, and what waits now is not, unless it is one."""

    after: Position


class WebhookWithSecret(WebhookView, frozen=True):
    """A subscription with the secret that what is sent is signed with. It is shown this once."""

    secret: Annotated[str, msgspec.Meta(pattern="^whsec_")]


class WebhookList(Listing[WebhookView], frozen=True):
    """Subscriptions."""


class DeliveryList(Listing[DeliveryRow], frozen=True):
    """The deliveries of a subscription, newest first."""


class WebhookParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """A page of subscriptions."""


class DeliveryParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Which deliveries."""

    state: DeliveryState | None = None


def view(stored: Subscription, secret: str | None = None) -> WebhookView:
    """What is shown of a subscription; with its secret where that is new."""
    until = stored.old_secret_until
    shown = replace(
        stored,
        position=stored.position if stored.go_to is None else stored.go_to,
        old_secret_until=until if until and until > utc_now() else None,
        secret=secret,
    )
    return msgspec.convert(shown, WebhookWithSecret if secret else WebhookView, from_attributes=True)
