"""Each rule says the same as CEL (to the API server) and as Python (to everybody else)."""

from __future__ import annotations

from typing import Any

import celpy
import pytest
from celpy.adapter import json_to_cel
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.rules import Rule
from headrace.kinds.modeldeployment.rules import RESERVED_VARIABLES, RULES

NAMES = st.one_of(st.sampled_from(["smol", "a" * 40, "a" * 41, "", "a\n", "-a", "a-", "1a", "A"]), st.text(max_size=50))
URIS = st.one_of(
    st.sampled_from(
        [
            *("package://a@1/b", "package://a@1/", "package://a/b", "package://a@1//b", "package://@1/b"),
            *("https://h/p", "https://h", "https:///p", "http://h/p", "file:///p", "file://p", "file:///", ""),
            *("https://h/p\n", "package://a@1/b\n", "file:///p\n"),
            *("pvc://claim/a/b.gguf", "pvc://my.claim-1/x", "pvc://claim", "pvc://claim/", "pvc:///x", "pvc://-c/x"),
            *("pvc://claim/../x", "pvc://claim/a/../../x", "pvc://claim//x", "pvc://claim/.hidden", "pvc://claim/x/"),
            *("s3://bucket/a/b", "s3://bucket/a/", "s3://bucket", "s3://b/a", "s3://bucket/a//b", "s3://bucket/../a"),
            *("oci://h/r", "oci://h:5000/o/r:v1", "oci://h/r@sha256:" + "0" * 64, "oci://h", "oci://h/R", "oci://h/r:"),
            *("oci://h/../r", "oci://u@h/r", "oci://h/r@sha256:0", "oci://h/r:v1/x", "oci://h//r", "oci://h/a_._b"),
            *("hf://a/b", "hf://a/b@main", "hf://a/b@v1/c.gguf", "hf://a", "hf://a/b/", "hf://a/../b", "hf://a/b@"),
            *("pvc://claim/a b", "pvc://claim/x?y", "pvc://user@claim/x", "pvc://claim/x\n", "PVC://claim/x"),
        ]
    ),
    st.text(max_size=40),
)
NUMBERS = st.integers(0, 5)
VALUES: dict[tuple[str, str], st.SearchStrategy[dict[str, Any]]] = {
    ("", "metadata.name"): st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"name": NAMES})}),
    ("spec.model.source", "uri"): st.fixed_dictionaries({"uri": URIS}),
    ("spec.runtime", "type"): st.fixed_dictionaries({"type": st.sampled_from(["LLM", "MoE"])}),
    ("spec.scaling", "minReplicas"): st.fixed_dictionaries({"minReplicas": NUMBERS, "maxReplicas": NUMBERS}),
    **{
        ("spec.scaling.metric", member): st.fixed_dictionaries(
            {"type": st.sampled_from(["Concurrency", "QueueDelay"])},
            optional={"concurrency": st.just({"target": 1}), "queueDelay": st.just({"targetMilliseconds": 1})},
        )
        for member in ("concurrency", "queueDelay")
    },
}
VALUES |= {
    ("spec.rollout", member): st.fixed_dictionaries(
        {"type": st.sampled_from(["RollingUpdate", "Recreate", "Canary"])},
        optional={"rollingUpdate": st.just({"surge": "Never"}), "canary": st.just({"percent": 10})},
    )
    for member in ("rollingUpdate", "canary")
}
VARIABLE = st.fixed_dictionaries(
    {"name": st.sampled_from(["A", "B", "HEADRACE_", "HEADRACE_POD_IP_", *RESERVED_VARIABLES])},
    optional={"value": st.just("x")},
)
VALUES |= {
    ("spec.template.env[]", "name"): VARIABLE,
    ("spec.template", "env"): st.fixed_dictionaries({}, optional={"env": st.lists(VARIABLE, max_size=4)}),
}
ADAPTERS = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"]), "uri": URIS}), max_size=4)
LLM_OPTIONS = st.fixed_dictionaries(
    {"maxModelLen": NUMBERS, "maxConcurrentRequests": NUMBERS},
    optional={
        "scheduler": st.fixed_dictionaries(
            {"policy": st.sampled_from(["Sarathi", "Flover"])}, optional={"tokenBudget": NUMBERS}
        ),
        "kvCache": st.fixed_dictionaries(
            {}, optional={"layout": st.sampled_from(["Paged", "Slots"]), "tokens": NUMBERS}
        ),
        "adapters": ADAPTERS,
    },
)
VALUES |= {
    (f"spec.runtime.{engine}", field): LLM_OPTIONS
    for engine in ("llm", "moe")
    for field in ("kvCache.layout", "kvCache.tokens", "scheduler.tokenBudget")
}
VALUES |= {
    ("spec.runtime.llm", "adapters"): LLM_OPTIONS,
    ("spec.runtime.llm.adapters[]", "uri"): st.fixed_dictionaries({"uri": URIS}),
    ("spec", "runtime.llm.adapters"): st.fixed_dictionaries(
        {
            "model": st.fixed_dictionaries({}, optional={"source": st.fixed_dictionaries({"uri": URIS})}),
            "runtime": st.fixed_dictionaries(
                {}, optional={"llm": st.fixed_dictionaries({}, optional={"adapters": ADAPTERS})}
            ),
        }
    ),
}
RUNTIMES = st.fixed_dictionaries(
    {"type": st.sampled_from(["LLM", "Container"])},
    optional={
        "llm": st.just({"maxModelLen": 16}),
        "moe": st.just({"maxModelLen": 16}),
        "container": st.just({"image": "x"}),
    },
)
VALUES |= {
    ("spec.runtime", "llm"): RUNTIMES,
    ("spec.runtime", "moe"): RUNTIMES,
    ("spec.runtime", "container"): RUNTIMES,
    ("spec", "model.source"): st.fixed_dictionaries(
        {"model": st.fixed_dictionaries({}, optional={"source": st.just({"uri": "file:///x"})}), "runtime": RUNTIMES}
    ),
}
ENVIRONMENT = celpy.Environment()
PROGRAMS = {rule: ENVIRONMENT.program(ENVIRONMENT.compile(rule.cel)) for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}.{rule.field}")
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rule_when_both_halves_judge_a_value_then_they_agree(rule: Rule, data: st.DataObject) -> None:
    """For any value of the rule's place in a resource, CEL and Python give the same verdict."""
    values = VALUES[rule.path, rule.field]
    value = data.draw(values)
    old = data.draw(values) if rule.transition else None
    variables = {"self": json_to_cel(value)}
    if old is not None:
        variables["oldSelf"] = json_to_cel(old)
    assert bool(PROGRAMS[rule].evaluate(variables)) == rule.check(value, old)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}.{rule.field}")
def test_rule_when_read_by_the_api_server_then_no_escapes(rule: Rule) -> None:
    r"""In CEL, `\.` in a string is a syntax error, which celpy accepts: write `[.]`."""
    assert "\\" not in rule.cel
