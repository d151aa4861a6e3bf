"""The reconcile loop: receives signals, calls the pure rules, and publishes routes and API keys.

It is the same in local mode and in the operator: the local cluster and the API server implement the `World` protocol.
"""
