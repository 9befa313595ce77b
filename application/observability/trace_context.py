"""W3C Trace Context, level 1: which journey something belongs to, handed on from request to event to mail."""

import random
import re

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-[!-~]{0,200})?"
)
_bits = random.getrandbits  # a name, not a secret; a process that was forked begins with a seed of its own


def child_of(traceparent: str | None) -> str:
    """The traceparent of what is done on behalf of another one: the same trace, a span of its own.

    Where there is none, or none that can be read, it begins a trace, which is marked as not recorded.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None or (found["more"] and found["version"] == "00"):
        digits = f"{_bits(192) | 1 << 64 | 1:048x}"  # neither part is all noughts
        return f"00-{digits[:32]}-{digits[32:]}-00"
    flags = int(found["flags"], 16) & 3  # those that are known: sampled, and random
    return f"00-{found['trace']}-{_bits(64) | 1:016x}-{flags:02x}"


def trace_of(traceparent: str | None) -> str | None:
    """The 32 digits that everything of one journey shares; None when there are none."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found["trace"] if found else None
