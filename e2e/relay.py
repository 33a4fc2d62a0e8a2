"""Cleartext in front of TLS, for clients of HTTP/2 that know neither TLS nor ALPN: ostler speaks it by ALPN only."""

import asyncio
import ssl
import threading


class Relay:
    """Listens on a port of its own (`port`) and passes bytes on to `to` on this machine, over TLS with ALPN `h2`.

    Both ends see what the other does: the last bytes before an end arrive, then the end."""

    def __init__(self, to: int, certificate) -> None:
        self.to, self.port = to, 0
        self.context = ssl.create_default_context(cafile=certificate)
        self.context.set_alpn_protocols(["h2"])
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "Relay":
        self.thread.start()
        self.server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_) -> None:
        self._run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def _run(self, what):
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(20)

    async def _end(self) -> None:
        self.server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, near_reader, near) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.to, ssl=self.context, server_hostname="localhost")
        except OSError:
            return near.close()
        there = asyncio.create_task(pump(near_reader, far))
        try:
            await pump(far_reader, near)
        finally:
            there.cancel()


async def pump(reader, writer) -> None:
    """Passes bytes on until one of both ends, then ends the one that is written to."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (OSError, ssl.SSLError):
        pass
    finally:
        writer.close()
