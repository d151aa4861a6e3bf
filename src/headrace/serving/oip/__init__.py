"""The Open Inference Protocol v2 over HTTP for text models, with the binary tensor and the generate extensions."""
