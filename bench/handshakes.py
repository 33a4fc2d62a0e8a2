"""New TLS connections, at a rate that neither server nor client is full with: what one costs the server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

import load
from stacks import Shape, Stack

RATE = 200.0
"""Connections a second, over all clients: servers could do some thousands, but the client is Python with OpenSSL 3.0, which takes
more than a millisecond for one."""

CLIENTS = 4
"""At work at once: a handshake is two round trips, in which others may begin theirs."""

SECONDS = 8.0

SUITE = "TLS_AES_256_GCM_SHA384"
"""What all of them choose when nobody is told anything; the key exchange is X25519, which OpenSSL offers first."""


def handshakes(resumed: bool):
    """Each connection is a handshake of TLS 1.3, after which the client says that it sends nothing and waits for the
    server's end: so the server has finished too, and its tickets have come. Nothing is set about those: both servers
    send two after a full handshake; after a resumed one OpenSSL sends one and rustls two."""

    def measure(comparison, bench) -> dict:
        from comparisons import certificate

        cert = certificate(bench.files)
        (bench.files / "file.bin").write_bytes(b"x")
        shapes = dict.fromkeys(comparison.stacks, Shape(str(bench.files), serve=True, certificate=cert))
        seconds = bench.duration or SECONDS
        return bench.interleaved(
            comparison.stacks, shapes, "/file.bin", lambda stack, _: shake(stack, cert, seconds, resumed)
        )

    return measure


def shake(stack: Stack, certificate: Path, seconds: float, resumed: bool) -> load.Round:
    latencies: list[float] = []
    wrong: list[str] = []
    before, began = stack.cpu_us(), time.monotonic()
    until = began + seconds
    clients = [
        threading.Thread(target=client, args=(stack.tls_port, certificate, until, number, resumed, latencies, wrong))
        for number in range(CLIENTS)
    ]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    took = time.monotonic() - began
    spent = stack.cpu_us() - before
    latencies.sort()
    count = max(len(latencies), 1)
    p50, p99 = (latencies[int(count * part)] * 1e6 if latencies else 0.0 for part in (0.50, 0.99))
    reached = len(latencies) / took
    why = f"{len(wrong)} failed: {wrong[0]}" if wrong else ""
    if not why and reached < 0.95 * RATE:
        why = f"only {reached:.0f} a second"
    return load.Round(reached, p50, p99, spent / count, why)


def client(
    port: int, certificate: Path, until: float, number: int, resumed: bool, latencies: list[float], wrong: list[str]
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pause = CLIENTS / RATE
    at = time.monotonic() + pause * number / CLIENTS
    session = None
    if resumed:
        session = connection(context, port, None)[1]
    while time.monotonic() < until:
        time.sleep(max(0.0, at - time.monotonic()))
        at += pause
        try:
            took, session = connection(context, port, session if resumed else None)
            latencies.append(took)
        except (OSError, AssertionError) as error:
            wrong.append(repr(error))
            if len(wrong) > 100:
                return


def connection(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None
) -> tuple[float, ssl.SSLSession | None]:
    """One of them; gives how long it took to be of use, and the newest ticket. Each ticket is shown once."""
    began = time.monotonic()
    plain = socket.create_connection(("127.0.0.1", port), 5)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as shaken:
        took = time.monotonic() - began
        assert shaken.cipher()[0] == SUITE, shaken.cipher()
        assert shaken.session_reused == (session is not None), "not the kind of handshake that was asked for"
        # That of an SSLSocket would end TLS on this side as well, and the tickets are still to come.
        socket.socket.shutdown(shaken, socket.SHUT_WR)
        assert shaken.recv(1) == b"", "an answer that nobody asked for"
        return took, shaken.session
