"""E-mail addresses: which ones are taken where they come in, and how they are written on the wire.

The rules are those of the library email-validator (docs/decisions/0044). Nothing is looked up: an address is checked by
its form alone.
"""

from contextlib import suppress

import email_validator
from email_validator import ValidatedEmail, validate_email

# The library's way to say so: names as `.local` and `.test` mean something inside a house, and its mail server knows.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def read_address(text: str, in_house: bool = False) -> ValidatedEmail:
    """The address. `in_house`: a domain of one word will do, as in `desk@localhost`.

    Raises ValueError, which says what is wrong with it.
    """
    return validate_email(
        text, strict=True, check_deliverability=False, allow_quoted_local=True, globally_deliverable=not in_house
    )


def wire_address(address: ValidatedEmail) -> str:
    """The address with its domain in A-labels; what stands before the @ is beyond ASCII only where it has to be."""
    return address.ascii_email or f"{address.local_part}@{address.ascii_domain}"


def is_address(text: str) -> bool:
    """Whether mail could be sent there."""
    with suppress(ValueError):
        return bool(read_address(text))
    return False


def require_address(field: str, text: str | None) -> None:
    """Raises ValueError, naming the field, for what cannot be an address; None is nothing to object to."""
    if text is not None:
        try:
            read_address(text)
        except ValueError as error:
            why = str(error).rstrip(".")
            raise ValueError(f"Invalid field `{field}`: it cannot be an e-mail address: {why}") from None
