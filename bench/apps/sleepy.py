"""Waits as long as the path says, in milliseconds: /5, /500. A database, seen from a worker."""

import time


def app(environ, start_response):
    time.sleep(int(environ["PATH_INFO"][1:] or 0) / 1000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]
