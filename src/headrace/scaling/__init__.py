"""The autoscaler: a pure rule on signals and a clock."""
