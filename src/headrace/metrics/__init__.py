"""Names of metrics that several components use."""
