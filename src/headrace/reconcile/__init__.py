"""Types and functions that the rules of all kinds share: (resource, observed state, signals) -> outcome.

Rules are level-triggered: an outcome depends on the observed state, never on past events. Both worlds run the same
functions.
"""
