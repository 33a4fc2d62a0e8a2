"""A Flask app with the things people do in Flask."""

import time

from flask import Flask, Response, abort, jsonify, redirect, request, send_file, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "only a test"


@app.get("/")
def hello():
    return "Hello, Flask!"


@app.post("/form")
def form():
    return jsonify(fields=request.form.to_dict(flat=False), files={k: [f.filename, len(f.read())] for k, f in request.files.items()})


@app.post("/json")
def json_():
    return jsonify(request.get_json())


@app.get("/session")
def session_():
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(session["visits"])


@app.get("/redirect")
def redirect_():
    return redirect(url_for("where", _external=True))


@app.get("/where")
def where():
    return jsonify(url=request.url, host=request.host, secure=request.is_secure, addr=request.remote_addr, path=request.path)


@app.get("/caf\u00e9/<name>")
def unicode_(name):
    return f"\u00e9: {name}"


@app.get("/file")
def file():
    return send_file(__file__)


@app.get("/stream")
def stream():
    return Response(stream_with_context(f"line {n}\n" for n in range(100)), mimetype="text/plain")


@app.get("/slow")
def slow():
    time.sleep(float(request.args.get("seconds", 0.1)))
    return "slept"


@app.get("/error")
def error():
    raise RuntimeError("on purpose")


@app.get("/teapot")
def teapot():
    abort(418)


@app.get("/cookies")
def cookies():
    response = jsonify(dict(request.cookies))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response
