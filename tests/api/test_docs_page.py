"""The contract for people: one page that works without a network, and shows every operation."""

import re
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from html import unescape
from pathlib import Path

import pytest

from api.http.resources.service.contract_resources import BUNDLE, POLICY, REDOC, VERSION
from api.openapi.operations import ENDPOINTS
from tests.support.running_desk import ROOT, RunningDesk

CHROMIUM = shutil.which("chromium")


def test_the_bundle_is_the_one_that_was_published() -> None:
    """What is vendored has the version and the hash that its own page names, and its licence beside it."""
    said = (BUNDLE.parent / "VENDORED.md").read_text()
    assert sha256(BUNDLE.read_bytes()).hexdigest() in said
    assert f"| Version | {VERSION} |" in said
    assert "MIT License" in (BUNDLE.parent / "LICENSE").read_text()


def test_the_wheel_has_the_bundle(tmp_path: Path) -> None:
    """Whoever installs the wheel has the page with everything that it needs."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if "/vendor/" in name}
        assert wheel.read(str(BUNDLE.relative_to(ROOT))) == BUNDLE.read_bytes()
    assert {Path(name).name for name in names} == {path.name for path in BUNDLE.parent.iterdir()}


def test_the_page_needs_nothing_from_elsewhere(shared_desk: RunningDesk) -> None:
    """The page needs no key, its policy lets a browser load from the desk alone, and its script is kept for ever."""
    page = shared_desk.http.request("GET", f"{shared_desk.base}/docs")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert re.findall(rb'(?:src|url)="([^"]+)"', page.data) == [b"/openapi.json", REDOC.encode()]
    script = shared_desk.http.request("GET", shared_desk.base + REDOC)
    assert script.data == BUNDLE.read_bytes()
    assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    kept = {"If-None-Match": page.headers["ETag"]}
    assert shared_desk.http.request("GET", f"{shared_desk.base}/docs", headers=kept).status == 304


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path to look at the page with")
def test_a_browser_shows_every_operation(shared_desk: RunningDesk, tmp_path: Path) -> None:
    """In a real browser that can reach nothing else, every operation stands on the page, with its address."""
    command = [CHROMIUM or "", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking"]
    command += ["--virtual-time-budget=20000", "--dump-dom", f"{shared_desk.base}/docs"]
    shown = unescape(subprocess.run(command, capture_output=True, text=True, timeout=90).stdout)
    found = set(re.findall(r'id="tag/[A-Za-z]+/operation/(\w+)"', shown))
    assert found == {endpoint.name for endpoint in ENDPOINTS}
    missing = {endpoint.path for endpoint in ENDPOINTS if endpoint.path not in shown}
    assert missing == set()
