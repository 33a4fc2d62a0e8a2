"""python-socketio on an event loop, several workers joined through Redis (REDIS_URL)."""

import json
import os

import socketio

manager = socketio.AsyncRedisManager(os.environ["REDIS_URL"])
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins="*")


async def pages(scope, receive, send):
    if scope["type"] != "http":
        return
    status, body = 200, str(os.getpid()).encode()
    if scope["path"] == "/announce":
        message = await receive()
        await server.emit("news", json.loads(message["body"]))
        status, body = 204, b""
    await send({"type": "http.response.start", "status": status})
    await send({"type": "http.response.body", "body": body})


app = socketio.ASGIApp(server, pages)


@server.on("echo")
async def echo(sid, data):
    return data


@server.on("shout")
async def shout(sid, data):
    await server.emit("news", data)


@server.on("who")
async def who(sid):
    return os.getpid()
