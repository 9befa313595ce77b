"""How often somebody may: token buckets, in the form that keeps one number for each (the virtual scheduling algorithm
of ITU-T I.371). Each process counts for itself, and remembers a bounded number of names."""

import math
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from falcon.asgi import Request, Response

from api.http.problems import Problem

MOST_NAMES = 10_000
BURST_SECONDS = 10  # a principal may spend at once what this time gives
WINDOW_SECONDS = 60  # of failed sign-ins
NETWORK_BITS = 64  # of an IPv6 address: what is behind them, one customer chooses at will


class Buckets:
    """A bucket of `burst` tokens for each name, which fills again at `rate` a second."""

    def __init__(self, rate: float, burst: int, most: int = MOST_NAMES) -> None:
        self._each, self._whole, self._most = 1 / rate, burst / rate, most  # seconds
        self._full_at: dict[str, float] = {}  # the name that was longest away stands first

    def wait(self, name: str, now: float) -> float:
        """The seconds until there is a token; 0 when there is one."""
        return max(0.0, self._full_at.get(name, 0.0) + self._each - now - self._whole)

    def take(self, name: str, now: float) -> tuple[int, float]:
        """Takes a token, which must be there. Returns how many are left, and the seconds until the bucket is full."""
        full_at = max(self._full_at.pop(name, now), now) + self._each
        self._full_at[name] = full_at
        if len(self._full_at) > self._most:
            del self._full_at[next(iter(self._full_at))]
        return int((self._whole - full_at + now) / self._each + 1e-6), full_at - now


class RateLimit:
    """Requests of one principal; says in each answer what is left (draft-ietf-httpapi-ratelimit-headers-10)."""

    def __init__(self, rate: int) -> None:
        self._buckets = Buckets(rate, rate * BURST_SECONDS)
        self._policy = f'"default";q={rate * BURST_SECONDS};w={BURST_SECONDS}'

    def spend(self, resp: Response, principal: str) -> None:
        """Counts a request. Raises Problem with status 429 when it is one too many."""
        now = time.monotonic()
        wait = self._buckets.wait(principal, now)
        left, seconds = (0, wait) if wait else self._buckets.take(principal, now)
        resp.set_header("RateLimit-Policy", self._policy)
        resp.set_header("RateLimit", f'"default";r={left};t={math.ceil(seconds)}')
        if wait:
            detail = f"You send more requests than this desk takes from one caller: go on in {math.ceil(wait)} s."
            raise Problem(429, "rate_limited", detail, headers={"Retry-After": str(math.ceil(wait))})


class FailedSignIns:
    """Credentials that were refused, by the address that they came from. `most` a minute; 0 is without limit."""

    def __init__(self, most: int) -> None:
        self._buckets = Buckets(most / WINDOW_SECONDS, most) if most else None

    def demand_room(self, address: str) -> None:
        """Raises Problem with status 429, for one more that was refused, when this address has failed too often."""
        if self._buckets and (wait := self._buckets.wait(address, time.monotonic())):
            detail = "Too many keys or tokens from your address were refused: try again later, with a valid one."
            raise Problem(429, "too_many_failures", detail, headers={"Retry-After": str(math.ceil(wait))})

    def count(self, address: str) -> bool:
        """Counts a failure. Returns whether it was the last one that the address has for now."""
        now = time.monotonic()
        if self._buckets is None or self._buckets.wait(address, now):
            return False
        return self._buckets.take(address, now)[0] == 0


class Addresses:
    """Where a request comes from: the peer, or whom a trusted proxy names as such in X-Forwarded-For."""

    def __init__(self, trusted: str | None) -> None:
        self._trusted = [ip_network(part.strip()) for part in trusted.split(",")] if trusted else []

    def of(self, req: Request) -> str:
        """The address, of IPv6 its network."""
        found, client = None, req.scope.get("client") or ("",)
        # each proxy has added at the end whom it got the request from
        for hop in reversed([*(req.get_header("X-Forwarded-For") or "").split(","), client[0]]):
            address = _parsed(hop.strip())
            found = address or found
            if address is None or not any(address in network for network in self._trusted):
                break
        return _named(found)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _named(address: IPv4Address | IPv6Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), NETWORK_BITS), strict=False))
    return str(address)
