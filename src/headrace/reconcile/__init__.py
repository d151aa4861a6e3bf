"""Pure rules: (resource, observed children, signals) -> (children, status, events, requeue).

Level-triggered: an outcome depends on what is, never on what happened. Both worlds run exactly these functions.
"""
