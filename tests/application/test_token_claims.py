"""From the claims of a token to who asks: names and pointers, values and roles, and what means nothing here."""

from typing import Any

import pytest

from application.identity.token_claims import (
    ALGORITHMS,
    OWN_NAMES,
    Claims,
    NoSubject,
    principal_of,
    read_algorithms,
    read_claims,
    read_grants,
)
from domain.values import Level, Principal, Role


def who(claims: Claims = Claims(), grants: Any = OWN_NAMES, **token: Any) -> Principal:  # noqa: B008 - it is frozen
    """Whom a token stands for."""
    return principal_of({"sub": "s-1"} | token, claims, grants)


def test_roles_and_levels_have_their_own_names_unless_a_setting_says_otherwise() -> None:
    """What is not a name of ours gives nothing; nobody is the desk itself, and the IT manager is no level of agents."""
    roles = ["agent", "quality", "boss", "system", "Agent", 7, None, ["admin"]]
    found = who(roles=roles, levels=["tier1", "noc", "it_manager", "tier9"], name="Night Shift")
    assert found == Principal(
        "oidc:s-1", "Night Shift", frozenset({Role.AGENT, Role.QUALITY}), frozenset({Level.TIER1, Level.NOC})
    )


def test_a_setting_says_what_a_value_gives() -> None:
    """Then only the values that it names count, one of them perhaps with a level."""
    grants = read_grants('{"SD second line": "agent:tier2", "CN=Lead,OU=Desk": "it_manager", "qa": "quality"}')
    assert who(grants=grants, roles=["SD second line", "admin", "CN=Lead,OU=Desk"]) == Principal(
        "oidc:s-1", "s-1", frozenset({Role.AGENT, Role.IT_MANAGER}), frozenset({Level.TIER2})
    )
    assert who(grants=grants, roles="SD second line").levels == {Level.TIER2}


@pytest.mark.parametrize(
    ("place", "token"),
    [
        ("groups", {"groups": ["intake"]}),
        ("https://desk.example.org/roles", {"https://desk.example.org/roles": ["intake"]}),
        ("/realm_access/roles", {"realm_access": {"roles": ["intake"]}}),
        ("/resource~1access/a~0b", {"resource/access": {"a~b": ["intake"]}}),
        ("scope", {"scope": "openid intake"}),
    ],
)
def test_a_claim_is_found_by_name_or_pointer(place: str, token: dict[str, Any]) -> None:
    """A name is taken as it stands, whatever it contains; one that begins with a slash leads inside."""
    assert who(Claims(roles=place), **token).roles == {Role.INTAKE}


@pytest.mark.parametrize("token", [{}, {"realm_access": None}, {"realm_access": ["roles"]}, {"realm_access": {"x": 1}}])
def test_a_claim_that_is_not_there_gives_nothing(token: dict[str, Any]) -> None:
    """Neither a role nor an error."""
    assert who(Claims(roles="/realm_access/roles"), **token).roles == frozenset()


@pytest.mark.parametrize("user_id", [None, "", "a b", "-a", 7, ["client-1"], "a" * 201, "client-1\n"])
def test_a_client_without_a_user_id_is_no_client(user_id: Any) -> None:
    """Or the role would show the tickets of all clients."""
    found = who(roles=["client", "intake"], client_user_id=user_id)
    assert (found.roles, found.client_user_id) == ({Role.INTAKE}, None)


def test_what_belongs_to_a_role_counts_with_it_only() -> None:
    """Levels without the role agent, and a user ID without the role client, are left out, as with keys."""
    assert who(roles=["client"], client_user_id="client-1").client_user_id == "client-1"
    found = who(roles=["intake"], levels=["tier1"], client_user_id="client-1")
    assert (found.levels, found.client_user_id) == (frozenset(), None)


@pytest.mark.parametrize("name", [None, "", "  ", "a\nb", 7, "a" * 201, "\ud800"])
def test_a_name_that_cannot_be_shown_is_the_subject(name: Any) -> None:
    """The history shows one line of printable text, whatever the token says."""
    assert who(name=name).name == "s-1"


@pytest.mark.parametrize("subject", [None, "", " ", "a\nb", 7, "a" * 256, "\ud800", "a\0"])
def test_somebody_is_named(subject: Any) -> None:
    """A token whose subject cannot stand in the history is nobody's."""
    with pytest.raises(NoSubject):
        who(sub=subject)
    assert who(sub="a" * 255).id == "oidc:" + "a" * 255


@pytest.mark.parametrize("text", ["", "x", "[]", '{"role": "x"}', '{"roles": 1}', "\ud800", '{"roles": null}'])
def test_claims_that_cannot_be_meant_are_refused(text: str) -> None:
    """The message says what is accepted; what is not named has its default."""
    with pytest.raises(ValueError, match="a JSON object that names claims"):
        read_claims(text)
    assert read_claims('{"roles": "groups"}') == Claims(roles="groups")


@pytest.mark.parametrize("given", ["boss", "system", "quality:tier1", "agent:", "agent:it_manager", "agent:tier9", ":"])
def test_roles_that_cannot_be_meant_are_refused(given: str) -> None:
    """No value gives a role that is not there, that nobody can have, or a level to another role than agent."""
    for text in (f'{{"x": "{given}"}}', "[]", "\ud800"):
        with pytest.raises(ValueError, match="a JSON object from value to role"):
            read_grants(text)


def test_only_asymmetric_algorithms_can_be_named() -> None:
    """With a symmetric one, or none, everybody could sign."""
    assert read_algorithms(" RS256, EdDSA") == ("RS256", "EdDSA")
    assert read_algorithms(",".join(ALGORITHMS)) == ALGORITHMS
    for text in ("HS256", "none", "RS256,HS512", "", "rs256", "RS256,"):
        with pytest.raises(ValueError, match="one or more of RS256"):
            read_algorithms(text)


def test_a_name_of_a_token_shows_and_is_kept_in_one_form() -> None:
    """The name stands in the history: one that cannot be seen gives way to the subject, which is compared as it is."""
    decomposed = "Zoe\u0308"
    assert who(name=decomposed).name == "Zoë"
    assert (who(sub=decomposed).id, who(sub=decomposed).name) == (f"oidc:{decomposed}", decomposed)
    for unseen in ("\u2800", "\u3164", "\u200b", " ", "a\u202eb", "a\nb"):
        assert who(name=unseen).name == "s-1"
