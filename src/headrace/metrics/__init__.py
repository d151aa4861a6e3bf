"""Names of metrics that more than one component uses, in one place."""
