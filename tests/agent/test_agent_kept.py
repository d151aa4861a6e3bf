"""The list of objects that an agent pins."""

from __future__ import annotations

from headrace.agent.kept import MAX_BYTES, decode, encode

NAME = "ab" * 32


def test_list_when_decoded_then_what_was_encoded() -> None:
    objects = frozenset({("team-a", NAME), ("team-b", NAME), ("team-a", "0" * 64)})
    assert decode(encode(objects)) == objects
    assert encode(frozenset()) == ""


def test_list_when_lines_are_of_another_form_then_ignored() -> None:
    text = f"team-a/{NAME}\n/{NAME}\nteam-a/{NAME[1:]}\nTeam/{NAME}\nteam-a\n../x/{NAME}\n"
    assert decode(text) == {("team-a", NAME)}


def test_list_when_it_does_not_fit_then_whole_lines_are_written() -> None:
    objects = {(f"team-{number}", NAME) for number in range(20_000)}
    text = encode(objects)
    assert MAX_BYTES - 200 < len(text) <= MAX_BYTES
    assert decode(text) < objects
    assert text.endswith(f"/{NAME}\n")
