"""An HTTP/1.1 client with only what a gateway needs: keep-alive, back-pressure, and bytes passed on unparsed."""
