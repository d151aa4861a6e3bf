"""The HTTP/1.1 server pieces that the gateway and the runtimes share: the protocol, its bounds, errors, and bodies."""
