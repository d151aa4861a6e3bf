"""Model sources: from a URI to a verified file in the model directory. Engines never fetch."""
