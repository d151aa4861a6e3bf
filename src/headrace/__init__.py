"""The core of headrace: what every component may import, and nothing that needs torch or a cluster."""
