"""The clock, read where a command or a job begins; decisions get its value, never the clock."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)
