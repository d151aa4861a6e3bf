"""Who a replica is in its world, from the environment of its pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace import environment
from headrace.errors import CannotStart
from headrace.events.secret import new_secret, proof, token


@dataclass(frozen=True, slots=True)
class Identity:
    """A replica that belongs to a ModelDeployment, and the broker that hears of it."""

    namespace: str
    deployment: str
    revision: str
    pod: str
    host: str
    """Where gateways reach it: the pod's address."""
    nats_url: str
    nats_user: str | None = None
    nats_password: str | None = field(default=None, repr=False)
    secret: str = field(default_factory=new_secret, repr=False)
    """Of this process alone: in its reports, and nowhere else."""

    @property
    def token(self) -> str:
        """What a request of a gateway carries."""
        return token(self.secret)

    def proof(self, challenge: str) -> str | None:
        """Return the answer to a gateway's challenge; None to what is no challenge."""
        return proof(self.secret, challenge, self.namespace, self.pod)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Identity | None:
        """Return who we are, or None for a server that stands alone (no broker is named).

        Raises CannotStart when the broker is named and the rest is not: such a replica would never be found.
        """
        url = variables.get(environment.NATS_URL)
        if not url:
            return None
        needed = (
            environment.NAMESPACE,
            environment.MODEL_DEPLOYMENT,
            environment.REVISION,
            environment.POD_NAME,
            environment.POD_IP,
        )
        missing = [name for name in needed if not variables.get(name)]
        if missing:
            raise CannotStart(
                f"{environment.NATS_URL} is set, but {', '.join(missing)} is not",
                hint=f"Set all of them (a pod template does), or unset {environment.NATS_URL} to serve alone",
            )
        namespace, deployment, revision, pod, host = (variables[name] for name in needed)
        return cls(
            namespace=namespace,
            deployment=deployment,
            revision=revision,
            pod=pod,
            host=host,
            nats_url=url,
            nats_user=variables.get(environment.NATS_USER),
            nats_password=variables.get(environment.NATS_PASSWORD),
        )
