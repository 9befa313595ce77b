"""The endpoints of webhooks."""

from api.http.paging import NoFields
from api.http.resources.webhook_admin import webhook_messages as shapes
from api.openapi import error_codes
from api.openapi.operation import Endpoint, ResponseSpec
from application.webhooks.subscriptions import WebhookView
from domain.roles import MAY_MANAGE, MAY_READ

WEBHOOK_READERS, WEBHOOK_ADMINS = tuple(MAY_READ["webhooks"]), tuple(MAY_MANAGE["webhooks"])
REPLAYED = ("Idempotency-Replayed",)
WEBHOOK_PATH, DELIVERIES_PATH = "/v1/webhooks/{webhook_id}", "/v1/webhooks/{webhook_id}/deliveries"
REFUSED_URL: error_codes.Codes = {422: ("url_refused",)}
UNKNOWN_POSITION: error_codes.Codes = {422: ("unknown_position",)}
WEBHOOK_LINKS = (
    *("get_webhook", "change_webhook", "list_webhook_deliveries", "delete_webhook"),
    *("enable_webhook", "disable_webhook", "replay_webhook", "ping_webhook", "rotate_webhook_secret"),
)


def webhook_command_endpoint(name: str, says: str, body: type, shape: type, *problems: error_codes.Codes) -> Endpoint:
    """A command on a webhook."""
    return Endpoint(
        name=f"{name}_webhook" if "_" not in name else "rotate_webhook_secret",
        method="POST",
        path=f"{WEBHOOK_PATH}:{name}",
        tag="Webhooks",
        summary=f"{name.replace('_', ' ').capitalize()}",
        says=says,
        who=WEBHOOK_ADMINS,
        body=body,
        headers=("Idempotency-Key",),
        replies=(ResponseSpec(says="How it stands now.", shape=shape, headers=REPLAYED),),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.WEBHOOK, error_codes.BODY, error_codes.ONCE, *problems
        ),
        leads_to=WEBHOOK_LINKS,
    )


WEBHOOK_ENDPOINTS = (
    Endpoint(
        name="list_webhooks",
        path="/v1/webhooks",
        tag="Webhooks",
        summary="List webhooks",
        says="The subscriptions, without their secrets.",
        who=WEBHOOK_READERS,
        query=shapes.WebhookParameters,
        replies=(
            ResponseSpec(
                says="A page of subscriptions.", shape=shapes.WebhookList, headers=("Deskledger-Position", "Link")
            ),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.LISTED),
        leads_to=("get_webhook",),
    ),
    Endpoint(
        name="create_webhook",
        method="POST",
        path="/v1/webhooks",
        tag="Webhooks",
        summary="Create a webhook",
        says="A subscription to the log: every event that fits is sent at least once, those of one ticket in order."
        " The secret that they are signed with is shown this once.",
        who=WEBHOOK_ADMINS,
        body=shapes.CreateWebhook,
        headers=("Idempotency-Key",),
        replies=(
            ResponseSpec(
                status=201,
                says="The subscription with its secret.",
                shape=shapes.WebhookWithSecret,
                headers=("Location", *REPLAYED),
            ),
        ),
        problems=error_codes.together(
            error_codes.EVERYWHERE,
            error_codes.BODY,
            error_codes.ONCE,
            REFUSED_URL,
            UNKNOWN_POSITION,
            {409: ("too_many_webhooks",), 503: ("secrets_locked",)},
        ),
        leads_to=WEBHOOK_LINKS,
    ),
    Endpoint(
        name="get_webhook",
        path=WEBHOOK_PATH,
        tag="Webhooks",
        summary="Read a webhook",
        says="The subscription, without its secret.",
        who=WEBHOOK_READERS,
        replies=(ResponseSpec(says="The subscription.", shape=WebhookView),),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.WEBHOOK),
    ),
    Endpoint(
        name="change_webhook",
        method="PATCH",
        path=WEBHOOK_PATH,
        tag="Webhooks",
        summary="Change a webhook",
        says="Changes what the body names; null takes a filter away. What is due and has failed is tried again, now.",
        who=WEBHOOK_ADMINS,
        body=shapes.ChangeWebhook,
        replies=(ResponseSpec(says="How it stands now.", shape=WebhookView),),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.WEBHOOK, error_codes.BODY, REFUSED_URL),
        leads_to=WEBHOOK_LINKS,
    ),
    Endpoint(
        name="delete_webhook",
        method="DELETE",
        path=WEBHOOK_PATH,
        tag="Webhooks",
        summary="Delete a webhook",
        says="What was not sent yet is not sent any more.",
        who=WEBHOOK_ADMINS,
        replies=(ResponseSpec(status=204, says="It is gone."),),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.WEBHOOK),
    ),
    Endpoint(
        name="list_webhook_deliveries",
        path=DELIVERIES_PATH,
        tag="Webhooks",
        summary="List a webhook's deliveries",
        says="What became of what was to be sent, newest first. What is settled is kept for 30 days.",
        who=WEBHOOK_READERS,
        query=shapes.DeliveryParameters,
        replies=(
            ResponseSpec(
                says="A page of deliveries.", shape=shapes.DeliveryList, headers=("Deskledger-Position", "Link")
            ),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.WEBHOOK, error_codes.LISTED),
    ),
    webhook_command_endpoint(
        "enable", "Switches it on, where it stopped; what has failed is tried again.", NoFields, WebhookView
    ),
    webhook_command_endpoint(
        "disable", "Switches it off. What is not sent yet waits.", shapes.DisableWebhook, WebhookView
    ),
    webhook_command_endpoint(
        "rotate_secret",
        "A new secret, shown this once; for some hours the old one signs as well.",
        shapes.RotateSecret,
        shapes.WebhookWithSecret,
    ),
    webhook_command_endpoint(
        "replay", "Goes on from a position, earlier or later.", shapes.Replay, WebhookView, UNKNOWN_POSITION
    ),
    webhook_command_endpoint(
        "ping",
        "Sends an event that means nothing, to try the receiver.",
        NoFields,
        WebhookView,
        {409: ("webhook_disabled",)},
    ),
)
