"""The shell of a runtime server: HTTP, health, drain, metrics and load reports around any engine."""
