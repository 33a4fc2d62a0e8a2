"""One asyncio loop that serves an ASGI app: lifespan, channels, stopping.

What happens for every request is native (`Channel` and its streams); this file knows nothing of
frames. `serve` is called on the worker's main thread and returns when there is nothing left to do.
"""

import asyncio
import signal
import sys
import traceback

from _ostler import Channel, ClientDisconnected

# Seconds that cancelled tasks get to clean up, and lifespan shutdown at least: an app that reacts
# at once needs none, and the server kills the worker when its own patience ends.
_LAST_CHANCE = 1.0


class LifespanFailed(Exception):
    """The app's startup failed, or it has no lifespan although it is required; the text says why."""


def serve(app, fds, options):
    """Serves `app` on the channel sockets `fds` until they are at EOF or SIGTERM comes.

    `options`: `lifespan` ("auto", "on", "off"), `loop` ("auto", "asyncio", "uvloop"),
    `on_ready` (called once everything stands), `graceful_timeout` (seconds), `errors` (text stream),
    `timings` (where the time of each call is noted).
    Raises `LifespanFailed`. The descriptors belong to this function from now on.
    """
    loop = _new_loop(options.get("loop", "auto"))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_Service(app, fds, options, loop).run())
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            executor_done = loop.shutdown_default_executor()
            loop.run_until_complete(_at_most(executor_done, _LAST_CHANCE))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _new_loop(kind):
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class _Service:
    """The one thing a worker does."""

    def __init__(self, app, fds, options, loop):
        self.app = app
        self.fds = list(fds)
        self.on_ready = options.get("on_ready")
        self.graceful_timeout = float(options.get("graceful_timeout", 30))
        self.errors = options.get("errors") or sys.stderr
        self.timings = options.get("timings")
        self.loop = loop
        self.lifespan = _Lifespan(app, options.get("lifespan", "auto"), self.write, loop)
        self.stopping = asyncio.Event()
        self.channels = []
        self.open = 0

    async def run(self):
        # A worker that is told to stop while it starts stops as soon as it has started.
        self.loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        await self.lifespan.startup()
        call = self._caller()
        for fd in self.fds:
            channel = Channel(
                fd, self.loop, call, self._channel_ended, self.lifespan.state, self.timings
            )
            self.channels.append(channel)
        self.open = len(self.channels)
        if not self.channels:
            self.stopping.set()
        for channel in self.channels:
            channel.open()
        if self.on_ready is not None:
            self.on_ready()
        await self.stopping.wait()
        deadline = self.loop.time() + self.graceful_timeout
        await self._drain(deadline)
        for channel in self.channels:
            channel.flush()
            channel.close()
        await self.lifespan.shutdown(max(deadline - self.loop.time(), _LAST_CHANCE))

    def _caller(self):
        app = self.app
        failed = self._failed

        async def call(scope, stream):
            try:
                await app(scope, stream.receive, stream.send)
            except BaseException as error:
                stream.end(True)
                failed(scope, stream, error)
            else:
                debt = stream.end(False)
                if debt is not None:
                    failed(scope, stream, debt)

        return call

    def _failed(self, scope, stream, error):
        """Logs what went wrong, unless it only says that the client is gone or the time is up."""
        if isinstance(error, BaseException):
            if stream.is_cancelled and isinstance(error, asyncio.CancelledError):
                return
            if stream.is_gone and _is_disconnect(error):
                return
            if self.stopping.is_set() and isinstance(error, asyncio.CancelledError):
                what = "cancelled, because the worker stops"
            else:
                what = "the app raised an exception\n" + _formatted(error)
        else:
            what = error
        method = scope.get("method", "WEBSOCKET")
        # Printable whatever the client sent, so that no line can be forged.
        path = repr(scope.get("path", ""))[1:-1]
        self.write(f"{method} {path} (request {stream.request_id:016x}): {what}\n")

    def _channel_ended(self, channel, error):
        if error is not None:
            self.write(f"the channel to the server broke: {error}\n")
        self.open -= 1
        if self.open == 0:
            self.stopping.set()

    async def _drain(self, deadline):
        """Waits until no stream is left; cancels at the deadline what still runs."""
        if await self._idle(deadline):
            return
        tasks = [task for channel in self.channels for task in channel.tasks()]
        for task in tasks:
            task.cancel()
        await self._idle(self.loop.time() + _LAST_CHANCE)

    async def _idle(self, deadline):
        idle = asyncio.Event()
        for channel in self.channels:
            channel.when_idle(idle.set)
        while any(len(channel) for channel in self.channels):
            idle.clear()
            if not await _at_most(idle.wait(), deadline - self.loop.time()):
                return False
        return True

    def write(self, text):
        # One write: other processes write to the same file.
        try:
            self.errors.write(text)
            self.errors.flush()
        except (OSError, ValueError):
            pass


class _Lifespan:
    """The app's startup and shutdown, as one task that lives as long as the loop."""

    def __init__(self, app, mode, write, loop):
        self.app = app
        self.mode = mode
        self.write = write
        self.loop = loop
        self.state = {}
        self.task = None
        self.events = asyncio.Queue()
        self.started = loop.create_future()
        self.stopped = loop.create_future()

    async def startup(self):
        """Returns when the app is ready; raises `LifespanFailed`."""
        if self.mode == "off":
            return
        self.task = self.loop.create_task(self._call())
        self.events.put_nowait({"type": "lifespan.startup"})
        problem = await self.started
        if problem is not None:
            raise LifespanFailed(problem)

    async def shutdown(self, seconds):
        """Tells the app that this is the end, and waits for it."""
        if self.task is None or self.task.done():
            return
        self.events.put_nowait({"type": "lifespan.shutdown"})
        if not await _at_most(asyncio.shield(self.stopped), seconds):
            self.write("the app's lifespan shutdown took too long\n")
            self.task.cancel()
            return
        problem = self.stopped.result()
        if problem is not None:
            self.write(f"the app's lifespan shutdown failed: {problem}\n")
        # What the app does behind its last message is part of its shutdown.
        await _at_most(asyncio.shield(self.task), seconds)

    async def _call(self):
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self.events.get, self._send)
        except BaseException as error:
            self._ended(error)
        else:
            self._ended(None)

    async def _send(self, message):
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self.started.done():
            self.started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self.started.done():
            self.started.set_result(message.get("message") or "the app's lifespan startup failed")
        elif kind == "lifespan.shutdown.complete" and self._may_stop():
            self.stopped.set_result(None)
        elif kind == "lifespan.shutdown.failed" and self._may_stop():
            self.stopped.set_result(message.get("message") or "it gave no reason")
        else:
            raise RuntimeError(f"Unexpected ASGI message {kind!r} during lifespan")

    def _may_stop(self):
        return self.started.done() and not self.stopped.done()

    def _ended(self, error):
        """The app's call is over, which is early unless it has answered the shutdown."""
        text = None if error is None else _formatted(error)
        if not self.started.done():
            # An app without lifespan raises at the scope's type, or returns at once.
            if self.mode == "on":
                text = text or "the app returned before its lifespan startup was complete"
                self.started.set_result(f"the app has no lifespan:\n{text}")
            else:
                self.started.set_result(None)
        elif not self.stopped.done():
            self.stopped.set_result(None)
            if text is not None and not isinstance(error, asyncio.CancelledError):
                self.write(f"the app's lifespan raised an exception\n{text}")


async def _at_most(awaitable, seconds):
    """Waits at most `seconds`; true when the awaitable is done."""
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=max(seconds, 0))
    if not done:
        task.cancel()
    elif not task.cancelled():
        task.exception()
    return bool(done)


def _cancel_all(loop):
    """Ends what the app left running, and lets it clean up."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_CHANCE))


def _is_disconnect(error):
    """Whether the exception goes back to a send that found no client."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ClientDisconnected):
            return True
        # An ExceptionGroup, as task groups raise it.
        grouped = getattr(error, "exceptions", None)
        if isinstance(grouped, tuple) and grouped and all(map(_is_disconnect, grouped)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _formatted(error):
    """The traceback as the app's author knows it: without the frame that calls the app."""
    origin = error.__traceback__
    if origin is not None and origin.tb_frame.f_code.co_filename == __spec__.origin:
        origin = origin.tb_next
    return "".join(traceback.format_exception(type(error), error, origin))
