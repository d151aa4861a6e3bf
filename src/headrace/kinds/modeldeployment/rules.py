"""Validation rules across the fields of a ModelDeployment."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

from headrace import environment
from headrace.api.rules import Rule, matches
from headrace.runtimes.profile import RuntimeProfile
from headrace.runtimes.registry import PROFILES
from headrace.sources.location import FETCHED_FORMS, FETCHED_URIS, FORMS, URIS

NAME_LENGTH = 40
"""A child is named `<name>-<revision>` or `<name>-fetch-<hash>`; a pod's name has two more suffixes, within 63."""
DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
RESERVED_VARIABLES = tuple(sorted(environment.SET_IN_PODS))
"""Variables that headrace sets in pods. An API server responds with 500 to a list with a duplicate name."""
WITHOUT_SOURCE = tuple(profile.type for profile in PROFILES.values() if not profile.source_required)


def _engine_rules(path: str) -> tuple[Rule, ...]:
    """Return the rules of the LLM engine's settings at a path."""
    return (
        Rule(
            path,
            "kvCache.layout",
            "!has(self.scheduler) || self.scheduler.policy != 'Flover' || !has(self.kvCache) || "
            "!has(self.kvCache.layout) || self.kvCache.layout == 'Slots'",
            lambda self, _: (
                self.get("scheduler", {}).get("policy") != "Flover"
                or self.get("kvCache", {}).get("layout", "Slots") == "Slots"
            ),
            "must be Slots when scheduler.policy is Flover",
        ),
        Rule(
            path,
            "kvCache.tokens",
            "!has(self.kvCache) || !has(self.kvCache.tokens) || self.kvCache.tokens >= self.maxModelLen",
            lambda self, _: self.get("kvCache", {}).get("tokens", self["maxModelLen"]) >= self["maxModelLen"],
            "must be at least maxModelLen, so that every request can finish",
        ),
        Rule(
            path,
            "scheduler.tokenBudget",
            "!has(self.scheduler) || !has(self.scheduler.tokenBudget) || "
            "self.scheduler.tokenBudget > self.maxConcurrentRequests",
            lambda self, _: (
                "tokenBudget" not in self.get("scheduler", {})
                or self["scheduler"]["tokenBudget"] > self["maxConcurrentRequests"]
            ),
            "must be greater than maxConcurrentRequests, because each running answer takes one token of a step",
        ),
    )


def _options(profile: RuntimeProfile) -> Rule:
    """Return the rule that the options of a runtime type may only be set for that type."""
    name, type_ = to_camel(profile.options), profile.type
    if profile.options_required:
        return Rule(
            "spec.runtime",
            name,
            f"has(self.{name}) == (self.type == '{type_}')",
            lambda self, _: (name in self) == (self["type"] == type_),
            f"must be set when type is {type_}, and only then",
        )
    return Rule(
        "spec.runtime",
        name,
        f"!has(self.{name}) || self.type == '{type_}'",
        lambda self, _: name not in self or self["type"] == type_,
        f"may only be set when type is {type_}",
    )


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
        " || ".join(f"self.uri.matches('{pattern}')" for pattern in URIS),
        lambda self, _: any(matches(pattern, self["uri"]) for pattern in URIS),
        f"must be {FORMS}",
    ),
    Rule(
        "spec",
        "model.source",
        " || ".join(("has(self.model.source)", *(f"self.runtime.type == '{each}'" for each in WITHOUT_SOURCE))),
        lambda self, _: "source" in self["model"] or self["runtime"]["type"] in WITHOUT_SOURCE,
        f"is required unless runtime.type is {' or '.join(WITHOUT_SOURCE)}",
    ),
    *(_options(profile) for profile in PROFILES.values() if profile.options),
    *(rule for engine in ("llm", "moe") for rule in _engine_rules(f"spec.runtime.{engine}")),
    Rule(
        "spec.runtime.llm.adapters[]",
        "uri",
        " || ".join(f"self.uri.matches('{pattern}')" for pattern in FETCHED_URIS),
        lambda self, _: any(matches(pattern, self["uri"]) for pattern in FETCHED_URIS),
        f"must be {FETCHED_FORMS}",
    ),
    Rule(
        "spec.runtime.llm",
        "adapters",
        "!has(self.adapters) || self.adapters.all(one, self.adapters.exists_one(other, other.name == one.name))",
        lambda self, _: len({one["name"] for one in self.get("adapters", ())}) == len(self.get("adapters", ())),
        "must not have a name twice",
    ),
    Rule(
        "spec",
        "runtime.llm.adapters",
        "!has(self.runtime.llm) || !has(self.runtime.llm.adapters) || size(self.runtime.llm.adapters) == 0 || "
        "!has(self.model.source) || !self.model.source.uri.startsWith('pvc://')",
        lambda self, _: (
            not self["runtime"].get("llm", {}).get("adapters")
            or not self["model"].get("source", {}).get("uri", "").startswith("pvc://")
        ),
        "cannot be combined with a model in a pvc:// claim, because replicas mount one claim",
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
