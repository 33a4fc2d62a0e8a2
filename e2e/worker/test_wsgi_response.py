"""How what an app returns becomes frames."""

import pytest
import wsgi_wire as wire

PLAIN = [("Content-Type", "text/plain")]


def sized(count):
    return [("Content-Length", str(count))]


def returns(result, headers=PLAIN, status="200 OK"):
    def app(environ, start_response):
        start_response(status, headers)
        return result() if callable(result) else result

    return app


class Closing:
    """An iterable that remembers what was done with it, as frameworks return it."""

    def __init__(self, pieces, on_close=None):
        self.pieces = iter(pieces)
        self.closed = 0
        self.exhausted = False
        self.on_close = on_close

    def __iter__(self):
        return self

    def __next__(self):
        try:
            piece = next(self.pieces)
        except StopIteration:
            self.exhausted = True
            raise
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self):
        self.closed += 1
        if self.on_close:
            self.on_close()


@pytest.mark.parametrize("result", [[b"hello"], (b"hello",), [b"he", b"", b"llo"], (b"hel", b"lo")])
def test_list_of_bytes_is_one_frame(serve, result):
    answer = serve(returns(result)).ask()
    assert (answer.status, answer.reason, answer.body) == (200, b"OK", b"hello")
    assert answer.headers == [(b"Content-Type", b"text/plain")]
    assert len(answer.frames) == 1


@pytest.mark.parametrize("result", [[], (), [b""], [b"", b""]])
def test_empty_list_is_an_empty_body(serve, result):
    answer = serve(returns(result)).ask()
    assert (answer.status, answer.body) == (200, b"") and answer.frames[-1].last


def test_generator_pieces_leave_one_by_one(serve):
    def pieces():
        yield b""
        yield b"one"
        yield b""
        yield b"two"

    answer = serve(returns(pieces)).ask()
    kinds = [frame.kind for frame in answer.frames]
    assert kinds == [wire.RESP_HEAD, wire.RESP_BODY, wire.RESP_BODY]
    assert wire.decode_head(answer.frames[0].payload)[3] == b"one"
    assert [frame.payload for frame in answer.frames[1:]] == [b"two", b""]


def test_each_piece_is_sent_before_the_next_is_asked_for(serve):
    import threading

    go = threading.Semaphore(0)

    def pieces():
        for index in range(3):
            yield b"piece %d" % index
            assert go.acquire(timeout=10)

    slot = serve(returns(pieces))
    slot.send(wire.request())
    assert wire.decode_head(slot.frame().payload)[3] == b"piece 0"
    go.release()
    assert slot.frame().payload == b"piece 1"
    go.release()
    assert slot.frame().payload == b"piece 2"
    go.release()
    assert slot.frame().last


@pytest.mark.parametrize("size", [1, 65536, 262144, 262145, 1 << 20, 5_000_001])
@pytest.mark.parametrize("form", [lambda data: [data], lambda data: iter([data]), lambda d: [d, d]])
def test_large_bodies_are_cut_into_frames(serve, size, form):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    slot = serve(returns(lambda: form(data)))
    answer = slot.ask()
    assert answer.body == b"".join(form(data))
    assert all(len(frame.payload) <= 512 * 1024 for frame in answer.frames)
    assert slot.ask(path=b"/again").body == answer.body


def test_more_pieces_than_one_system_call_takes(serve):
    pieces = [b"%d," % index for index in range(5000)]
    answer = serve(returns(pieces)).ask()
    assert answer.body == b"".join(pieces) and len(answer.frames) == 1


def test_headers_keep_order_case_and_latin_1(serve):
    headers = [("X-A", "1"), ("x-b", "\xe4\xff"), ("X-A", " 2\t"), ("Set-Cookie", "a=b")]
    answer = serve(returns([b""], headers)).ask()
    assert answer.headers == [
        (b"X-A", b"1"),
        (b"x-b", b"\xe4\xff"),
        (b"X-A", b"2"),
        (b"Set-Cookie", b"a=b"),
    ]


def test_reason_phrase_is_the_apps(serve):
    answer = serve(returns([b""], status="299 Quite Fine")).ask()
    assert (answer.status, answer.reason) == (299, b"Quite Fine")


def test_close_is_called_before_the_end_is_told(serve):
    order = []

    class Result(Closing):
        def close(self):
            super().close()
            order.append("close")

    result = Result([b"hello"])
    slot = serve(returns(result, sized(5)))
    answer = slot.ask()
    assert answer.body == b"hello" and order == ["close"]
    assert wire.decode_head(answer.frames[0].payload)[3] == b"hello"
    assert result.exhausted and result.closed == 1


def test_client_has_the_body_before_close_runs(serve):
    import threading

    gate = threading.Event()
    result = Closing([b"hello"], on_close=lambda: gate.wait(10))
    slot = serve(returns(result, sized(5)))
    slot.send(wire.request())
    assert wire.decode_head(slot.frame().payload)[3] == b"hello"
    gate.set()
    assert slot.frame().last


def test_close_is_called_for_an_empty_iterable(serve):
    result = Closing([])
    answer = serve(returns(result)).ask()
    assert answer.status == 200 and answer.body == b"" and result.closed == 1


def test_code_behind_the_last_yield_runs(serve):
    ran = []

    def pieces():
        yield b"hello"
        ran.append(True)

    assert serve(returns(pieces, sized(5))).ask().body == b"hello"
    assert ran == [True]


def test_body_is_cut_at_content_length(serve):
    result = Closing([b"hel", b"lo, world", b"more"])
    slot = serve(returns(result, sized(5)))
    answer = slot.ask()
    assert answer.body == b"hello" and answer.aborted is None
    assert result.closed == 1 and not result.exhausted
    slot.finish()
    assert "longer than its Content-Length of 5" in slot.log


@pytest.mark.parametrize("result", [[b"hello, world"], [b"hel", b"lo, ", b"world"]])
def test_list_is_cut_at_content_length(serve, result):
    slot = serve(returns(result, sized(5)))
    answer = slot.ask()
    assert answer.body == b"hello" and answer.frames[-1].last and answer.aborted is None
    slot.finish()
    assert "longer than its Content-Length" in slot.log


@pytest.mark.parametrize(
    "result", [[b"hel"], [b"h", b"el"], [], lambda: iter([b"hel"]), lambda: Closing([b"hel"])]
)
def test_body_shorter_than_content_length_is_aborted(serve, result):
    slot = serve(returns(result, sized(5)))
    answer = slot.ask()
    assert b"of 5 bytes" in answer.aborted and not answer.frames[-2].last
    assert slot.ask().aborted
    slot.finish()
    assert "of 5 bytes" in slot.log


@pytest.mark.parametrize(
    "method, status", [(b"HEAD", "200 OK"), (b"GET", "304 Not Modified"), (b"GET", "204 No Content")]
)
@pytest.mark.parametrize("result", [[], [b""], lambda: Closing([]), lambda: iter([])])
def test_responses_without_a_body_may_state_a_length(serve, method, status, result):
    slot = serve(returns(result, sized(99), status))
    answer = slot.ask(method)
    assert answer.aborted is None and answer.header(b"content-length") == [b"99"]
    slot.finish()
    assert slot.log == ""


def test_write_sends_at_once_and_before_what_is_returned(serve):
    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"")
        write(b"one ")
        write(b"two ")
        return [b"three"]

    answer = serve(app).ask()
    assert answer.body == b"one two three"
    assert wire.decode_head(answer.frames[0].payload)[3] == b"one "


def test_write_alone_is_a_response(serve):
    def app(environ, start_response):
        start_response("200 OK", sized(5))(b"hello")
        return []

    answer = serve(app).ask()
    assert answer.body == b"hello" and answer.aborted is None


def test_write_takes_bytes_only(serve):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        for wrong in ("text", bytearray(b"x"), None, 1):
            with pytest.raises(TypeError):
                write(wrong)
        with pytest.raises(TypeError):
            write()
        with pytest.raises(TypeError):
            write(b"", b"")
        return [b"ok"]

    assert serve(app).ask().body == b"ok"


@pytest.mark.parametrize(
    "result",
    [None, 5, "text", ["text"], [bytearray(b"x")], b"bytes", [b"good", "bad"], lambda: iter([1])],
)
def test_what_is_not_bytes_is_the_apps_fault(serve, result):
    slot = serve(returns(result))
    answer = slot.ask()
    assert answer.status == 500 and answer.header(b"x-ostler-error") == [b"app"]
    assert answer.body == b"" and answer.frames[-1].last
    slot.finish()
    assert "TypeError" in slot.log


def test_subclass_of_bytes_is_bytes(serve):
    class Mine(bytes):
        pass

    assert serve(returns([Mine(b"hello")])).ask().body == b"hello"


def test_start_response_may_come_with_the_first_piece(serve):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"hello"

    assert serve(app).ask().body == b"hello"


@pytest.mark.parametrize("result", [[b"x"], [], lambda: iter([b"x"]), lambda: iter([])])
def test_no_start_response_is_the_apps_fault(serve, result):
    slot = serve(lambda environ, start_response: result() if callable(result) else result)
    assert slot.ask().status == 500
    slot.finish()
    assert "start_response() was not called" in slot.log


def test_exception_before_the_head_is_a_500_with_a_traceback(serve):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        raise KeyError("the cause")

    slot = serve(app)
    answer = slot.ask(b"POST", b"/a\nb", target=b"/a%0Ab\x1b?q", request_id=0xABC)
    assert answer.status == 500 and answer.headers == [(b"x-ostler-error", b"app")]
    assert len(answer.frames) == 1
    slot.finish()
    first = slot.log.splitlines()[0]
    assert first == r"POST /a%0Ab\u{1b}?q (request 0000000000000abc): the app failed"
    assert "KeyError: 'the cause'" in slot.log and "in app" in slot.log


def test_exception_before_the_first_piece_is_a_500_and_closes(serve):
    result = Closing([b"", ValueError("late")])
    assert serve(returns(result)).ask().status == 500
    assert result.closed == 1


def test_exception_behind_the_head_is_an_abort_and_closes(serve):
    result = Closing([b"one", ValueError("late")])
    slot = serve(returns(result))
    answer = slot.ask()
    assert answer.status == 200 and b"ValueError" in answer.aborted and result.closed == 1
    assert slot.ask().status == 200
    slot.finish()
    assert "ValueError: late" in slot.log


def test_exception_in_close_is_reported_and_the_response_is_whole(serve):
    def fail():
        raise ValueError("in close")

    result = Closing([b"hello"], on_close=fail)
    slot = serve(returns(result))
    answer = slot.ask()
    assert answer.body == b"hello" and answer.aborted is None
    assert slot.ask().status == 200
    slot.finish()
    assert "ValueError: in close" in slot.log


def test_error_log_that_fails_does_not_end_the_slot(serve):
    class Broken:
        def write(self, text):
            raise OSError("disk full")

        flush = write

    def app(environ, start_response):
        raise ValueError

    slot = serve(app, errors=Broken())
    assert [slot.ask().status, slot.ask().status] == [500, 500]


def test_early_hints_are_interim_responses(serve):
    def app(environ, start_response):
        hint = environ["wsgi.early_hints"]
        hint([("Link", "</a.css>; rel=preload")])
        start_response("200 OK", PLAIN)
        hint([("Link", "</b.css>; rel=preload")])
        return [b"hello"]

    slot = serve(app)
    answer = slot.ask()
    assert [(hint[0], hint[2]) for hint in answer.interim] == [
        (103, [(b"Link", b"</a.css>; rel=preload")]),
        (103, [(b"Link", b"</b.css>; rel=preload")]),
    ]
    assert answer.body == b"hello"
    assert slot.ask(version=10).interim == []


def test_early_hints_behind_the_head_are_dropped(serve):
    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"hel")
        environ["wsgi.early_hints"]([("Link", "</a.css>")])
        return [b"lo"]

    answer = serve(app).ask()
    assert answer.interim == [] and answer.body == b"hello"


def test_callables_kept_by_the_app_do_not_touch_the_next_request(serve):
    kept = []

    def app(environ, start_response):
        for old_start, old_write, old_hint in kept:
            with pytest.raises(AssertionError):
                old_start("200 OK", [])
            with pytest.raises(AssertionError):
                old_write(b"late")
            old_hint([("Link", "</late.css>")])
        kept.append((start_response, start_response("200 OK", PLAIN), environ["wsgi.early_hints"]))
        return [b"%d" % len(kept)]

    slot = serve(app)
    for turn in range(1, 5):
        answer = slot.ask()
        assert answer.body == b"%d" % turn and answer.interim == []


def test_an_environ_kept_by_the_app_costs_nothing_but_memory(serve):
    kept = []

    def app(environ, start_response):
        kept.append(environ)
        start_response("200 OK", PLAIN)
        return [environ["PATH_INFO"].encode()]

    slot = serve(app)
    for turn in range(20):
        assert slot.ask(path=b"/%d" % turn).body == b"/%d" % turn
    assert [environ["PATH_INFO"] for environ in kept] == [f"/{turn}" for turn in range(20)]


def test_callables_are_built_once_when_nobody_keeps_them(serve):
    seen = []

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        seen.append((id(start_response), id(write), id(environ["wsgi.early_hints"])))
        return [b"ok"]

    slot = serve(app)
    for _ in range(10):
        slot.ask(b"POST", body=b"x")
    assert len(set(seen)) == 1
