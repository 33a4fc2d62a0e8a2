"""The apps of the tests. Must run on Python 3.9, and use nothing but the standard library."""

import asyncio
import os
import sys


async def answer(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive):
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        more = message["more_body"]
    return body


def say(text):
    print(text, file=sys.stderr, flush=True)


async def hello(scope, receive, send):
    assert scope["type"] == "http"
    await answer(send, b"Hello, world!", headers=[(b"content-type", b"text/plain")])


async def scope_app(scope, receive, send):
    """Answers with the scope, so that the test can look at its types too."""
    shown = {key: value for key, value in scope.items()}
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": repr(shown)})
        return
    scope["state"]["seen"] = True
    scope["extensions"]["mine"] = {}
    scope["asgi"]["mine"] = {}
    await answer(send, repr(shown).encode())


async def echo(scope, receive, send):
    await answer(send, await whole_body(receive))


async def steps(scope, receive, send):
    """Does what the path says, in order, and logs what comes of it."""
    for step in scope["path"].strip("/").split("/"):
        await STEPS[step](scope, receive, send)


async def _receive(scope, receive, send):
    message = await receive()
    say(f"received {message}")


async def _receive_forever(scope, receive, send):
    while True:
        message = await receive()
        say(f"received {message['type']} {len(message.get('body', b''))}")
        if message["type"] == "http.disconnect":
            return


async def _receive_task(scope, receive, send):
    message = await asyncio.create_task(receive())
    say(f"received by a task {message}")


async def _receive_timeout(scope, receive, send):
    try:
        message = await asyncio.wait_for(receive(), 0.05)
        say(f"received in time {message}")
    except asyncio.TimeoutError:
        say("nothing to receive in time")


async def _two_receivers(scope, receive, send):
    tasks = [asyncio.ensure_future(receive()) for _ in range(2)]
    for message in await asyncio.gather(*tasks):
        say(f"both received {message['type']}")


async def _start(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})


async def _start_trailers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})


async def _trailers(scope, receive, send):
    await send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"b", b"2")]})


async def _early(scope, receive, send):
    links = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
    await send({"type": "http.response.early_hint", "links": links})


async def _more(scope, receive, send):
    await send({"type": "http.response.body", "body": b"more,", "more_body": True})


async def _last(scope, receive, send):
    await send({"type": "http.response.body", "body": b"last"})


async def _big(scope, receive, send):
    await send({"type": "http.response.body", "body": b"x" * 1000000, "more_body": True})
    say("big is out")


async def _send_task(scope, receive, send):
    await asyncio.create_task(send({"type": "http.response.body", "body": b"task,", "more_body": True}))


async def _dropped(scope, receive, send):
    """Sends without waiting, as code that forgot an `await` does."""
    send({"type": "http.response.body", "body": b"d" * 1000000})


async def _file(scope, receive, send):
    await send({"type": "http.response.pathsend", "path": os.environ["ASGI_TEST_FILE"]})


async def _no_file(scope, receive, send):
    try:
        await send({"type": "http.response.pathsend", "path": "/no/such/file"})
    except FileNotFoundError:
        say("no such file")


async def _folder(scope, receive, send):
    try:
        await send({"type": "http.response.pathsend", "path": "/tmp"})
    except OSError as error:
        say(f"refused: {error}")


async def _sleep(scope, receive, send):
    say("sleeping")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        say("cancelled")
        raise


async def _until_disconnect(scope, receive, send):
    say("waiting")
    while (await receive())["type"] != "http.disconnect":
        pass
    say("disconnected")


async def _send_error(scope, receive, send):
    try:
        await send({"type": "http.response.body", "body": b"late", "more_body": True})
        say("sent")
    except OSError as error:
        say(f"send raised {type(error).__name__}, an OSError")
        raise


async def _raise(scope, receive, send):
    raise ValueError("the app's own mistake")


async def _exit(scope, receive, send):
    sys.exit(3)


async def _background(scope, receive, send):
    await asyncio.sleep(0.2)
    say("background done")


async def _return(scope, receive, send):
    pass


STEPS = {name[1:]: value for name, value in list(globals().items()) if name.startswith("_") and callable(value)}


BAD_MESSAGES = {
    "no-type": {},
    "unknown": {"type": "http.response.nonsense"},
    "not-a-dict": 5,
    "body-first": {"type": "http.response.body", "body": b""},
    "no-status": {"type": "http.response.start"},
    "status-text": {"type": "http.response.start", "status": "200"},
    "status-100": {"type": "http.response.start", "status": 100},
    "str-header": {"type": "http.response.start", "status": 200, "headers": [("a", "b")]},
    "triple": {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b", b"c")]},
    "huge": {"type": "http.response.start", "status": 200, "headers": [(b"a", b"x" * 70000)]},
    "many": {"type": "http.response.start", "status": 200, "headers": [(b"a", b"x" * 60000)] * 20},
    "websocket": {"type": "websocket.accept"},
    "denial": {"type": "websocket.http.response.start", "status": 200},
}


async def bad_message(scope, receive, send):
    """Sends what it must not, says what came of it, then answers properly."""
    try:
        await send(BAD_MESSAGES[scope["path"].strip("/")])
    except Exception as error:
        return await answer(send, type(error).__name__.encode())
    await answer(send, b"nothing was raised")


async def odd_types(scope, receive, send):
    """What the specification allows but nobody sends."""
    from collections import UserDict
    from http import HTTPStatus

    headers = ([b"a", memoryview(b"1").tobytes()] for _ in range(2))
    await send(UserDict(type="http.response.start", status=HTTPStatus.CREATED, headers=headers))
    await send({"type": "http.response.body", "body": bytearray(b"array,"), "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(b"view"), "more_body": None})


def lifespan_app(startup=None, shutdown=None):
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            return await answer(send, repr(scope["state"]).encode())
        message = await receive()
        assert message == {"type": "lifespan.startup"}
        scope["state"]["number"] = 5
        await (startup or _startup_complete)(send)
        assert (await receive()) == {"type": "lifespan.shutdown"}
        say("shutting down")
        await (shutdown or _shutdown_complete)(send)
        say("behind the last message")

    return app


async def _startup_complete(send):
    await send({"type": "lifespan.startup.complete"})


async def _startup_failed(send):
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def _startup_raises(send):
    raise OSError("no database")


async def _shutdown_complete(send):
    await send({"type": "lifespan.shutdown.complete"})


async def _shutdown_failed(send):
    await send({"type": "lifespan.shutdown.failed", "message": "could not flush"})


async def _shutdown_hangs(send):
    await asyncio.sleep(60)


lifespan_good = lifespan_app()
lifespan_failed = lifespan_app(startup=_startup_failed)
lifespan_raises = lifespan_app(startup=_startup_raises)
lifespan_shutdown_failed = lifespan_app(shutdown=_shutdown_failed)
lifespan_shutdown_hangs = lifespan_app(shutdown=_shutdown_hangs)


async def drain(scope, receive, send):
    """`lifespan_good` and `steps` in one."""
    await (lifespan_good if scope["type"] == "lifespan" else steps)(scope, receive, send)


async def running_loop(scope, receive, send):
    await answer(send, type(asyncio.get_running_loop()).__module__.encode())


async def websocket(scope, receive, send):
    """A WebSocket that does what it is told: the path says how the handshake ends."""
    assert scope["type"] == "websocket"
    message = await receive()
    assert message == {"type": "websocket.connect"}, message
    how = scope["path"].strip("/")
    if how == "deny":
        return await send({"type": "websocket.close"})
    if how == "respond":
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})
        say(f"after the denial {await receive()}")
        return
    if how == "raise-first":
        raise ValueError("before the accept")
    if how == "return-first":
        return
    if how == "send-first":
        try:
            await send({"type": "websocket.send", "text": "too early"})
        except RuntimeError as error:
            say(f"refused: {error}")
        return await send({"type": "websocket.close"})
    accept = {"type": "websocket.accept", "headers": [(b"x-hall", b"7")]}
    if scope["subprotocols"]:
        accept["subprotocol"] = scope["subprotocols"][-1]
    await send(accept)
    await _websocket_messages(receive, send)


async def _websocket_messages(receive, send):
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            say(f"disconnect {message['code']} {message['reason']!r}")
            try:
                await send({"type": "websocket.send", "text": "late"})
            except OSError as error:
                say(f"send raised {type(error).__name__}")
            say(f"again {(await receive())['code']}")
            return
        text = message.get("text")
        if text == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
            say(f"after my close {await receive()}")
            try:
                await send({"type": "websocket.send", "text": "late"})
            except RuntimeError as error:
                say(f"refused: {error}")
            return
        if text == "raise":
            raise ValueError("in the middle")
        if text == "return":
            return
        if text == "big":
            await send({"type": "websocket.send", "bytes": b"b" * 1000000})
            say("big is out")
        elif text is not None:
            await send({"type": "websocket.send", "text": text.upper(), "bytes": None})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})


async def websocket_slow(scope, receive, send):
    """Never takes a message: waits for the end of the connection behind its back."""
    await receive()
    if scope["path"] == "/accept":
        await send({"type": "websocket.accept"})
        await asyncio.sleep(0.5)
        return
    say("connecting")
    message = await receive()
    say(f"disconnect {message['code']}")
