"""The texts that commands take: how long they may be, and what may stand in them."""

from typing import Annotated

import msgspec

# Not blank, and then one class for every character: two neighbouring parts that both fit a character would take n²
# steps to say no to a long text.
SAYS_SOMETHING = r"^(?!\s*$)[^\x00]+$"  # without NUL, which PostgreSQL cannot store
ONE_LINE = r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$(?!\n)"  # without control characters and line separators
SingleLine = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=ONE_LINE)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000, pattern=SAYS_SOMETHING)]
USER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$(?!\n)"
UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=USER_ID_PATTERN)]
# The form of an address; whether it can be one is for `email_addresses.py` to say.
ADDRESS = r"^([^\x00-\x1f\x7f\s@<>,;:\"()\[\]\\]+|\"[^\x00-\x1f\x7f\"\\]+\")@[^\x00-\x1f\x7f\s@<>,;:\"()\[\]\\]+$(?!\n)"
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254, pattern=ADDRESS)]
SHA256 = r"^[0-9a-f]{64}$(?!\n)"
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256)]
