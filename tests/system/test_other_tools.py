"""The contract in the hands of tools that nobody here wrote: linters, validators, and clients that others generate.

`make contract-tools` brings them, at the versions of tests/contract_tools. Where they are not, these tests are left
out.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from domain.values import Level, Role
from tests.support.running_desk import ROOT, STAFF, RunningDesk

TOOLS, OURS = ROOT / ".contract-tools", ROOT / "tests" / "contract_tools"
NPM, PYTHON = TOOLS / "node_modules" / ".bin", TOOLS / "venv" / "bin"
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}
MISSING = [name for name in ("node", "java") if not shutil.which(name)]
MISSING += [str(path.relative_to(ROOT)) for path in (NPM, PYTHON) if not path.exists()]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} missing: make contract-tools")


@pytest.fixture(scope="module")
def place(module_desk: RunningDesk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the document that the running server serves, the npm tools beside it."""
    place = tmp_path_factory.mktemp("contract")
    (place / "openapi.json").write_bytes(module_desk.get("/openapi.json").data)
    (place / "node_modules").symlink_to(TOOLS / "node_modules")
    (place / "package.json").write_text('{"type": "module"}')
    for file in OURS.iterdir():
        if file.suffix in (".ts", ".mjs", ".py") or file.name in ("lint.json", "tsconfig.json"):
            shutil.copy(file, place)
    return place


@pytest.fixture(scope="module")
def keys(module_desk: RunningDesk) -> tuple[str, str]:
    """A key of the desk's people, and one of a second pair of eyes."""
    levels = [level for level in Level if level is not Level.IT_MANAGER]
    return module_desk.key(*STAFF, Role.AUDITOR, levels=levels), module_desk.checker


def run(place: Path, *command: str | Path) -> str:
    """What a program says that ends well."""
    environment = {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_redocly_has_no_finding(place: Path) -> None:
    """recommended-strict: errors and warnings alike."""
    run(place, NPM / "redocly", "lint", "openapi.json", "--extends=recommended-strict")


def test_spectral_has_no_finding(place: Path) -> None:
    """spectral:oas, down to the hints."""
    run(place, NPM / "spectral", "lint", "openapi.json", "--ruleset", "lint.json", "--fail-severity", "hint")


def test_ajv_takes_every_schema(place: Path) -> None:
    """Strictly, in the dialect of OpenAPI 3.1; patterns are compiled as ECMA-262 has them, with Unicode."""
    said = run(place, "node", "compile_schemas.mjs", "openapi.json")
    assert int(said.split()[0]) > 500


def test_openapi_typescript_makes_a_client(place: Path, module_desk: RunningDesk, keys: tuple[str, str]) -> None:
    """Its types compile, those of each event's data among them, and a ticket goes through tier 1 and tier 2."""
    run(place, NPM / "openapi-typescript", "openapi.json", "--output", "schema.d.ts")
    run(place, NPM / "tsc")
    assert run(place, "node", "walk.js", module_desk.base, *keys).split() == ["closed", "true"]


def test_onmessage_of_an_event_source_sees_every_event(place: Path, module_desk: RunningDesk) -> None:
    """Without names: what a page of the feed has, in order. With names a listener for each type would be needed."""
    module_desk.ticket("client-listens")
    module_desk.caught_up()
    key = module_desk.key(Role.AUDITOR)
    events = module_desk.get("/v1/events?limit=200", key).json["items"]
    address = f"{module_desk.base}/v1/events?event_names=false"
    said = run(place, "node", "listen.mjs", address, key, str(events[-1]["position"]))
    assert said.split() == [f"{event['position']}:{event['type']}" for event in events]


def test_openapi_generator_makes_a_client(place: Path, module_desk: RunningDesk, keys: tuple[str, str]) -> None:
    """Its Python package and what uses it type-check, and a ticket goes through tier 1 and tier 2."""
    run(place, PYTHON / "openapi-generator-cli", "generate", "-g", "python", "-i", "openapi.json", "-o", "generated")
    (place / "generated" / "walk.py").write_bytes((OURS / "walk.py").read_bytes())
    run(place / "generated", PYTHON / "mypy", "--config-file=", "walk.py", "openapi_client")
    walked = run(place / "generated", PYTHON / "python", "walk.py", module_desk.base, *keys)
    assert walked.split() == ["closed", "True"]
