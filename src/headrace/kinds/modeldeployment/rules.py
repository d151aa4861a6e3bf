"""Validation rules across the fields of a ModelDeployment."""

from __future__ import annotations

from headrace import environment
from headrace.api.rules import Rule, matches
from headrace.sources.location import FILE_URI, HTTPS_URI, PACKAGE_URI, PVC_URI

NAME_LENGTH = 40
"""A child's name is `<name>-<revision>` or `<name>-fetch-<hash>`, and a pod's has two suffixes more, within 63."""
_URIS = (PACKAGE_URI, HTTPS_URI, PVC_URI, FILE_URI)
DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
RESERVED_VARIABLES = tuple(sorted(environment.SET_IN_PODS))
"""What headrace sets in pods. An API server answers to a list of variables with two of one name with an error 500."""


RULES: tuple[Rule, ...] = (
    Rule(
        "",
        "metadata.name",
        f"size(self.metadata.name) <= {NAME_LENGTH}",
        lambda self, _: len(self["metadata"]["name"]) <= NAME_LENGTH,
        f"must have at most {NAME_LENGTH} characters, because the names of its pods are longer",
    ),
    Rule(
        "",
        "metadata.name",
        f"self.metadata.name.matches('{DNS_LABEL}')",
        lambda self, _: matches(DNS_LABEL, self["metadata"]["name"]),
        "must start with a letter and contain only lower-case letters, digits and '-'",
    ),
    Rule(
        "spec.model.source",
        "uri",
        " || ".join(f"self.uri.matches('{pattern}')" for pattern in _URIS),
        lambda self, _: any(matches(pattern, self["uri"]) for pattern in _URIS),
        "must be package://DISTRIBUTION@VERSION/PATH, https://HOST/PATH, pvc://CLAIM/PATH or file:///PATH",
    ),
    Rule(
        "spec",
        "model.source",
        "has(self.model.source) || self.runtime.type == 'Container'",
        lambda self, _: "source" in self["model"] or self["runtime"]["type"] == "Container",
        "is required unless runtime.type is Container",
    ),
    Rule(
        "spec.runtime",
        "llm",
        "!has(self.llm) || self.type == 'LLM'",
        lambda self, _: "llm" not in self or self["type"] == "LLM",
        "may only be set when type is LLM",
    ),
    Rule(
        "spec.runtime",
        "container",
        "has(self.container) == (self.type == 'Container')",
        lambda self, _: ("container" in self) == (self["type"] == "Container"),
        "must be set when type is Container, and only then",
    ),
    Rule(
        "spec.runtime",
        "type",
        "self.type == oldSelf.type",
        lambda self, old: old is None or self["type"] == old["type"],
        "is immutable: create another ModelDeployment for another runtime",
        transition=True,
    ),
    Rule(
        "spec.scaling",
        "minReplicas",
        "self.minReplicas <= self.maxReplicas",
        lambda self, _: bool(self["minReplicas"] <= self["maxReplicas"]),
        "must not be greater than maxReplicas",
    ),
    Rule(
        "spec.scaling.metric",
        "concurrency",
        "!has(self.concurrency) || self.type == 'Concurrency'",
        lambda self, _: "concurrency" not in self or self["type"] == "Concurrency",
        "may only be set when type is Concurrency",
    ),
    Rule(
        "spec.scaling.metric",
        "queueDelay",
        "!has(self.queueDelay) || self.type == 'QueueDelay'",
        lambda self, _: "queueDelay" not in self or self["type"] == "QueueDelay",
        "may only be set when type is QueueDelay",
    ),
    Rule(
        "spec.rollout",
        "rollingUpdate",
        "!has(self.rollingUpdate) || self.type == 'RollingUpdate'",
        lambda self, _: "rollingUpdate" not in self or self["type"] == "RollingUpdate",
        "may only be set when type is RollingUpdate",
    ),
    Rule(
        "spec.rollout",
        "canary",
        "has(self.canary) == (self.type == 'Canary')",
        lambda self, _: ("canary" in self) == (self["type"] == "Canary"),
        "must be set when type is Canary, and only then",
    ),
    Rule(
        "spec.template.env[]",
        "name",
        f"!(self.name in {list(RESERVED_VARIABLES)})",
        lambda self, _: self["name"] not in RESERVED_VARIABLES,
        "is reserved: headrace sets this variable itself",
        quotes=True,
    ),
    Rule(
        "spec.template",
        "env",
        "!has(self.env) || self.env.all(one, self.env.exists_one(other, other.name == one.name))",
        lambda self, _: len({one["name"] for one in self.get("env", ())}) == len(self.get("env", ())),
        "must not set a variable twice",
    ),
)
