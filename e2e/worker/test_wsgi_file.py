"""wsgi.file_wrapper: which files the edge is handed, and which are read through Python."""

import gzip
import io
import os
import tempfile
import threading

import pytest
import wsgi_wire as wire

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def wraps(make, headers=(), *more):
    def app(environ, start_response):
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](make(), *more)

    return app


def whole(answer):
    """The body the client would get."""
    if answer.file is None:
        return answer.body
    fd, offset, length = answer.file
    try:
        return answer.body + os.pread(fd, length, offset)
    finally:
        os.close(fd)


def test_regular_file_is_handed_over(serve, path):
    files = []

    def make():
        files.append(open(path, "rb"))
        return files[-1]

    answer = serve(wraps(make)).ask()
    assert [frame.kind for frame in answer.frames] == [wire.RESP_HEAD, wire.RESP_FILE]
    assert answer.file[1:] == (0, len(CONTENT)) and whole(answer) == CONTENT


def test_file_is_closed_afterwards(serve, path):
    files = []

    def make():
        files.append(open(path, "rb"))
        return files[-1]

    slot = serve(wraps(make))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        whole(slot.ask())
    slot.finish()
    assert all(file.closed for file in files)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("buffering", [0, -1])
def test_it_begins_at_the_position_of_the_file(serve, path, buffering):
    def make():
        file = open(path, "rb", buffering)
        file.read(10)
        return file

    answer = serve(wraps(make)).ask()
    assert answer.file[1:] == (10, len(CONTENT) - 10) and whole(answer) == CONTENT[10:]


def test_it_ends_at_content_length(serve, path):
    answer = serve(wraps(lambda: open(path, "rb"), [("Content-Length", "100")])).ask()
    assert answer.file[1:] == (0, 100)
    os.close(answer.file[0])


def test_content_length_beyond_the_file_is_an_abort(serve, path):
    headers = [("Content-Length", str(len(CONTENT) + 1))]
    answer = serve(wraps(lambda: open(path, "rb"), headers)).ask()
    assert answer.aborted and answer.body == CONTENT


def test_temporary_files_are_handed_over(serve):
    for kind in (tempfile.TemporaryFile, tempfile.NamedTemporaryFile):

        def make():
            file = kind()
            file.write(CONTENT)
            file.seek(0)
            return file

        answer = serve(wraps(make)).ask()
        assert answer.file is not None and whole(answer) == CONTENT


def test_file_removed_at_once_is_still_sent(serve, path):
    def make():
        file = open(path, "rb")
        os.unlink(path)
        return file

    assert whole(serve(wraps(make)).ask()) == CONTENT


class Counting(io.FileIO):
    """A file whose bytes are not those of its descriptor."""

    def read(self, size=-1):
        return super().read(size).replace(b"a", b"A")


def spooled():
    file = tempfile.SpooledTemporaryFile()
    file.write(CONTENT)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", ["bytesio", "gzip", "buffered gzip", "subclass", "spooled", "read only"])
def test_anything_else_is_read_through_python(serve, path, tmp_path, kind):
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(CONTENT))

    class ReadOnly:
        def __init__(self):
            self.file = open(path, "rb")
            self.read = self.file.read
            self.fileno = self.file.fileno

    make, expected = {
        "bytesio": (lambda: io.BytesIO(CONTENT), CONTENT),
        "gzip": (lambda: gzip.open(packed), CONTENT),
        "buffered gzip": (lambda: io.BufferedReader(gzip.open(packed)), CONTENT),
        "subclass": (lambda: Counting(path), CONTENT.replace(b"a", b"A")),
        "spooled": (spooled, CONTENT),
        "read only": (ReadOnly, CONTENT),
    }[kind]
    answer = serve(wraps(make)).ask()
    assert answer.file is None and answer.body == expected


def test_pipe_is_read_through_python(serve):
    def make():
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        return open(reader, "rb")

    answer = serve(wraps(make)).ask()
    assert answer.file is None and answer.body == b"through a pipe"


def test_device_is_not_handed_over(serve):
    answer = serve(wraps(lambda: open("/dev/zero", "rb"), [("Content-Length", "5")])).ask()
    assert answer.file is None and answer.body == b"\0" * 5


def test_block_size_is_respected(serve):
    answer = serve(wraps(lambda: io.BytesIO(b"abcdef"), [], 4)).ask()
    assert wire.decode_head(answer.frames[0].payload)[3] == b"abcd"


def test_empty_file_is_an_empty_body(serve, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    answer = serve(wraps(lambda: open(path, "rb"))).ask()
    assert answer.status == 200 and answer.body == b"" and answer.file is None


def test_wrapped_by_a_middleware_it_is_iterated(serve, path):
    def app(environ, start_response):
        start_response("200 OK", [])
        file = environ["wsgi.file_wrapper"](open(path, "rb"))
        return (piece.upper() for piece in file)

    answer = serve(app).ask()
    assert answer.file is None and answer.body == CONTENT.upper()


def test_subclass_of_the_wrapper_is_iterated(serve, path):
    def app(environ, start_response):
        class Mine(environ["wsgi.file_wrapper"]):
            def __next__(self):
                return super().__next__().upper()

        start_response("200 OK", [])
        return Mine(open(path, "rb"))

    answer = serve(app).ask()
    assert answer.file is None and answer.body == CONTENT.upper()


def test_something_written_before_is_kept(serve, path):
    def app(environ, start_response):
        start_response("200 OK", [])(b"before ")
        return environ["wsgi.file_wrapper"](open(path, "rb"))

    assert serve(app).ask().body == b"before " + CONTENT


def test_close_of_the_file_is_called_once(serve, path):
    closed = []

    class File(io.BytesIO):
        def close(self):
            closed.append(self)
            super().close()

    file = File(b"abc")
    assert serve(wraps(lambda: file)).ask().body == b"abc"
    assert closed[0] is file


def test_wrapper_is_collected_in_a_cycle(ostler):
    import gc
    import weakref

    class File:
        pass

    file = File()
    file.wrapper = ostler.FileWrapper(file)
    gone = weakref.ref(file)
    del file
    gc.collect()
    assert gone() is None


def test_slow_reader_does_not_block_other_python_threads(serve):
    """A response larger than the socket's buffer waits without the GIL."""
    go = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        go.set()
        return [b"x" * 20_000_000]

    slot = serve(app)
    slot.send(wire.request())
    assert go.wait(10)
    # This thread runs although nobody reads; then everything is there.
    assert len(slot.response().body) == 20_000_000
