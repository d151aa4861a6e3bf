"""What a user can rely on in either world, here with pods."""

from __future__ import annotations

from behaviours.behaviours_custom_container import CustomContainerBehaviour
from behaviours.behaviours_faults import FaultBehaviour
from behaviours.behaviours_openai import OpenAIBehaviour
from behaviours.behaviours_rollout import RolloutBehaviour
from behaviours.behaviours_zero import ZeroBehaviour


class TestOpenAI(OpenAIBehaviour):
    pass


class TestZero(ZeroBehaviour):
    pass


class TestCustomContainer(CustomContainerBehaviour):
    pass


class TestRollout(RolloutBehaviour):
    pass


class TestFaults(FaultBehaviour):
    pass
