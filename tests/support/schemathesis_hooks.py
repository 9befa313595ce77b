"""For the walks of schemathesis, so that they get somewhere: a client that the directory knows, and no bad luck."""

import schemathesis
from hypothesis import strategies

CLIENT = "client-1"


@schemathesis.hook
def map_body(context, body):  # type: ignore[no-untyped-def]
    """Names the client where a body names one; everything else goes out as it was generated."""
    if isinstance(body, dict) and isinstance(body.get("client_user_id"), str):
        body["client_user_id"] = CLIENT
    return body


@schemathesis.hook
def flatmap_headers(context, headers):  # type: ignore[no-untyped-def]
    """Three times in four, a command is on the version that there is, and under no key that another one had before."""
    lucky = {name: value for name, value in (headers or {}).items() if name != "Idempotency-Key"}
    if "If-Match" in lucky:
        lucky["If-Match"] = "*"
    return strategies.sampled_from([lucky, lucky, lucky, headers])
