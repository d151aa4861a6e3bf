"""Model sources: from a URI to a verified file in the model directory. Fetching is never the engine's work."""
