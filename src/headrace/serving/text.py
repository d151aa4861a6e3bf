"""All endpoints of a runtime server that serves one text model."""

from __future__ import annotations

from headrace.serving.engine import TextEngine
from headrace.serving.exchange import Handlers
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.oip.endpoints import OIPEndpoints
from headrace.serving.openai.endpoints import OpenAIEndpoints
from headrace.serving.replica import Replica


def text_handlers(replica: Replica[TextEngine], model: str, metrics: RuntimeMetrics) -> Handlers:
    """Return the handlers of OpenAI's API and of the Open Inference Protocol, by method and path."""
    openai, oip = OpenAIEndpoints(replica, model, metrics), OIPEndpoints(replica, model, metrics)
    return {**openai.handlers(), **oip.handlers()}
