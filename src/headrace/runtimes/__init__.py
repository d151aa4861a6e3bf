"""The runtime types: one `RuntimeProfile` for each value of `spec.runtime.type`."""
