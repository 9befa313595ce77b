"""Settings: every variable good, bad and empty; a wrong value is one line that says what the variable accepts."""

from pathlib import Path

import pytest

from application.settings import (
    VARIABLES,
    Settings,
    SettingsError,
    environment_for,
    environment_without_settings,
    read_settings,
)

GOOD = {
    "DATABASE_URL": ("postgresql://user:secret@host/name", "postgresql://user:secret@host/name"),
    "DESKLEDGER_DATA_DIR": ("/var/lib/desk", Path("/var/lib/desk")),
    "DESKLEDGER_SMTP_URL": ("smtps://user:secret@mail:465", "smtps://user:secret@mail:465"),
    "DESKLEDGER_MAIL_FROM": ("Desk <desk@example.org>", "Desk <desk@example.org>"),
    "DESKLEDGER_FOUR_EYES": ("Off", False),
    "DESKLEDGER_REOPEN_DAYS": ("0", 0),
    "DESKLEDGER_HOST": ("0.0.0.0", "0.0.0.0"),
    "DESKLEDGER_PORT": ("65535", 65535),
    "DESKLEDGER_WORKERS": ("64", 64),
    "DESKLEDGER_LOG_LEVEL": ("DEBUG", "debug"),
    "DESKLEDGER_ACCESS_LOG": ("off", False),
    "DESKLEDGER_METRICS": ("0", False),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
    "DESKLEDGER_STREAMS": ("10000", 10_000),
    "DESKLEDGER_STREAMS_EACH": ("1", 1),
    "DESKLEDGER_UNREAD_SECONDS": ("3600", 3600),
    "DESKLEDGER_CORS_ORIGINS": ("https://a.example,http://127.0.0.1:3000", "https://a.example,http://127.0.0.1:3000"),
    "DESKLEDGER_WEBHOOK_ALLOW_NETWORKS": ("10.0.0.0/8,fd00::1", "10.0.0.0/8,fd00::1"),
    "DESKLEDGER_WEBHOOK_ALLOW_HTTP": ("on", True),
    "DESKLEDGER_WEBHOOK_HOSTS": ("*.example.org,10.0.0.7", "*.example.org,10.0.0.7"),
    "DESKLEDGER_WEBHOOK_KEYS": (f"{'a' * 43}=,{'b' * 43}=", f"{'a' * 43}=,{'b' * 43}="),
    "DESKLEDGER_OIDC_ALGORITHMS": ("ES256, EdDSA", "ES256, EdDSA"),
    "DESKLEDGER_OIDC_CLAIMS": ('{"roles": "/a/b"}', '{"roles": "/a/b"}'),
    "DESKLEDGER_OIDC_ROLES": ('{"sd": "agent:tier1"}', '{"sd": "agent:tier1"}'),
    "DESKLEDGER_RATE_LIMIT": ("50", 50),
    "DESKLEDGER_FAILED_SIGN_INS": ("0", 0),
    "DESKLEDGER_TRUSTED_PROXIES": ("10.0.0.7, fd00::/64", "10.0.0.7, fd00::/64"),
    "DESKLEDGER_IDEMPOTENCY_HOURS": ("24", 24),
}
TOGETHER = {
    # those that take another one, with their value, what it sets, and the others
    "DESKLEDGER_OIDC_ISSUER": ("https://id.example.org/desk", "https://id.example.org/desk"),
    "DESKLEDGER_OIDC_AUDIENCE": ("desk", "desk"),
    "DESKLEDGER_OIDC_JWKS_URL": ("http://[::1]:8080/keys?p=1", "http://[::1]:8080/keys?p=1"),
    "DESKLEDGER_OIDC_JWKS_FILE": ("/etc/desk/keys.json", Path("/etc/desk/keys.json")),
}
ISSUER = {"DESKLEDGER_OIDC_ISSUER": "http://localhost:8080/desk", "DESKLEDGER_OIDC_AUDIENCE": "desk"}
BAD = [
    ("DATABASE_URL", "mysql://u:secret@h/n", "DATABASE_URL cannot be used: it takes a URL like postgresql://"),
    ("DESKLEDGER_DATA_DIR", "  ", "DESKLEDGER_DATA_DIR='  ' cannot be used: it takes a text that is not blank"),
    ("DESKLEDGER_SMTP_URL", "mail:25", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DESKLEDGER_SMTP_URL", "smtp://u:secret@", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DESKLEDGER_SMTP_URL", "smtp://h:70000", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DESKLEDGER_SMTP_URL", "smtp://u:se℀cret@h", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DATABASE_URL", "postgresql://u:secret@[x/y", "DATABASE_URL cannot be used: it takes a URL like postgresql://"),
    ("DATABASE_URL", "postgresql://h:port/x", "DATABASE_URL cannot be used: it takes a URL like postgresql://"),
    ("DATABASE_URL", "postgresql://h:70000/x", "DATABASE_URL cannot be used: it takes a URL like postgresql://"),
    ("DESKLEDGER_MAIL_FROM", "a b@c", "DESKLEDGER_MAIL_FROM='a b@c' cannot be used: it takes an e-mail address"),
    ("DESKLEDGER_DATA_DIR", "a\0b", "cannot be used: it takes a text that is not blank"),
    ("DESKLEDGER_PORT", "9" * 5000, "cannot be used: it takes a whole number from 1 to 65535"),
    ("DESKLEDGER_CORS_ORIGINS", "https://[x", "cannot be used: it takes origins like https://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:abc", "cannot be used: it takes a URL like http://localhost:4318"),
    ("DESKLEDGER_MAIL_FROM", "desk", "DESKLEDGER_MAIL_FROM='desk' cannot be used: it takes an e-mail address"),
    ("DESKLEDGER_FOUR_EYES", "maybe", "DESKLEDGER_FOUR_EYES='maybe' cannot be used: it takes on or off"),
    ("DESKLEDGER_REOPEN_DAYS", "-1", "DESKLEDGER_REOPEN_DAYS='-1' cannot be used: it takes a whole number from 0 to"),
    ("DESKLEDGER_REOPEN_DAYS", "３", "cannot be used: it takes a whole number from 0 to 3650"),
    ("DESKLEDGER_HOST", " ", "DESKLEDGER_HOST=' ' cannot be used: it takes a text that is not blank"),
    ("DESKLEDGER_PORT", "0", "DESKLEDGER_PORT='0' cannot be used: it takes a whole number from 1 to 65535"),
    ("DESKLEDGER_WORKERS", "65", "DESKLEDGER_WORKERS='65' cannot be used: it takes a whole number from 1 to 64"),
    ("DESKLEDGER_CORS_ORIGINS", "https://a.example/", "cannot be used: it takes origins like https://desk.example.org"),
    ("DESKLEDGER_CORS_ORIGINS", "*,https://a.example", "DESKLEDGER_CORS_ORIGINS='*,https://a.example' cannot be used"),
    ("DESKLEDGER_WEBHOOK_ALLOW_NETWORKS", "10.0.0.1/8", "cannot be used: it takes addresses or networks, separated"),
    ("DESKLEDGER_WEBHOOK_ALLOW_HTTP", "maybe", "DESKLEDGER_WEBHOOK_ALLOW_HTTP='maybe' cannot be used: it takes on or"),
    ("DESKLEDGER_WEBHOOK_HOSTS", "https://a.b", "cannot be used: it takes hosts, separated by commas, like"),
    ("DESKLEDGER_WEBHOOK_KEYS", "secret", "DESKLEDGER_WEBHOOK_KEYS cannot be used: it takes Fernet keys, separated"),
    ("DESKLEDGER_STREAMS", "0", "DESKLEDGER_STREAMS='0' cannot be used: it takes a whole number from 1 to 10000"),
    ("DESKLEDGER_STREAMS_EACH", "many", "DESKLEDGER_STREAMS_EACH='many' cannot be used: it takes a whole number"),
    ("DESKLEDGER_UNREAD_SECONDS", "3601", "cannot be used: it takes a whole number from 1 to 3600"),
    ("DESKLEDGER_OIDC_ISSUER", "http://id.example.org", "cannot be used: it takes a URL like https://id.example.org"),
    ("DESKLEDGER_OIDC_ISSUER", "https://u:secret@id.example.org", "DESKLEDGER_OIDC_ISSUER cannot be used: it takes a"),
    ("DESKLEDGER_OIDC_ISSUER", "https://id.example.org:99999", "cannot be used: it takes a URL like https://id"),
    ("DESKLEDGER_OIDC_ISSUER", "https://id.example.org/a b", "cannot be used: it takes a URL like https://id"),
    ("DESKLEDGER_OIDC_AUDIENCE", " ", "DESKLEDGER_OIDC_AUDIENCE=' ' cannot be used: it takes a text that is not"),
    ("DESKLEDGER_OIDC_JWKS_URL", "ftp://u:secret@h", "DESKLEDGER_OIDC_JWKS_URL cannot be used: it takes a URL like"),
    ("DESKLEDGER_OIDC_JWKS_FILE", " ", "DESKLEDGER_OIDC_JWKS_FILE=' ' cannot be used: it takes a text that is not"),
    ("DESKLEDGER_OIDC_ALGORITHMS", "RS256,HS256", "='RS256,HS256' cannot be used: it takes one or more of RS256, "),
    ("DESKLEDGER_OIDC_CLAIMS", "{", "DESKLEDGER_OIDC_CLAIMS='{' cannot be used: it takes a JSON object that names"),
    ("DESKLEDGER_OIDC_ROLES", '{"x": "y"}', "cannot be used: it takes a JSON object from value to role, like"),
    ("DESKLEDGER_RATE_LIMIT", "-1", "DESKLEDGER_RATE_LIMIT='-1' cannot be used: it takes a whole number from 0 to"),
    ("DESKLEDGER_FAILED_SIGN_INS", "x", "DESKLEDGER_FAILED_SIGN_INS='x' cannot be used: it takes a whole number"),
    ("DESKLEDGER_TRUSTED_PROXIES", "proxy", "='proxy' cannot be used: it takes addresses or networks, separated by"),
    ("DESKLEDGER_IDEMPOTENCY_HOURS", "23", "='23' cannot be used: it takes a whole number from 24 to 8760"),
    ("DESKLEDGER_ACCESS_LOG", "rarely", "DESKLEDGER_ACCESS_LOG='rarely' cannot be used: it takes on or off"),
    ("DESKLEDGER_METRICS", "2", "DESKLEDGER_METRICS='2' cannot be used: it takes on or off"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "it takes a URL like http://localhost:4318"),
    ("DESKLEDGER_LOG_LEVEL", "loud", "DESKLEDGER_LOG_LEVEL='loud' cannot be used: it takes one of debug, info"),
]


def test_every_variable_is_tried() -> None:
    """No variable is without a good and a bad value here."""
    assert GOOD.keys() | TOGETHER.keys() == VARIABLES.keys() == {variable for variable, _, _ in BAD}


@pytest.mark.parametrize("variable", GOOD)
def test_a_good_value_is_taken(variable: str) -> None:
    """A variable sets its field, and leaves the others at their defaults."""
    value, expected = GOOD[variable]
    field = VARIABLES[variable][0]
    settings = read_settings({variable: value})
    changed = {name for name in Settings.__struct_fields__ if getattr(settings, name) != getattr(Settings(), name)}
    assert (getattr(settings, field), changed) == (expected, {field})


@pytest.mark.parametrize("variable", TOGETHER)
def test_a_good_value_is_taken_beside_those_that_it_needs(variable: str) -> None:
    """What is said of an issuer takes an issuer and an audience."""
    value, expected = TOGETHER[variable]
    assert getattr(read_settings(ISSUER | {variable: value}), VARIABLES[variable][0]) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (ISSUER | {"DESKLEDGER_OIDC_AUDIENCE": ""}, "belong together: set both"),
        (ISSUER | {"DESKLEDGER_OIDC_ISSUER": ""}, "belong together: set both"),
        ({"DESKLEDGER_OIDC_JWKS_URL": "https://h/k"}, "set DESKLEDGER_OIDC_ISSUER too"),
        ({"DESKLEDGER_OIDC_JWKS_FILE": "/k"}, "set DESKLEDGER_OIDC_ISSUER too"),
        (
            ISSUER | {"DESKLEDGER_OIDC_JWKS_FILE": "/k", "DESKLEDGER_OIDC_JWKS_URL": "https://h/k"},
            "exclude each other: set one",
        ),
    ],
)
def test_settings_that_do_not_fit_together_stop_the_start(given: dict[str, str], says: str) -> None:
    """With one line that says which of them, and what to do."""
    with pytest.raises(SettingsError, match=says):
        read_settings(given)


@pytest.mark.parametrize(("variable", "value", "says"), BAD)
def test_a_bad_value_is_one_clear_line(variable: str, value: str, says: str) -> None:
    """The line names the variable and what it accepts; a value that may hold a password is not shown."""
    with pytest.raises(SettingsError) as refused:
        read_settings({variable: value})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("variable", GOOD)
def test_an_empty_variable_counts_as_unset(variable: str) -> None:
    """Empty is the default, as with an `export X=` that was left over."""
    assert read_settings({variable: ""}) == Settings()


def test_an_option_wins_over_the_environment() -> None:
    """What the command line says counts; what it does not say comes from the environment."""
    settings = read_settings({"DESKLEDGER_PORT": "9000", "DESKLEDGER_HOST": "::1"}, port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "::1")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the variables of the process are read."""
    monkeypatch.setenv("DESKLEDGER_REOPEN_DAYS", "3")
    assert read_settings().reopen_window.days == 3


def test_a_part_gets_the_settings_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back from the environment that a part is given, the settings are the same."""
    monkeypatch.setenv("DESKLEDGER_FOUR_EYES", "off")
    settings = read_settings(database_url="postgresql://h/n", port=9000)
    assert read_settings(environment_for(settings)) == settings
    assert not environment_without_settings().keys() & VARIABLES.keys()
