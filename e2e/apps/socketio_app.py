"""Flask-SocketIO in threading mode, several workers joined through Redis (REDIS_URL)."""

import os

from flask import Flask, request
from flask_socketio import SocketIO, emit, join_room

app = Flask(__name__)
app.secret_key = "only a test"
socketio = SocketIO(app, async_mode="threading", message_queue=os.environ.get("REDIS_URL"), cors_allowed_origins="*")


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.post("/announce")
def announce():
    socketio.emit("news", request.get_json())
    return "", 204


@socketio.on("echo")
def echo(data):
    return data


@socketio.on("shout")
def shout(data):
    emit("news", data, broadcast=True)


@socketio.on("join")
def join(room):
    join_room(room)
    return os.getpid()


@socketio.on("who")
def who():
    return os.getpid()
