"""A web server on 127.0.0.1 that answers as some do: well, late, without end, with pages, elsewhere."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """Serves `pages`: by path, bytes, or a function of the handler."""

    def __init__(self, pages):
        handler = type("Handler", (_Handler,), {"pages": pages})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pages: dict

    def log_message(self, *args):
        pass

    def do_GET(self):
        page = self.pages.get(self.path)
        if callable(page):
            page(self)
        elif page is None:
            self.send_error(404)
        else:
            self.answer(200, {"Content-Length": str(len(page))}, page)

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # nobody reads on
            self.close_connection = True


def to(place):
    """An answer that redirects."""
    return lambda handler: handler.answer(302, {"Location": place, "Content-Length": "0"})


def drop_by_drop(handler):
    """An answer of a byte every twentieth of a second, for a second."""
    handler.answer(200, {"Content-Length": "1000"})
    for _ in range(20):
        try:
            handler.wfile.write(b"x")
        except OSError:
            break
        time.sleep(0.05)
