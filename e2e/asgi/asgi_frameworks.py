"""Apps written with frameworks; only for the Python that runs the tests."""

import asyncio

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware

from asgi_apps import say


async def pass_on(request, call_next):
    response = await call_next(request)
    response.headers["x-middleware"] = "1"
    return response


fast = FastAPI()
fast.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)


@fast.post("/items/{number}")
async def item(number: int, request: Request):
    body = await request.json()
    return {"number": number, "body": body, "gone": await request.is_disconnected()}


@fast.get("/background")
def background():
    # A plain function: the framework runs it in a thread.
    return PlainTextResponse("first", background=BackgroundTask(say, "then the rest"))


@fast.get("/file")
async def file(name: str):
    return FileResponse(name)


@fast.websocket("/chat")
async def chat(socket: WebSocket):
    await socket.accept(subprotocol="chat")
    try:
        while True:
            await socket.send_json({"echo": await socket.receive_text()})
    except WebSocketDisconnect as error:
        say(f"left with {error.code}")


async def endless():
    try:
        while True:
            yield b"tick "
            await asyncio.sleep(0.01)
    finally:
        say("generator closed")


streams = FastAPI()


@streams.get("/endless")
async def endless_response():
    return StreamingResponse(endless())


settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="test", DEBUG=False)
django.setup()


def plain(request):
    return HttpResponse(request.body[::-1], headers={"X-Path": request.path})


async def stream(request):
    return StreamingHttpResponse(endless())


urlpatterns = [path("plain", plain), path("endless", stream)]
django_app = get_asgi_application()
