"""A server of the S3 protocol on 127.0.0.1, moto's, and before it a line that breaks, is slow, or lets nothing pass."""

import http.client
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
FULL = b"<Error><Code>QuotaExceeded</Code><Message>The bucket is full</Message></Error>"


class Server:
    """Clients are given `environment`.

    Attributes:
        mode: of the line: "good", "broken" (every third request is cut off), "slow" (each takes half a second more),
            "denied" (nothing may be written), "full" (nothing can be written), "gone" (every request is cut off).
    """

    def __init__(self, port=0):
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
            self._port = free.server_port
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._moto = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.mode, self.requests = "good", 0
        handler = type("Handler", (_Handler,), {"server_": self})
        self._line = ThreadingHTTPServer(("127.0.0.1", port), handler)
        threading.Thread(target=self._line.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._line.server_port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/moto-api/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        self.request("PUT", "/bucket", None, {})

    def request(self, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def stop(self):
        self._line.shutdown()
        self._line.server_close()
        self._moto.terminate()
        self._moto.wait()


class _Handler(BaseHTTPRequestHandler):
    server_: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _pass(self):
        line = self.server_
        line.requests += 1
        mode = line.mode
        body = self._body()
        if mode == "gone" or (mode == "broken" and line.requests % 3 == 0):
            self.close_connection = True
            self.connection.close()
            return
        if mode == "slow":
            time.sleep(0.5)
        if mode == "denied" and self.command != "GET":
            status, headers, answer = 403, {}, DENIED
        elif mode == "full" and self.command in ("PUT", "POST"):
            status, headers, answer = 507, {}, FULL
        else:
            status, headers, answer = line.request(self.command, self.path, body, dict(self.headers))
        self.send_response_only(status)
        kept = {k: v for k, v in headers.items() if k.lower() not in ("transfer-encoding", "connection")}
        if self.command != "HEAD":
            kept = {k: v for k, v in kept.items() if k.lower() != "content-length"} | {
                "Content-Length": str(len(answer))
            }
        for key, value in kept.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
            del self.headers["Transfer-Encoding"]
            self.headers["Content-Length"] = str(len(body))
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass
