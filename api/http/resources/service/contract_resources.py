"""The contract over HTTP: `/openapi.json` for programs, `/docs` for people, without a network and without a key."""

from hashlib import sha256
from pathlib import Path

from falcon.asgi import Request, Response

from api.http.paging import JSON

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


class Contract:
    """The contract for programs."""

    def __init__(self, document: bytes) -> None:
        self._document, self._tag = document, sha256(document).hexdigest()[:32]

    async def on_get(self, req: Request, resp: Response) -> None:
        """The document; 304 for who has it already."""
        resp.set_header("Cache-Control", "no-cache")
        resp.etag = self._tag
        if any(tag == "*" or tag == self._tag for tag in req.if_none_match or ()):
            resp.status = 304
        else:
            resp.content_type, resp.data = JSON, self._document


class Docs:
    """The contract for people."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """The page; what it shows, it reads from /openapi.json."""
        resp.set_header("Content-Security-Policy", POLICY)
        resp.content_type, resp.data = f"{HTML}; charset=utf-8", DOCS_PAGE.encode()


class Redoc:
    """The script of the page, of one version under one address."""

    def __init__(self) -> None:
        self._script = BUNDLE.read_bytes()

    async def on_get(self, req: Request, resp: Response) -> None:
        """The bundle."""
        resp.set_header("Cache-Control", FOR_EVER)
        resp.content_type, resp.data = f"{JAVASCRIPT}; charset=utf-8", self._script
