"""The commands without an instance, and how things are printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import headrace_llm.main
from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.commands.wait import _Goal, _Wait
from headrace.cli.main import COMMANDS, main
from headrace.cli.targets import UnknownKind, target_of
from headrace.errors import InvalidModel
from headrace.kinds.columns import age
from headrace.kinds.registry import KINDS
from headrace.local.home import InstanceHome
from headrace.serving.identity import Identity
from headrace_models.gguf import GGUFFile


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))


def test_version_when_an_option_then_as_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["version"])
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, printed)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_when_asked_then_every_command_has_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "usage: headrace" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["get", "mdep"],
        ["describe", "mdep/x"],
        ["delete", "mdep/x"],
        ["scale", "mdep/x", "--replicas", "1"],
        ["logs", "x"],
        ["wait", "mdep/x"],
        ["chat", "x", "hello"],
        ["keys", "list"],
        ["down"],
    ],
)
def test_command_when_no_instance_runs_then_says_how_to_start(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 3
    assert "headrace up" in capsys.readouterr().err


def test_command_when_another_instance_runs_then_both_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    running = InstanceHome.of("two")
    running.make()
    with running.locked():
        assert main(["down", "--instance", "three"]) == 3
    assert capsys.readouterr().err == (
        "error: the instance 'three' is not running. Start it with `headrace up --instance three`, "
        "or use --instance with a running one: two\n"
    )


WITHOUT_INSTANCE = {"up", "apply", "doctor", "version", "dev"}
"""Commands that do more than say that it does not run, or need none."""
WORDS = {
    "get": "get mdep",
    "describe": "describe mdep/x",
    "delete": "delete mdep/x",
    "scale": "scale mdep/x --replicas 1",
    "logs": "logs x",
    "wait": "wait mdep/x",
    "chat": "chat x hello",
    "keys list": "keys list",
    "keys create": "keys create x",
    "keys revoke": "keys revoke x",
    "down": "down",
    "node": "node",
}


@pytest.mark.parametrize("command", WORDS)
def test_instance_when_it_is_named_anywhere_then_it_is_that_one(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the command, behind it, behind its action, and at the end; with the last one counting."""
    words = WORDS[command].split()
    for at in (0, *range(1, len(command.split()) + 1), len(words)):
        for option in (["--instance", "three"], ["--instance=three"], ["--instance", "two", "--instance", "three"]):
            assert main([*words[:at], *option, *words[at:]]) == 3
            assert "the instance 'three' is not running" in capsys.readouterr().err
    assert main(["--instance", "two", *words, "--instance", "three"]) == 3
    assert "the instance 'three' is not running" in capsys.readouterr().err


def test_instance_when_commands_counted_then_every_one_was_tried() -> None:
    assert {command.split()[0] for command in WORDS} | WITHOUT_INSTANCE == set(COMMANDS)


@pytest.mark.parametrize("words", [["--instance", "three", "doctor"], ["doctor", "--instance", "three"]])
def test_doctor_when_instance_is_named_then_it_checks_that_one(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    assert "three: not running" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["{} up", "up {}", "{} apply -f x", "apply {} -f x", "apply -f x {}"])
def test_up_when_an_instance_is_named_then_it_is_that_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.format("--instance Not_A_Name").split()) == 2
    assert "'Not_A_Name' cannot name an instance" in capsys.readouterr().err


def test_instance_when_only_environment_names_it_then_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_INSTANCE", "three")
    assert main(["keys", "list"]) == 3
    assert "the instance 'three' is not running" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["-n A/B get mdep", "get -n A/B mdep", "keys -n A/B list", "keys list -n A/B"])
def test_namespace_when_it_is_named_anywhere_then_it_is_read(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words.split())
    assert "'A/B' is not a valid namespace" in capsys.readouterr().err


def test_namespace_when_the_command_takes_none_then_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["-n", "team-a", "down"])
    assert caught.value.code == 2
    assert "`headrace down` has no option --namespace" in capsys.readouterr().err


def test_help_of_headrace_llm_when_printed_then_defaults_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        headrace_llm.main.main(["serve", "--help"])
    said = capsys.readouterr().out
    assert "None" not in said
    assert "(default: 8000)" in said


def test_headrace_llm_when_the_file_is_missing_then_named_once() -> None:
    with pytest.raises(InvalidModel) as caught:
        GGUFFile(Path("/nosuch.gguf"))
    assert (
        str(caught.value) == "cannot read /nosuch.gguf: No such file or directory. Check the path and who may read it"
    )


@pytest.mark.parametrize("identity", [None, object()])
def test_headrace_llm_when_a_replica_then_recommends_no_request(
    identity: object | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Identity, "of", lambda _: identity)
    headrace_llm.main._greet("m", "127.0.0.1", 8000)
    assert ("curl" in capsys.readouterr().out) == (identity is None)


def test_words_when_they_stand_behind_options_then_they_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "mdep", "-o", "json", "smol"]) == 3  # no instance: so it was understood


def test_option_when_unknown_then_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["get", "mdep", "--colour"])
    assert caught.value.code == 2
    assert "--colour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "kind", "name"),
    [
        (["mdep/x"], "ModelDeployment", "x"),
        (["mdep", "x"], "ModelDeployment", "x"),
        (["x"], "ModelDeployment", "x"),
        (["pods/y"], "Pod", "y"),
        (["PO", "y"], "Pod", "y"),
    ],
)
def test_target_when_named_as_kubectl_takes_it_then_it_is_found(words: list[str], kind: str, name: str) -> None:
    target = target_of(words)
    assert (target.kind.kind, target.name) == (kind, name)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--for", "nonsense", "condition=TYPE"),
        ("--for", "condition=", "condition=TYPE"),
        ("--for", "condition", "condition=TYPE"),
        ("--for", "condition=Ready=Perhaps", "True, False or Unknown"),
        ("--for", "jsonpath={.status}", "condition=TYPE"),
        ("--for", "delete=now", "condition=TYPE"),
        ("--timeout", "nonsense", "30s, 5m or 1h"),
        ("--timeout", "", "30s, 5m or 1h"),
        ("--timeout", "s", "30s, 5m or 1h"),
        ("--timeout", "-5s", "30s, 5m or 1h"),
        ("--timeout", "0", "30s, 5m or 1h"),
        ("--timeout", "nan", "30s, 5m or 1h"),
        ("--timeout", "1e999h", "30s, 5m or 1h"),
        ("--timeout", "5 weeks", "30s, 5m or 1h"),
        ("--namespace", "A/B", "lower-case"),
    ],
)
def test_wait_when_option_is_invalid_then_error_lists_valid_ones(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["wait", "mdep/x", f"{option}={value}"])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_wait_when_the_condition_is_unknown_then_known_are_named() -> None:
    client, target = ApiClient(Path("nobody")), target_of(["mdep/x"])
    waiting = _Wait(client, target, "default", _Goal.parse("condition=Redy"))
    assert not waiting._holds({"metadata": {}, "status": {"conditions": [{"type": "Ready"}, {"type": "Fetched"}]}})
    assert waiting.seen == "it has no condition Redy (it has Ready, Fetched)"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["keys"], "required: create|list|revoke"),
        (["logs", "x", "--tail=-1"], "--tail"),
        (["scale", "mdep/x", "--replicas=-1"], "--replicas"),
        (["delete"], "Give KIND/NAME or -f FILE"),
        (["describe", "mdep"], "Give its name: mdep/NAME (`headrace get mdep` lists them)"),
        (["get", "foo"], "modeldeployments"),
        (["get", "modeldeploymnt"], "Did you mean modeldeployments?"),
        (["get", "mdep", "--instance", "Not_A_Name"], "lower-case"),
    ],
)
def test_command_when_its_words_are_unknown_then_error_suggests(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(words))
    assert caught.value.code == 2
    complained = capsys.readouterr().err
    assert says in complained
    assert "?." not in complained


@pytest.mark.parametrize(
    "words",
    [["nothing/x"], ["mdep"], ["mdep", "x", "y"], ["mdep/"], ["mdep/x/y"], ["mdep", "pod/y"], ["mdep/x", "pod"]],
)
def test_target_when_it_cannot_be_meant_then_the_error_helps(words: list[str]) -> None:
    with pytest.raises(UnknownKind) as caught:
        target_of(words)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "90s"), (121, "2m"), (7200, "2h"), (3 * 86400, "3d"), (-5, "0s")]
)
def test_age_when_printed_then_it_is_kubectl_s(seconds: int, text: str) -> None:
    assert age("2026-01-01T00:00:00Z", 1767225600 + seconds) == text


def _change(kind: str, reason: str, message: str, created: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": message}
    metadata = {"name": "tiny", "namespace": "default", "creationTimestamp": created}
    return {"type": kind, "object": {"metadata": metadata, "spec": {"model": {}}, "status": {"conditions": [ready]}}}


@pytest.mark.parametrize(("form", "rows"), [([], 4), (["-o", "wide"], 6)])
def test_get_when_watching_then_prints_changes_beyond_the_age(
    form: list[str], rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [
        _change("ADDED", "Fetching", "0%", "2026-01-01T00:00:00Z"),
        _change("MODIFIED", "Fetching", "50%", "2025-01-01T00:00:00Z"),
        _change("MODIFIED", "Fetching", "99%", "2024-01-01T00:00:00Z"),
        _change("MODIFIED", "Starting", "now", "2024-01-01T00:00:00Z"),
        _change("MODIFIED", "Starting", "now", "2023-01-01T00:00:00Z"),
        _change("DELETED", "Starting", "now", "2023-01-01T00:00:00Z"),
        _change("ADDED", "Starting", "now", "2026-01-01T00:00:00Z"),
    ]
    monkeypatch.setattr(ApiClient, "watch", lambda *_: iter(changes))
    assert main(["get", "mdep", "--watch", *form]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("NAME")
    assert len(said[1:]) == rows
    assert sum("(deleted)" in line for line in said) == 1


def test_table_when_printed_then_its_columns_are_aligned() -> None:
    pods = [
        {"metadata": {"name": name}, "spec": {"containers": [{}]}, "status": {"phase": "Running"}}
        for name in ("a", "longer")
    ]
    columns = output.columns_of(KINDS["Pod"], wide=False, all_namespaces=False)
    header, first, second = output.table(columns, pods)
    assert header.index("READY") == first.index("0/1") == second.index("0/1")
