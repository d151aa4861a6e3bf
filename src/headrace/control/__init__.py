"""The reconcile loop that both worlds share: hears signals, calls the pure rules, publishes routes and keys.

A world (the local cluster, or the operator's view of an API server) is behind the `World` protocol; nothing here knows
which one it is.
"""
