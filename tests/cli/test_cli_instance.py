"""The commands over a Unix socket, with a cluster behind it that reconciles nothing."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from cli.cli_session import FILE, SECONDS, TINY, Session, serving_session

from headrace.api.vocabulary import COMPONENT_LABEL, COMPONENT_RUNTIME, MODEL_LABEL
from headrace.cli.client import ApiClient
from headrace.cli.commands import apply
from headrace.cli.main import main
from headrace.local.home import InstanceHome
from headrace.reconcile.world import Event, Manifest

KEY_FILE = f"""\
apiVersion: v1
kind: Secret
metadata: {{name: of-a-file, labels: {{headrace.dev/api-key: "true"}}}}
stringData: {{sha256: "{"0" * 64}", models: tiny}}
"""


@pytest.fixture
async def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Session]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    async with serving_session(InstanceHome.of("default"), capsys) as session:
        yield session


async def test_apply_when_new_equal_and_changed_then_it_says_so(session: Session) -> None:
    for verb, text in (("created", FILE), ("unchanged", FILE), ("configured", FILE + "  replicas: 2\n")):
        session.file.write_text(text)
        assert await session.apply() == 0
        assert session.said == f"modeldeployment/tiny {verb}\n"


async def test_apply_when_a_field_is_wrong_then_nothing_is_applied(session: Session) -> None:
    """The error names the field's line."""
    session.file.write_text(FILE + "  replicas: -1\n")
    assert await session.apply() == 2
    assert f"{session.file}:6: spec.replicas" in session.complained
    assert await session.headrace("get", "mdep") == 0
    assert "no modeldeployments" in session.complained


async def test_apply_when_replicas_are_ignored_then_it_is_a_warning(session: Session) -> None:
    session.file.write_text(FILE + "  replicas: 2\n  scaling: {maxReplicas: 2}\n")
    assert await session.apply() == 0
    assert session.complained.startswith(f"warning: {session.file}:6: spec.replicas is ignored")


async def test_apply_when_standard_input_is_wrong_then_its_line_named(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FILE + "  replicas: -1\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert await session.headrace("apply", "-f", "-") == 2
    assert session.complained.startswith("stdin:6: spec.replicas")


@pytest.mark.parametrize(
    ("reason", "says"), [("Idle", "now: it is scaled to zero (Idle)."), ("NameTaken", "now (NameTaken).")]
)
async def test_logs_when_there_is_no_pod_then_the_reason_is_said(session: Session, reason: str, says: str) -> None:
    await session.apply()
    await session.cluster.write_status(TINY, {"conditions": [condition("Ready", "False", reason)]})
    assert await session.headrace("logs", "tiny") == 1
    assert says in session.complained


async def test_apply_when_the_resource_is_rejected_then_a_warning(session: Session) -> None:
    """The spec is valid, but this world does not take it: the reconcile loop says so."""
    session.file.write_text(FILE.replace("https://example.org", "pvc://models"))
    await session.apply()
    message = "spec.model.source.uri: the scheme pvc:// is not allowed here"
    rejected = condition("Accepted", "False", "SourceNotAllowed", message)
    await session.cluster.write_status(TINY, {"conditions": [rejected]})
    assert await session.apply() == 0
    assert session.complained.endswith(
        f"tiny.yaml:5: the reconcile loop rejects modeldeployment/tiny (SourceNotAllowed): {message}\n"
    )


async def test_apply_when_it_makes_a_revision_then_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    await session.apply()
    monkeypatch.setattr(apply, "ACCEPTED_SECONDS", SECONDS)
    accepted = condition("Accepted", "True", "Valid")
    await session.cluster.write_status(TINY, {"conditions": [accepted], "revisions": [{"name": "0a0a0a0a"}]})
    session.file.write_text(FILE + "  scaling: {coldStart: {keep: Weights}}\n")
    applying = asyncio.create_task(session.apply())
    async with asyncio.timeout(10):
        while (session.cluster.resource(TINY) or {})["metadata"]["generation"] == 1:
            await asyncio.sleep(0.005)
    revisions = [{"name": "1b1b1b1b"}, {"name": "0a0a0a0a"}]
    await session.cluster.write_status(
        TINY, {"conditions": [{**accepted, "observedGeneration": 2}], "revisions": revisions}
    )
    assert await applying == 0
    assert session.said == (
        "modeldeployment/tiny configured\n"
        "modeldeployment/tiny: revision 1b1b1b1b replaces 0a0a0a0a, because its replicas differ\n"
    )
    assert await session.apply() == 0
    assert session.said == "modeldeployment/tiny unchanged\n"


def condition(type_: str, status: str, reason: str, message: str = "") -> Manifest:
    return {"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1}


def test_logs_when_a_model_has_several_pods_then_names_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {MODEL_LABEL: "tiny", COMPONENT_LABEL: COMPONENT_RUNTIME}
    pods = [
        {"metadata": {"name": f"tiny-{at}", "labels": labels, "creationTimestamp": f"2026-01-0{at}T00:00:00Z"}}
        for at in (1, 2)
    ]
    monkeypatch.setattr(ApiClient, "get", lambda *_: {"items": pods})
    monkeypatch.setattr(ApiClient, "logs", lambda *_, **__: iter(()))
    assert main(["logs", "tiny"]) == 0
    assert capsys.readouterr().err == "log of pod/tiny-2, the newest; other pods: tiny-1\n"


async def test_get_when_a_format_is_asked_for_then_it_is_that(session: Session) -> None:
    await session.apply()
    await session.headrace("get", "mdep", "tiny", "-o", "json")
    assert json.loads(session.said)["metadata"]["name"] == "tiny"
    await session.headrace("get", "mdep/tiny", "-o", "yaml")
    assert yaml.safe_load(session.said)["kind"] == "ModelDeployment"
    await session.headrace("get", "mdep", "-o", "name")
    assert session.said == "modeldeployment/tiny\n"
    await session.headrace("get", "mdep")
    assert "MESSAGE" not in session.said
    await session.headrace("get", "mdep", "-A", "-o", "wide")
    assert session.said.startswith("NAMESPACE")
    assert "MESSAGE" in session.said


async def test_get_when_watching_then_prints_until_the_instance_ends(session: Session) -> None:
    await session.apply()
    watching = asyncio.create_task(session.headrace("get", "mdep", "-o", "name", "--watch"))
    await asyncio.to_thread(main, ["scale", "mdep/tiny", "--replicas", "2"])
    session.stopping.set()
    await watching
    assert "modeldeployment/tiny\n" in session.said


async def test_scale_when_asked_then_the_replicas_are_those(session: Session) -> None:
    await session.apply()
    assert await session.headrace("scale", "mdep/tiny", "--replicas", "3") == 0
    await session.headrace("get", "mdep/tiny", "-o", "json")
    assert json.loads(session.said)["spec"]["replicas"] == 3


@pytest.mark.parametrize("named", ["mdep/tiny mdep/small", "mdep tiny small"])
async def test_commands_when_several_are_named_then_each_is_meant(session: Session, named: str) -> None:
    session.file.write_text(FILE + "---\n" + FILE.replace("{name: tiny}", "{name: small}"))
    await session.apply()
    words = named.split()
    assert await session.headrace("get", *words, "-o", "name") == 0
    assert session.said == "modeldeployment/tiny\nmodeldeployment/small\n"
    await session.headrace("get", *words)
    assert [line.split()[0] for line in session.said.splitlines()] == ["NAME", "tiny", "small"]
    await session.headrace("get", *words, "-o", "json")
    assert [item["metadata"]["name"] for item in json.loads(session.said)["items"]] == ["tiny", "small"]
    assert await session.headrace("describe", *words) == 0
    assert session.said.count("Name:  ") == 2
    assert await session.headrace("scale", *words, "--replicas", "2") == 0
    assert session.said == "modeldeployment/tiny scaled to 2\nmodeldeployment/small scaled to 2\n"
    assert await session.headrace("wait", *words, "--timeout", "0.1s") == 1
    assert "modeldeployment/tiny did not" in session.complained
    assert "modeldeployment/small did not" in session.complained
    assert await session.headrace("delete", *words) == 0
    assert session.said == "modeldeployment/tiny deleted\nmodeldeployment/small deleted\n"
    assert await session.headrace("wait", *words, "--for", "delete") == 0


async def test_get_when_kinds_are_mixed_then_each_has_its_table(session: Session) -> None:
    await session.apply()
    await session.headrace("keys", "create", "app")
    assert await session.headrace("get", "mdep/tiny", "secret/app") == 0
    tiny, app = session.said.split("\n\n")
    assert tiny.splitlines()[1].startswith("tiny")
    assert app.splitlines()[1].startswith("app")


async def test_delete_when_one_is_not_there_then_the_others_go(session: Session) -> None:
    await session.apply()
    assert await session.headrace("delete", "mdep", "no", "tiny") == 1
    assert session.said == "modeldeployment/tiny deleted\n"
    assert session.complained.startswith("error: ")


async def test_wait_when_the_condition_does_not_come_then_times_out(session: Session) -> None:
    await session.apply()
    assert await session.headrace("wait", "mdep/tiny", "--timeout", "0.2s") == 1
    assert "did not meet condition=Ready in 0.2s" in session.complained


async def test_wait_when_for_deletion_then_it_ends_with_it(session: Session) -> None:
    await session.apply()
    waiting = asyncio.create_task(asyncio.to_thread(main, ["wait", "mdep/tiny", "--for", "delete", "--timeout", "5s"]))
    assert await asyncio.to_thread(main, ["delete", "mdep/tiny"]) == 0
    assert await waiting == 0


@pytest.mark.parametrize(
    ("command", "see"),
    [
        ("get mdep/no", "headrace get modeldeployments"),
        ("describe mdep/no", "headrace get modeldeployments"),
        ("delete mdep/no", "headrace get modeldeployments"),
        ("delete mdep/no -n elsewhere", "headrace get modeldeployments -n elsewhere"),
        ("scale mdep/no --replicas 1", "headrace get modeldeployments"),
        ("wait no", "headrace get modeldeployments"),
        ("logs no", "headrace get modeldeployments"),
        ("logs pod/no", "headrace get pods"),
        ("keys revoke no", "headrace keys list"),
        ("keys revoke no -n elsewhere", "headrace keys list -n elsewhere"),
    ],
)
async def test_object_when_missing_then_the_error_says_where_to_look(session: Session, command: str, see: str) -> None:
    assert await session.headrace(*command.split()) == 1
    assert session.complained.startswith("error: ")
    assert f"`{see}`" in session.complained


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("logs secret/x", 2, "mdep/NAME or pod/NAME"),
        ("logs tiny", 1, "tiny has no runtime pod now (Pending). `headrace describe mdep/tiny` shows why"),
        ("logs tiny --fetch", 1, "tiny has no fetch pod now (Pending). `headrace describe mdep/tiny` shows why"),
        ("describe mdep", 2, "'mdep' does not name a ModelDeployment. Give its name: mdep/NAME"),
        ("apply -f {made}", 2, "made:2: deployments are made by headrace, not by users. Known kinds: v1 ConfigMap"),
        ("keys create Not_A_Name", 2, "error: 'Not_A_Name' is not a valid name of a key: it must be a DNS name"),
        ("apply -f {unknown}", 2, "unknown:2: unknown kind Foo. Known kinds: v1 ConfigMap"),
        ("apply -f {mistyped}", 2, "mistyped:2: unknown kind ModelDeploymnt. Did you mean Model"),
        ("apply -f {short}", 2, "short:2: unknown kind mdep. Did you mean ModelDeployment?"),
        ("apply -f {newer}", 2, "newer:1: there is no ModelDeployment in headrace.dev/v1. Write `apiVersion: headrace"),
        ("apply -f {empty}", 2, "A resource is a mapping with apiVersion"),
        ("apply -f {absent}", 2, "Give the path of a manifest"),
    ],
)
async def test_command_when_impossible_then_error_says_what_possible(
    session: Session, tmp_path: Path, command: str, code: int, says: str
) -> None:
    await session.apply()
    (tmp_path / "unknown").write_text("apiVersion: v1\nkind: Foo\nmetadata: {name: x}\n")
    (tmp_path / "mistyped").write_text(FILE.replace("ModelDeployment", "ModelDeploymnt"))
    (tmp_path / "short").write_text(FILE.replace("ModelDeployment", "mdep"))
    (tmp_path / "newer").write_text(FILE.replace("v1alpha1", "v1"))
    (tmp_path / "empty").write_text("---\n")
    (tmp_path / "made").write_text("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n")
    files = {name: tmp_path / name for name in ("made", "unknown", "mistyped", "short", "newer", "empty", "absent")}
    assert await session.headrace(*command.format(**files).split()) == code
    assert says in session.complained


@pytest.mark.parametrize("words", ["-n elsewhere keys create app", "keys -n elsewhere create app"])
async def test_namespace_when_it_precedes_the_action_then_it_counts(session: Session, words: str) -> None:
    assert await session.headrace(*words.split()) == 0
    assert [secret["metadata"]["namespace"] for secret in session.cluster.index.list("Secret")] == ["elsewhere"]


async def test_keys_when_the_name_is_taken_then_the_error_has_a_remedy(session: Session) -> None:
    await session.headrace("keys", "create", "app")
    assert await session.headrace("keys", "create", "app") == 1
    assert session.complained.startswith("error: a key 'app' exists already")
    assert "`headrace keys revoke app`" in session.complained


async def test_keys_when_first_made_or_last_gone_then_effect_is_said(session: Session) -> None:
    """The output says whether requests now need a key."""
    needs, needs_none = "From now on every request needs a key", "requests from this machine need none again"
    await session.headrace("keys", "create", "first")
    assert needs in session.complained
    assert "HEADRACE_API_KEY" in session.complained
    await session.headrace("keys", "create", "second", "-n", "elsewhere")
    assert needs not in session.complained
    await session.headrace("keys", "revoke", "first")
    assert needs_none not in session.said
    await session.headrace("keys", "revoke", "second", "-n", "elsewhere")
    assert needs_none in session.said


async def test_keys_when_listed_then_the_models_of_each_are_shown(session: Session) -> None:
    await session.apply()
    session.file.write_text(KEY_FILE)
    await session.apply()
    await session.headrace("keys", "create", "any")
    await session.headrace("keys", "create", "one", "--model", "tiny", "--model", "other")
    assert session.complained.endswith("warning: namespace default has no model 'other' now (models: tiny)\n")
    await session.headrace("keys", "list")
    rows = [line.split()[:-1] for line in session.said.splitlines()]
    assert rows == [["NAME", "MODELS"], ["any", "all"], ["of-a-file", "some"], ["one", "tiny,other"]]


async def test_keys_when_in_other_namespaces_then_these_are_named(session: Session) -> None:
    await session.headrace("keys", "list", "-A")
    assert session.said == "no API keys\n"
    await session.headrace("keys", "create", "app", "-n", "team-a")
    await session.headrace("keys", "list")
    assert session.said.startswith("no API keys in namespace default; namespaces with keys: team-a")
    await session.headrace("keys", "list", "-A")
    assert [line.split()[0] for line in session.said.splitlines()] == ["NAMESPACE", "team-a"]


async def test_keys_when_the_name_is_of_another_secret_then_it_stays(session: Session) -> None:
    session.file.write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: app}\n")
    await session.apply()
    assert await session.headrace("keys", "create", "app") == 1
    assert "is not an API key" in session.complained
    assert await session.headrace("keys", "revoke", "app") == 1
    assert session.complained.startswith("error: there is no key 'app'")


async def test_scale_when_the_autoscaler_decides_then_it_is_a_warning(session: Session) -> None:
    session.file.write_text(FILE + "  scaling: {minReplicas: 0, maxReplicas: 2}\n")
    await session.apply()
    assert await session.headrace("scale", "mdep/tiny", "--replicas", "2") == 0
    assert session.said == ""
    assert session.complained.startswith("warning: modeldeployment/tiny is not scaled")
    assert "Change its minReplicas and maxReplicas" in session.complained
    assert await session.headrace("scale", "mdep/tiny", "--replicas", "0") == 0
    assert "To scale to zero, set spec.suspend: true" in session.complained


async def test_get_when_a_model_has_a_public_name_then_wide_shows_it(session: Session) -> None:
    await session.apply()
    await session.cluster.write_status(TINY, {"publicName": "org/llama3.1:8b"})
    await session.headrace("get", "mdep", "-o", "wide")
    header, row = session.said.splitlines()
    assert row[header.index("MODEL") :].startswith("org/llama3.1:8b")


async def test_events_when_listed_then_the_last_one_is_last(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    await session.apply()
    for second, reason in ((1, "First"), (3, "Last"), (2, "Middle")):
        monkeypatch.setattr("headrace.local.cluster.timestamp", lambda _, s=second: f"2026-01-01T00:00:0{s}Z")
        await session.cluster.record(TINY, Event("Normal", reason, "it happened"))
    await session.headrace("get", "events")
    assert [line.split()[2] for line in session.said.splitlines()[1:]] == ["First", "Middle", "Last"]


async def test_describe_when_a_model_is_there_then_it_is_told(session: Session) -> None:
    await session.apply()
    assert await session.headrace("describe", "mdep/tiny") == 0
    assert "tiny" in session.said


async def test_keys_when_created_then_listed_without_key_and_deleted(session: Session) -> None:
    assert await session.headrace("keys", "create", "app") == 0
    key = session.said.removesuffix("\n")  # `KEY=$(headrace keys create app)`
    assert re.fullmatch(r"hr_default_\S+", key)
    assert await session.headrace("keys", "list") == 0
    assert "app" in session.said
    assert key not in session.said
