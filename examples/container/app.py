"""The smallest app that a container can look after."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return f"hello from process {os.getpid()}\n"


@app.get("/health")
def health():
    return "", 204
