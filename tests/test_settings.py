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
}
BAD = [
    ("DATABASE_URL", "mysql://u:secret@h/n", "DATABASE_URL cannot be used: it takes a URL like postgresql://"),
    ("DESKLEDGER_DATA_DIR", "  ", "DESKLEDGER_DATA_DIR='  ' cannot be used: it takes a text that is not blank"),
    ("DESKLEDGER_SMTP_URL", "mail:25", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DESKLEDGER_SMTP_URL", "smtp://u:secret@", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL like smtp://"),
    ("DESKLEDGER_SMTP_URL", "smtp://h:70000", "DESKLEDGER_SMTP_URL cannot be used: it takes a URL whose port is"),
    ("DESKLEDGER_MAIL_FROM", "desk", "DESKLEDGER_MAIL_FROM='desk' cannot be used: it takes an e-mail address"),
    ("DESKLEDGER_FOUR_EYES", "maybe", "DESKLEDGER_FOUR_EYES='maybe' cannot be used: it takes on or off"),
    ("DESKLEDGER_REOPEN_DAYS", "-1", "DESKLEDGER_REOPEN_DAYS='-1' cannot be used: it takes a whole number from 0 to"),
    ("DESKLEDGER_REOPEN_DAYS", "３", "cannot be used: it takes a whole number from 0 to 3650"),
    ("DESKLEDGER_HOST", " ", "DESKLEDGER_HOST=' ' cannot be used: it takes a text that is not blank"),
    ("DESKLEDGER_PORT", "0", "DESKLEDGER_PORT='0' cannot be used: it takes a whole number from 1 to 65535"),
    ("DESKLEDGER_WORKERS", "65", "DESKLEDGER_WORKERS='65' cannot be used: it takes a whole number from 1 to 64"),
    ("DESKLEDGER_LOG_LEVEL", "loud", "DESKLEDGER_LOG_LEVEL='loud' cannot be used: it takes one of debug, info"),
]


def test_every_variable_is_tried() -> None:
    """No variable is without a good and a bad value here."""
    assert GOOD.keys() == VARIABLES.keys() == {variable for variable, _, _ in BAD}


@pytest.mark.parametrize("variable", GOOD)
def test_a_good_value_is_taken(variable: str) -> None:
    """A variable sets its field, and leaves the others at their defaults."""
    value, expected = GOOD[variable]
    field = VARIABLES[variable][0]
    settings = read_settings({variable: value})
    changed = {name for name in Settings.__struct_fields__ if getattr(settings, name) != getattr(Settings(), name)}
    assert (getattr(settings, field), changed) == (expected, {field})


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
