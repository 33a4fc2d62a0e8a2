"""wsgi.input, wherever the body is."""

import io
import os
import random
import tempfile
import threading

import pytest
import wsgi_wire as wire


def send_inline(slot, body):
    slot.send(wire.request(b"POST", body=body))


def send_file(slot, body):
    with tempfile.TemporaryFile() as file:
        file.write(body + b"what is behind the body")
        file.seek(0)
        head = wire.request(b"POST", kind=wire.FILE, length=len(body))
        slot.send_with_fd(head, file.fileno())


def send_stream(slot, body):
    slot.send(wire.request(b"POST", kind=wire.STREAM))
    pieces = [body[at : at + 777] for at in range(0, min(len(body), 50_000), 777)]
    if len(body) > 50_000:
        pieces = pieces[:-1] + [body[sum(map(len, pieces[:-1])) :]]
    while pieces and len(pieces[-1]) > 1 << 20:
        pieces[-1:] = [pieces[-1][: 1 << 20], pieces[-1][1 << 20 :]]
    for piece in pieces:
        slot.send(wire.frame(wire.REQ_BODY, piece))
    slot.send(wire.frame(wire.REQ_BODY, b"", wire.END))


def send_stream_whole(slot, body):
    slot.send(wire.request(b"POST", kind=wire.STREAM, length=len(body)))
    while len(body) > 1 << 20:
        slot.send(wire.frame(wire.REQ_BODY, body[: 1 << 20]))
        body = body[1 << 20 :]
    slot.send(wire.frame(wire.REQ_BODY, body, wire.END))


def send_nothing(slot, body):
    slot.send(wire.request(b"POST"))


WAYS = [send_inline, send_file, send_stream, send_stream_whole]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def ask(serve, way, body, use):
    """Sends body and gives what use(wsgi.input) returned."""
    results = []

    def app(environ, start_response):
        results.append(use(environ["wsgi.input"]))
        start_response("200 OK", [])
        return [b"ok"]

    slot = serve(app)
    sender = threading.Thread(target=way, args=(slot, body))
    sender.start()
    answer = slot.response()
    sender.join()
    assert answer.status == 200, slot.log
    return results[0]


BODY = b"first line\nsecond\r\n\nfourth without an end"


@pytest.mark.parametrize(
    "use",
    [
        lambda file: file.read(),
        lambda file: file.read(-1),
        lambda file: file.read(None),
        lambda file: file.read(10**9),
        lambda file: [file.read(0), file.read(5), file.read(0), file.read(5), file.read(), file.read()],
        lambda file: file.readline(),
        lambda file: [file.readline(), file.read()],
        lambda file: [file.readline(4), file.readline(100), file.readline(-1), file.read(3)],
        lambda file: [file.readline(0), file.readline(11), file.readline(10)],
        lambda file: [file.readline() for _ in range(6)],
        lambda file: file.readlines(),
        lambda file: [file.readlines(1), file.readlines(8), file.readlines(0)],
        lambda file: [file.readlines(12), file.readlines()],
        lambda file: list(file),
        lambda file: [next(file), file.read(2), list(file), list(file)],
        lambda file: [file.read(3), file.readlines()],
    ],
)
def test_every_method_gives_what_a_file_gives(serve, way, use):
    assert ask(serve, way, BODY, use) == use(io.BytesIO(BODY))


@pytest.mark.parametrize("body", [b"", b"\n", b"\n\n\n", b"x", b"x\n"])
def test_small_bodies(serve, way, body):
    assert ask(serve, way, body, list) == list(io.BytesIO(body))


def test_no_body_reads_as_empty(serve):
    def use(file):
        return [file.read(), file.read(10), file.readline(), file.readlines(), list(file)]

    assert ask(serve, send_nothing, b"", use) == [b"", b"", b"", [], []]


def test_random_calls_agree_with_a_file(serve, way):
    chance = random.Random(7)
    body = b"".join(
        bytes(chance.choices(b"abc\n", k=chance.choice([1, 50, 3000]))) + b"z" * chance.choice([0, 0, 90_000])
        for _ in range(60)
    )[:900_000]
    for _ in range(6):
        script = [
            (chance.choice(["read", "readline", "readline", "readlines"]), chance.choice([0, 1, 7, 500, 70_000, 200_000]))
            for _ in range(40)
        ] + [("read", -1), ("read", -1)]
        script = [(name, size or 1) if name == "readlines" else (name, size) for name, size in script]

        def use(file):
            return [getattr(file, name)(size) for name, size in script]

        assert ask(serve, way, body, use) == use(io.BytesIO(body))


def test_readinto_fills_the_callers_buffer(serve, way):
    def use(file):
        buffer, words = bytearray(b"." * 12), memoryview(bytearray(8)).cast("H")
        counts = [file.readinto(buffer), file.readinto(words), file.readinto(bytearray())]
        return counts, bytes(buffer), words.tobytes()

    assert ask(serve, way, BODY, use) == ([12, 8, 0], BODY[:12], BODY[12:20])


def test_readinto_at_the_end_gives_zero(serve, way):
    def use(file):
        file.read()
        return file.readinto(bytearray(5))

    assert ask(serve, way, BODY, use) == 0


def test_io_wrappers_take_it_as_a_raw_file(serve, way):
    body = "zwölf\nläng".encode() * 9000
    text = ask(serve, way, body, lambda file: io.TextIOWrapper(io.BufferedReader(file), "utf-8").read())
    assert text == body.decode()
    assert ask(serve, way, body, lambda file: io.TextIOWrapper(file, "utf-8").read()) == body.decode()


def test_large_body_arrives_whole(serve, way):
    body = os.urandom(3_000_000) if way is not send_inline else os.urandom(300_000)
    assert ask(serve, way, body, lambda file: file.read()) == body
    chunks = ask(serve, way, body, lambda file: list(iter(lambda: file.read(65_536), b"")))
    assert b"".join(chunks) == body and len(chunks[0]) == 65_536


def test_streamed_piece_is_given_as_soon_as_it_is_there(serve):
    got = []
    step = threading.Event()

    def app(environ, start_response):
        got.append(environ["wsgi.input"].read(3))
        step.set()
        got.append(environ["wsgi.input"].read1(100))
        got.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b""]

    slot = serve(app)
    slot.send(wire.request(b"POST", kind=wire.STREAM), wire.frame(wire.REQ_BODY, b"abcde"))
    assert step.wait(10) and got[0] == b"abc"
    slot.send(wire.frame(wire.REQ_BODY, b"f", wire.END))
    assert slot.response().status == 200
    assert b"".join(got) == b"abcdef" and got[1] == b"de"


def ignores(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


def test_body_that_nobody_read_does_not_reach_the_next_request(serve, way):
    slot = serve(ignores)
    for turn in range(5):
        sender = threading.Thread(target=way, args=(slot, b"x" * 300_000))
        sender.start()
        assert slot.response().body == b"/"
        sender.join()
        assert slot.ask(path=b"/%d" % turn).body == b"/%d" % turn


def test_body_that_was_read_in_part_does_not_reach_the_next_request(serve, way):
    def app(environ, start_response):
        environ["wsgi.input"].read(10)
        environ["wsgi.input"].readline()
        return ignores(environ, start_response)

    slot = serve(app)
    for turn in range(3):
        sender = threading.Thread(target=way, args=(slot, b"x\n" * 100_000))
        sender.start()
        assert slot.response().body == b"/"
        sender.join()
        assert slot.ask(path=b"/%d" % turn).body == b"/%d" % turn


def test_input_kept_by_the_app_cannot_read_the_next_request(serve):
    kept = []

    def app(environ, start_response):
        found = [old.read() for old in kept]
        kept.append(environ["wsgi.input"])
        assert not any(found)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    slot = serve(app)
    for turn in range(3):
        send_stream(slot, b"body %d" % turn)
        assert slot.response().body == b"body %d" % turn


def test_client_that_leaves_is_an_os_error(serve, ostler):
    seen = []
    begun = threading.Event()

    def app(environ, start_response):
        assert environ["wsgi.input"].read(3) == b"abc"
        begun.set()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(type(error))
            raise

    slot = serve(app)
    slot.send(wire.request(b"POST", kind=wire.STREAM), wire.frame(wire.REQ_BODY, b"abc"))
    assert begun.wait(10)
    slot.send(wire.frame(wire.CANCEL))
    assert slot.response().aborted == b""
    assert seen == [ostler.ClientDisconnected] and issubclass(seen[0], ConnectionError)
    slot.finish()
    assert slot.log == ""


def test_end_of_the_slot_inside_a_body_is_an_os_error(serve, ostler):
    seen = []

    def app(environ, start_response):
        with pytest.raises(ostler.ClientDisconnected):
            environ["wsgi.input"].read()
        seen.append(True)
        start_response("200 OK", [])
        return [b"answered all the same"]

    slot = serve(app)
    slot.send(wire.request(b"POST", kind=wire.STREAM), wire.frame(wire.REQ_BODY, b"abc"))
    assert slot.finish() == "eof" and seen == [True]


def test_spool_file_shorter_than_promised_ends_early(serve):
    results = []

    def app(environ, start_response):
        results.append(environ["wsgi.input"].read())
        results.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b""]

    slot = serve(app)
    with tempfile.TemporaryFile() as file:
        file.write(b"abc")
        file.seek(0)
        slot.send_with_fd(wire.request(b"POST", kind=wire.FILE, length=10), file.fileno())
    assert slot.response().status == 200 and results == [b"abc", b""]


def test_spool_descriptor_is_closed_with_its_request(serve):
    slot = serve(ignores)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        send_file(slot, b"body")
        slot.response()
    slot.ask()
    assert len(os.listdir("/proc/self/fd")) == before


def test_closed_input_raises(serve, way):
    def use(file):
        assert not file.closed and file.readable() and not file.writable() and not file.seekable()
        file.close()
        assert file.closed
        with pytest.raises(ValueError):
            file.read()

    ask(serve, way, BODY, use)


def test_closing_the_empty_input_does_not_close_the_next_ones(serve):
    def app(environ, start_response):
        environ["wsgi.input"].close()
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [data]

    slot = serve(app)
    assert [slot.ask().status, slot.ask().status] == [200, 200]


def test_two_threads_reading_one_stream_get_an_error_and_no_crash(serve):
    problems = []
    done = threading.Event()

    def app(environ, start_response):
        file = environ["wsgi.input"]

        def read():
            try:
                return file.read()
            except RuntimeError as error:
                problems.append(error)
                done.set()

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        start_response("200 OK", [])
        return [b"ok"]

    slot = serve(app)
    slot.send(wire.request(b"POST", kind=wire.STREAM), wire.frame(wire.REQ_BODY, b"abc"))
    assert done.wait(10)
    slot.send(wire.frame(wire.REQ_BODY, b"", wire.END))
    assert slot.response().body == b"ok"
    assert len(problems) == 1


def test_wrong_arguments_are_refused(serve, way):
    def use(file):
        for call in (lambda: file.read("1"), lambda: file.read(1, 2), lambda: file.readinto(b"constant")):
            with pytest.raises((TypeError, BufferError)):
                call()

    ask(serve, way, BODY, use)
