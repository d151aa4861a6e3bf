"""A kind, a runtime type and an operation, as an extension adds them. Importing it registers the first two."""

from pathlib import Path

from headrace.api.kinds import CONFIG_MAP, Kind
from headrace.api.parts import Part
from headrace.api.schema import Schema
from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT, READY
from headrace.kinds import registry as kinds
from headrace.kinds.children import child_of
from headrace.kinds.columns import condition
from headrace.kinds.controller import Controller
from headrace.kinds.references import named_in
from headrace.kinds.resource_kind import ResourceKind
from headrace.reconcile.conditions import Condition, conditions_of
from headrace.reconcile.world import Manifest, Observed, Outcome, Settings, Signals
from headrace.runtimes import registry as runtimes
from headrace.runtimes.profile import RuntimeProfile
from headrace_gateway.operations import OPERATIONS, Body, Operation, OperationTable


class CardSpec(Part):
    """Which model the card describes."""

    model_ref: str


def reconcile(card: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: None) -> Outcome[None]:
    found = condition(next(iter(observed.references.values()), {}), READY)
    ready = Condition(READY, found.get("status", "False"), found.get("reason", "ModelNotFound"), "as the model is")
    child = child_of(CARD, card, CONFIG_MAP, {"data": {"model": card["spec"]["modelRef"]}})
    return Outcome((child,), {"conditions": conditions_of(card, [ready], signals.wall)}, memory)


KIND = Kind(API_VERSION, "ModelCard", "modelcards", "modelcard")
CARD = ResourceKind(
    kind=KIND,
    schema=lambda: Schema(KIND, "A card of a model.", CardSpec),
    controller=lambda: Controller(reconcile),
    children=(CONFIG_MAP,),
    label="headrace.dev/modelcard",
    suffix="card",
    references=named_in("modelRef", MODEL_DEPLOYMENT),
)
ECHO = Operation(name="echo", path="/v1/echo/{name}", body=Body.JSON, summary="Echo a body", model_parameter="name")
OPERATION_TABLE = OperationTable([*OPERATIONS, ECHO])
ECHO_SERVER = RuntimeProfile(
    type="Echo",
    description="a server that answers with the request's body",
    source_required=False,
    image="echo:1",
    command=("python3", str(Path(__file__).with_name("extension_server.py"))),
    arguments=lambda launch: ("$(HEADRACE_POD_IP)", launch.public_name),
    operations=(ECHO.name,),
    capabilities=(),
    self_registers=False,
)
kinds.register(CARD)
runtimes.register(ECHO_SERVER)
