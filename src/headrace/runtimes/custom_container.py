"""A custom container: any image that serves OpenAI's API over HTTP. Its profile depends on its spec.

Most custom containers do not implement the runtime protocol. Such a container gets variables with
its model and its address, but no login to NATS: the reconcile loop publishes its reports. A self-registering one gets
the same variables as headrace's runtimes.

The root file system is writable, because most engines write caches into it. There is no liveness probe: only the user
knows how long the engine may be too busy to answer. A replica that fails its readiness probe receives no requests.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.api.vocabulary import ANNOUNCES_LABEL, CONTRACT_CAPABILITIES
from headrace.routes.operations import CHAT, COMPLETIONS
from headrace.runtimes.profile import Options, Port, Probe, RuntimeProfile


def _configure(profile: RuntimeProfile, options: Options) -> RuntimeProfile:
    self_registers = options["announces"]
    return replace(
        profile,
        image=options["image"],
        command=tuple(options["command"]),
        ports=(Port("http", options["port"]),),
        readiness=replace(profile.readiness, path=options["readiness_path"]),
        model_name=options["model_name"],
        capacity=options["max_concurrent_requests"],
        self_registers=self_registers,
        capabilities=CONTRACT_CAPABILITIES if self_registers else (),
        pod_labels={ANNOUNCES_LABEL: "true"} if self_registers else {},
    )


CUSTOM_CONTAINER = RuntimeProfile(
    type="Container",
    description="a custom container",
    options="container",
    options_required=True,
    configure=_configure,
    source_required=False,
    image="",
    command=(),
    arguments=lambda launch: launch.options["args"],
    model_variables=True,
    writable_root=True,
    quotes_log=True,
    readiness=Probe("/v1/models", timeout_seconds=5),
    liveness=None,
    operations=(CHAT, COMPLETIONS),
    capabilities=(),
    self_registers=False,
    explains_unready=True,
)
