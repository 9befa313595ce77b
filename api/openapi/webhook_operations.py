"""The endpoints of webhooks."""

from typing import Any

from api.http.paging import JSON, NoFields
from api.http.resources.webhook_admin import webhook_messages as shapes
from api.openapi.error_codes import Codes, together
from api.openapi.operation import Endpoint, Struct
from api.openapi.schemas import REFERENCE
from application.webhooks.subscriptions import WebhookView
from domain.roles import MAY_MANAGE, MAY_READ

# What is sent to a receiver, whose answer says whether it comes again.
_SIGNED = {
    "webhook-id": "The same at each attempt.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "One signature for each secret, as Standard Webhooks have them.",
}
_RECEIVED = {
    "2XX": {"description": "Received."},
    "410": {"description": "Gone: the subscription is switched off."},
    "4XX": {"description": "It comes again, as with any answer but 2xx."},
}


def webhook_message(name: str, says: str, shape: str) -> dict[str, Any]:
    """What goes out to receivers, as the document has it."""
    operation = {
        "operationId": f"receive_{name}",
        "tags": ["Webhooks"],
        "summary": f"Receive {'an' if name[0] in 'aeiou' else 'a'} {name}",
        "description": says,
        "security": [],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": what, "schema": {"type": "string"}}
            for header, what in _SIGNED.items()
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": {"$ref": REFERENCE.format(name=shape)}}}},
        "responses": _RECEIVED,
    }
    return {"{$request.body#/url}": {"post": operation}}


SENT_TO_RECEIVERS = {
    "event": webhook_message("event", "An event of the log that fits the subscription.", "EventView"),
    "ping": webhook_message("ping", "Means nothing: to try the receiver.", "WebhookPing"),
}
WEBHOOK_PATH = "/v1/webhooks/{webhook_id}"


def webhook_command(name: str, says: str, body: Struct, answer: Struct, *problems: Codes) -> Endpoint:
    """A command on a webhook: `ping_webhook` is `:ping`."""
    return Endpoint(
        name=name,
        method="POST",
        path=f"{WEBHOOK_PATH}:{name.replace('_webhook', '')}",
        says=says,
        who=MAY_MANAGE["webhooks"],
        body=body,
        takes=("Idempotency-Key",),
        answers={200: answer},
        gives=("Idempotency-Replayed",),
        refuses=together(problems),
    )


WEBHOOK_ENDPOINTS = (
    Endpoint(
        name="list_webhooks",
        path="/v1/webhooks",
        says="The subscriptions, without their secrets.",
        who=MAY_READ["webhooks"],
        query=shapes.WebhookParameters,
        answers={200: shapes.WebhookList},
    ),
    Endpoint(
        name="create_webhook",
        method="POST",
        path="/v1/webhooks",
        says="A subscription to the log: every event that fits is sent at least once, those of one ticket in order."
        " The secret that they are signed with is shown this once.",
        who=MAY_MANAGE["webhooks"],
        body=shapes.CreateWebhook,
        takes=("Idempotency-Key",),
        answers={201: shapes.WebhookWithSecret},
        callbacks=SENT_TO_RECEIVERS,
        gives=("Location", "Idempotency-Replayed"),
        refuses={
            409: ("too_many_webhooks", "secret_gone"),
            422: ("url_refused", "unknown_position"),
            503: ("secrets_locked",),
        },
    ),
    Endpoint(
        name="get_webhook",
        path=WEBHOOK_PATH,
        says="The subscription, without its secret.",
        who=MAY_READ["webhooks"],
        answers={200: WebhookView},
    ),
    Endpoint(
        name="change_webhook",
        method="PATCH",
        path=WEBHOOK_PATH,
        says="Changes what the body names; null takes a filter away. What is due and has failed is tried again, now.",
        who=MAY_MANAGE["webhooks"],
        body=shapes.ChangeWebhook,
        answers={200: WebhookView},
        refuses={422: ("url_refused",)},
    ),
    Endpoint(
        name="delete_webhook",
        method="DELETE",
        path=WEBHOOK_PATH,
        says="What was not sent yet is not sent any more.",
        who=MAY_MANAGE["webhooks"],
        answers={204: None},
    ),
    Endpoint(
        name="list_webhook_deliveries",
        path=f"{WEBHOOK_PATH}/deliveries",
        says="What became of what was to be sent, newest first. What is settled is kept for 30 days.",
        who=MAY_READ["webhooks"],
        query=shapes.DeliveryParameters,
        answers={200: shapes.DeliveryList},
    ),
    webhook_command(
        "enable_webhook",
        "Switches it on, where it stopped; what has failed is tried again.",
        NoFields,
        WebhookView,
    ),
    webhook_command(
        "disable_webhook", "Switches it off. What is not sent yet waits.", shapes.DisableWebhook, WebhookView
    ),
    webhook_command(
        "rotate_webhook_secret",
        "A new secret, shown this once; for some hours the old one signs as well.",
        shapes.RotateSecret,
        shapes.WebhookWithSecret,
        {409: ("secret_gone",)},
    ),
    webhook_command(
        "replay_webhook",
        "Goes on from a position, earlier or later.",
        shapes.Replay,
        WebhookView,
        {422: ("unknown_position",)},
    ),
    webhook_command(
        "ping_webhook",
        "Sends an event that means nothing, to try the receiver.",
        NoFields,
        WebhookView,
        {409: ("webhook_disabled",)},
    ),
)
