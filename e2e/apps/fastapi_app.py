"""A FastAPI app with lifespan, uploads, streams, background work and a WebSocket."""

import asyncio
import os
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Form, HTTPException, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

done = []


@asynccontextmanager
async def lifespan(app):
    yield {"started": True}
    if where := os.environ.get("LIFESPAN_ENDED"):
        open(where, "w").close()


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


@app.get("/")
def hello():
    return {"hello": "FastAPI"}


@app.get("/async")
async def hello_async():
    await asyncio.sleep(0.01)
    return {"hello": "async"}


@app.get("/state")
async def state(request: Request):
    return {"started": request.state.started, "client": request.client.host, "url": str(request.url)}


@app.post("/items")
async def items(item: Item):
    return item


@app.post("/upload")
async def upload(file: UploadFile, note: str = Form()):
    return {"size": len(await file.read()), "name": file.filename, "note": note}


@app.post("/body")
async def body(request: Request):
    size = 0
    async for part in request.stream():
        size += len(part)
    return size


@app.get("/stream")
async def stream():
    async def parts():
        for n in range(100):
            yield f"line {n}\n"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/file")
async def file():
    return FileResponse(__file__)


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(done.append, 1)
    return len(done)


@app.get("/done")
async def done_():
    return len(done)


@app.get("/slow")
async def slow(seconds: float = 0.1):
    await asyncio.sleep(seconds)
    return os.getpid()


@app.get("/block")
async def block(seconds: float):
    import time

    time.sleep(seconds)
    return "blocked the loop"


@app.get("/error")
async def error():
    raise RuntimeError("on purpose")


@app.get("/teapot")
async def teapot():
    raise HTTPException(418)


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        pass


@app.websocket("/refuse")
async def refuse(socket: WebSocket):
    await socket.close(4000)


@app.websocket("/close")
async def close(socket: WebSocket):
    await socket.accept()
    await socket.close(4001, "enough")
