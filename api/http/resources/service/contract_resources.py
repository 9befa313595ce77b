"""The contract over HTTP: `/openapi.json` for programs, `/docs` for people, without a network and without a key."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from falcon.asgi import Request, Response

VERSION = "2.5.4"
REDOC = f"/docs/redoc-{VERSION}.js"
BUNDLE = Path(__file__).parents[3] / "static" / "vendor" / f"redoc-{VERSION}" / "redoc.standalone.js"
HTML, JAVASCRIPT = "text/html", "text/javascript"
FOR_EVER = "public, max-age=31536000, immutable"
# Redoc writes its styles into empty style elements, by script: the hash is that of an empty text.
NO_TEXT = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:;"
    f" style-src {NO_TEXT}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deskledger: the contract</title>
<redoc spec-url="/openapi.json" disable-search hide-download-button expand-responses="200,201"></redoc>
<script src="{REDOC}"></script>
</html>
"""


class ContractPart:
    """A text that stays as it is while the process runs: 304 for who has it already."""

    def __init__(self, content_type: str, text: bytes, headers: Mapping[str, str] = {}) -> None:
        self._content_type, self._text = content_type, text
        self._tag = sha256(text).hexdigest()[:32]
        self._headers = {"Cache-Control": "no-cache", **headers}

    async def on_get(self, req: Request, resp: Response) -> None:
        """The text."""
        resp.set_headers(self._headers)
        resp.etag = self._tag
        if any(tag == "*" or tag == self._tag for tag in req.if_none_match or ()):
            resp.status = 304
        else:
            resp.content_type, resp.data = self._content_type, self._text


def docs_page() -> ContractPart:
    """The contract for people; what it shows, it reads from /openapi.json."""
    return ContractPart(f"{HTML}; charset=utf-8", DOCS_PAGE.encode(), {"Content-Security-Policy": POLICY})


def docs_script() -> ContractPart:
    """The script of the page, of one version under one address."""
    return ContractPart(f"{JAVASCRIPT}; charset=utf-8", BUNDLE.read_bytes(), {"Cache-Control": FOR_EVER})
