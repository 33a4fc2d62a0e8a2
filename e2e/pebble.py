"""The real pebble (an ACME server for tests) with a DNS server for which every name is at 127.0.0.1."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.request
from pathlib import Path

import harness
from harness import eventually


class Pebble:
    """Ends with the test. `http_port` and `tls_port` are where it comes to prove a name."""

    def __init__(self, folder: Path, life: int = 0, env=None):
        assert shutil.which("pebble"), "these tests need pebble: apt-get install pebble"
        self.folder = folder
        self.life = life
        self.env = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "5", **(env or {})}
        self.port, self.admin, self.dns, self.dns_admin, self.http_port, self.tls_port = (
            harness.free_port() for _ in range(6)
        )
        self.root = folder / "ca.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
             "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", folder / "ca.key", "-out", self.root],
            check=True, capture_output=True,
        )
        self.server = None
        self.names = subprocess.Popen(
            ["pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{self.dns}",
             "-management", f"127.0.0.1:{self.dns_admin}", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        self.up()

    def up(self):
        """Starts it, with no memory of before."""
        config = {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self.admin}",
            "certificate": str(self.root), "privateKey": str(self.folder / "ca.key"),
            "httpPort": self.http_port, "tlsPort": self.tls_port,
        }
        if self.life:
            config["certificateValidityPeriod"] = self.life
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": config}))
        self.server = subprocess.Popen(
            ["pebble", "-config", self.folder / "pebble.json", "-strict", "-dnsserver", f"127.0.0.1:{self.dns}"],
            env={**os.environ, **self.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.log = harness.Log()
        self.log.follow(self.server.stdout)
        for port in (self.dns_admin, self.port, self.admin):
            eventually(lambda port=port: answers(port), 20, f"pebble listens on {port}")

    def down(self):
        self.server.kill()
        self.server.wait(10)

    def finish(self):
        self.down()
        self.names.kill()
        self.names.wait(10)

    def acme(self, *lines: str) -> str:
        """The section `[acme]` that leads to it."""
        return "\n".join([
            "[acme]", f'directory = "https://127.0.0.1:{self.port}/dir"', f'ca_root = "{self.root}"',
            f'resolver = "127.0.0.1:{self.dns}"', f"http_port = {self.http_port}", f"tls_port = {self.tls_port}", *lines, "",
        ])

    def trusting(self) -> ssl.SSLContext:
        """A client that trusts what it issues, and nothing else."""
        context = ssl.create_default_context(cafile=self.root)
        with urllib.request.urlopen(f"https://127.0.0.1:{self.admin}/roots/0", context=context) as answer:
            issuing = answer.read().decode()
        trusting = ssl.create_default_context(cadata=issuing)
        # What pebble issues for a test has no revocation list; OpenSSL 3.5 would ask for strictness that it lacks.
        trusting.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return trusting

    def dns_hook(self) -> Path:
        """A program for dns-01 that tells the DNS server, and writes down its arguments."""
        hook = self.folder / "dns-hook"
        hook.write_text(f"""#!/bin/sh
echo "$*" >> {self.folder}/hook.log
case $1 in present) path=set-txt;; cleanup) path=clear-txt;; *) exit 9;; esac
exec curl -sS --fail -d "{{\\"host\\":\\"$2.\\",\\"value\\":\\"$3\\"}}" http://127.0.0.1:{self.dns_admin}/$path
""")
        hook.chmod(0o755)
        return hook


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def handshake(port: int, name: str, context: ssl.SSLContext):
    """The certificate that a client gets for `name`, or why it does not take it."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            with context.wrap_socket(plain, server_hostname=name) as secure:
                return secure.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        return error


def get(port: int, name: str, context: ssl.SSLContext, path: str = "/") -> bytes:
    """The whole answer to one request over TLS."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            parts = []
            while part := secure.recv(65536):
                parts.append(part)
            return b"".join(parts)


class Load:
    """A client that shakes hands without a pause, and keeps what it got."""

    def __init__(self, port: int, name: str, context: ssl.SSLContext):
        self.certificates, self.failures, self.count = [], [], 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(port, name, context))
        self.thread.start()

    def run(self, port, name, context):
        while not self.stopping.is_set():
            found = handshake(port, name, context)
            self.count += 1
            if isinstance(found, bytes):
                if found not in self.certificates:
                    self.certificates.append(found)
            else:
                self.failures.append(str(found))

    def finish(self):
        self.stopping.set()
        self.thread.join(30)
