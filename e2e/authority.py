"""A server that says who may come in (`forward_auth`), and one that shows public keys: small, and as odd as told."""

import http.server
import ssl
import threading
import time

import harness


class Authority:
    """Answers each request by `reply`, and remembers what it was asked."""

    def __init__(self, reply, certificate=None):
        outer = self
        self.asked, self.at, self.connections, self.reply = [], [], 0, reply
        self.release = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                outer.connections += 1

            def do_GET(self):
                outer.at.append(time.monotonic())
                outer.asked.append((self.command, self.path, [(n.lower(), v) for n, v in self.headers.items()]))
                status, fields, body = outer.reply(self)
                self.send_response_only(status)
                for name, value in fields:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", harness.free_port()), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def fields(self, index=-1):
        return dict(self.asked[index][2])

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
