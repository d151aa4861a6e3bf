"""An HTTP/1.1 client reduced to keep-alive, back-pressure, and bodies that are relayed unparsed."""
