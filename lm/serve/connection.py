"""A connection with what uvicorn leaves open: how long a request's head may take, and how much of
it there may be."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lm.serve import wire

HEAD = 64 << 10   # bytes of a request's line and headers


class Connection(HttpToolsProtocol):
    """What a handler may look up as scope["state"]["connection"]."""

    timeout: float   # seconds in which the head has to come
    most: int        # bytes of a request, head and body

    def connection_made(self, transport):
        super().connection_made(transport)
        self.app_state = self.app_state | {"connection": self}
        self.raw, self.head = 0, True
        self.timer = self.loop.call_later(self.timeout, self._late)

    def connection_lost(self, error):
        self.timer.cancel()
        super().connection_lost(error)

    def data_received(self, data):
        self.raw += len(data)
        super().data_received(data)
        if self.raw > (HEAD if self.head else self.most) and not self.transport.is_closing():
            if self.head:
                self._refuse(431, f"the headers have more than {HEAD} bytes")
            self.transport.close()

    def on_message_begin(self):
        super().on_message_begin()
        if not self.head:  # a further request on the connection
            self.raw, self.head = 0, True
            self.timer = self.loop.call_later(self.timeout, self._late)

    def on_headers_complete(self):
        self.head = False
        self.timer.cancel()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self):
        if self.transport.get_write_buffer_size():  # of which the client takes nothing
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, message):
        if self.cycle is None or self.cycle.response_complete or not (
                self.cycle.response_started):
            self._refuse(400, "this is no HTTP request")
        self.transport.close()

    def _late(self):
        if self.raw:
            self._refuse(408, f"the headers did not come whole in {self.timeout:g} s")
        self.transport.close()

    def _refuse(self, status, message):
        body = wire.dumps(wire.error(status, message))
        reason = {400: "Bad Request", 408: "Request Timeout",
                  431: "Request Header Fields Too Large"}[status]
        self.transport.write(
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)


def connections(request_timeout: float, max_body: int) -> type:
    """Returns the protocol class of uvicorn for these limits."""
    # However a body is cut into chunks, and whatever trails it.
    return type("Connection", (Connection,), dict(timeout=request_timeout,
                                                  most=HEAD + 16 * max_body))
