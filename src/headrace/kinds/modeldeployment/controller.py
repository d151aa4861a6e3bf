"""Functions of ModelDeployments that the reconcile loop calls."""

from __future__ import annotations

from headrace.kinds.controller import Controller
from headrace.kinds.modeldeployment.peers import PeerObserver
from headrace.kinds.modeldeployment.reconcile import reconcile
from headrace.kinds.modeldeployment.reporters import reporters

CONTROLLER = Controller(reconcile=reconcile, observer=PeerObserver, reporters=reporters)
