"""Which model fetches a source that several have."""

from __future__ import annotations

from typing import Any

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.fetchers import Fetchers
from headrace.reconcile.world import Manifest, ResourceKey

URI = "https://example.org/model.gguf"


def key(name: str, namespace: str = "n") -> ResourceKey:
    return ResourceKey(v.MODEL_DEPLOYMENT, namespace, name)


def model(
    name: str, age: int = 0, uri: str = URI, digest: str | None = None, **conditions: tuple[str, str]
) -> Manifest:
    source: dict[str, Any] = {"uri": uri} | ({"digest": digest} if digest else {})
    found = [
        {"type": type_, "status": status, "reason": reason, "message": f"{reason} 7%"}
        for type_, (status, reason) in conditions.items()
    ]
    return {
        "metadata": {"name": name, "namespace": "n", "creationTimestamp": f"2026-01-01T00:00:{age:02}Z"},
        "spec": {"model": {"source": source}},
        "status": {"conditions": found},
    }


def fetchers(*models: Manifest) -> Fetchers:
    made = Fetchers()
    for each in models:
        made.update(key(each["metadata"]["name"]), each)
    return made


def test_fetcher_when_fifty_models_share_a_source_then_oldest() -> None:
    made = fetchers(*(model(f"m{age:02}", age) for age in reversed(range(50))))
    assert {made.other(key(f"m{age:02}")) for age in range(1, 50)} == {key("m00")}
    assert made.other(key("m00")) is None


def test_fetcher_when_chosen_then_older_name_does_not_replace_it() -> None:
    """Not even one created in the same second."""
    made = fetchers(model("b"))
    assert made.other(key("b")) is None
    made.update(key("a"), model("a"))
    assert made.other(key("a")) == key("b")


def test_fetcher_when_one_has_the_file_already_then_that_one() -> None:
    made = fetchers(model("old", 1), model("young", 2, ModelCached=("True", v.CACHED)))
    assert made.other(key("old")) == key("young")


def test_source_when_digest_uri_or_namespace_differ_then_another() -> None:
    made = fetchers(model("a"), model("b", digest="sha256:1"), model("c", uri=f"{URI}?x"))
    made.update(key("a", "elsewhere"), model("a", 9))
    names = [key("a"), key("b"), key("c"), key("a", "elsewhere")]
    assert [made.other(each) for each in names] == [None] * 4


def test_fetcher_when_it_leaves_then_the_next_one_is_concerned() -> None:
    """It is deleted, refused, or its source changes."""
    refused = model("a", Accepted=("False", v.INVALID_SPEC))
    failing = model("a", Progressing=("Unknown", v.RECONCILE_FAILED), ModelCached=("False", v.FETCHING))
    deleting = model("a")
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    for after in (None, refused, failing, deleting, model("a", uri="https://example.org/other")):
        made = fetchers(model("a", 1), model("b", 2), model("c", 3))
        assert made.other(key("b")) == key("a")
        assert made.update(key("a"), after) == {key("b"), key("c")}
        assert (made.other(key("b")), made.other(key("c"))) == (None, key("b"))


def test_others_when_a_fetch_goes_on_then_only_its_end_counts() -> None:
    made = fetchers(model("a"), model("b"), model("c", uri="https://example.org/other"))
    assert made.other(key("b")) == key("a")
    assert made.update(key("b"), model("b", ModelCached=("False", v.FETCHING))) == set()
    fetching = model("a", ModelCached=("False", v.FETCHING))
    assert made.update(key("a"), fetching) == {key("b")}
    further = model("a", ModelCached=("False", v.FETCHING))
    further["status"]["conditions"][0]["message"] = "8%"
    assert made.update(key("a"), further) == set()
    assert made.update(key("a"), model("a", ModelCached=("True", v.CACHED))) == {key("b")}


def test_fetcher_when_there_is_no_source_then_there_is_none() -> None:
    made = fetchers({**model("a"), "spec": {"model": {}}}, {**model("b"), "spec": {}})
    assert (made.other(key("a")), made.other(key("b")), made.other(key("c"))) == (None, None, None)


def test_fetcher_when_passes_fail_after_verification_then_stays() -> None:
    made = fetchers(model("a", 1), model("b", 2))
    assert made.other(key("b")) == key("a")
    made.update(key("a"), model("a", 1, Progressing=("Unknown", v.RECONCILE_FAILED), ModelCached=("True", v.CACHED)))
    assert made.other(key("b")) == key("a")
