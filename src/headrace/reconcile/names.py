"""The names of children. Every child is named here, so that resources of two kinds never want one name.

A child of a ModelDeployment is named `<name>`, `<name>-<component>`, `<name>-<revision>` or `<name>-fetch-<hash>`. A
child of any other kind is named `<name>-<part>…-<suffix>`: the kind's suffix comes last, and is one word that is
neither a component nor eight hexadecimal digits. So the last word of a name gives the kind away, whatever resources are
called.

One name carries no such word: the Service of a ModelDeployment, which users look up under the model's name. Should one
be called as a Service of another kind is, the later of the two is refused (`headrace.control.world.not_ours`).
"""

from __future__ import annotations

from headrace.api.vocabulary import MODEL_DEPLOYMENT

CHILD_SUFFIXES = {MODEL_DEPLOYMENT: ""}
"""By kind of resource: the last word of its children's names."""


def child_name(kind: str, name: str, *parts: str) -> str:
    """Return the name of a child of the resource of this kind and name; `parts` tell its children apart."""
    return "-".join(filter(None, (name, *parts, CHILD_SUFFIXES[kind])))
