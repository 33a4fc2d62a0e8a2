"""What start_response accepts and refuses (PEP 3333, and gunicorn where that is looser)."""

import sys

import pytest


def check(serve, calls):
    """Runs calls(start_response) inside an app; the answer to the request."""

    def app(environ, start_response):
        calls(start_response)
        return [b"body"]

    return serve(app).ask()


@pytest.mark.parametrize(
    "status", ["", "20", "2000", "abc OK", "200\tOK", "200 O\r\nK", "200 O\x00K", "099 Low", "200-OK"]
)
def test_status_must_be_a_code_and_a_reason(serve, status):
    def calls(start_response):
        with pytest.raises(ValueError):
            start_response(status, [])
        start_response("201 Created", [])

    assert check(serve, calls).status == 201


@pytest.mark.parametrize("status", [200, b"200 OK", None])
def test_status_must_be_a_str(serve, status):
    def calls(start_response):
        with pytest.raises(TypeError):
            start_response(status, [])
        start_response("200 OK", [])

    assert check(serve, calls).status == 200


@pytest.mark.parametrize("status, reason", [("204 ", b""), ("204", b""), ("404 Not  Found", b"Not  Found")])
def test_reason_may_be_missing_or_odd(serve, status, reason):
    answer = check(serve, lambda start_response: start_response(status, []))
    assert (answer.status, answer.reason) == (int(status[:3]), reason)


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "a\r\nX-B: b"),
        ("X-A", "a\nb"),
        ("X-A", "a\rb"),
        ("X-A", "a\x00b"),
        ("X-A", "a\x7f"),
        ("X-A\r\nX-B", "a"),
        ("X A", "a"),
        ("X-A:", "a"),
        ("", "a"),
        ("X-\xe4", "a"),
        ("Content-Length", "-1"),
        ("Content-Length", "5, 5"),
        ("Content-Length", ""),
        ("Content-Length", "+5"),
        ("Content-Length", "99999999999999999999999"),
        ("X-A", "\u20ac"),
        ("X-A",),
        ("X-A", "a", "b"),
        ("X-A", "a" * 70000),
    ],
)
def test_bad_header_is_a_value_error(serve, header):
    def calls(start_response):
        with pytest.raises(ValueError):
            start_response("200 OK", [("X-Good", "1"), header])
        start_response("202 Accepted", [("X-Good", "2")])

    answer = check(serve, calls)
    assert (answer.status, answer.headers) == (202, [(b"X-Good", b"2")])


@pytest.mark.parametrize("header", [("X-A", b"a"), (b"X-A", "a"), ("X-A", 5), ("X-A", None), "ab", 5])
def test_header_of_another_type_is_a_type_error(serve, header):
    def calls(start_response):
        with pytest.raises(TypeError):
            start_response("200 OK", [header])
        start_response("200 OK", [])

    assert check(serve, calls).status == 200


def test_uncaught_bad_header_is_logged_and_answered_500(serve):
    def app(environ, start_response):
        start_response("302 Found", [("Location", "/next\r\nSet-Cookie: a=b")])
        return [b""]

    slot = serve(app)
    answer = slot.ask()
    assert answer.status == 500 and answer.header(b"location") == []
    slot.finish()
    assert "Location" in slot.log and "ValueError" in slot.log


def test_two_lengths_that_disagree_are_refused(serve):
    def calls(start_response):
        with pytest.raises(ValueError):
            start_response("200 OK", [("Content-Length", "4"), ("content-length", "5")])
        start_response("200 OK", [("Content-Length", "4"), ("content-length", "4")])

    assert check(serve, calls).body == b"body"


def test_too_many_headers_are_refused(serve):
    def calls(start_response):
        with pytest.raises(ValueError):
            start_response("200 OK", [("X-A", "a")] * 70000)
        with pytest.raises(ValueError):
            start_response("200 OK", [("X-A", "a" * 1000)] * 100)
        start_response("200 OK", [("X-A", "a")] * 500)

    assert len(check(serve, calls).headers) == 500


@pytest.mark.parametrize(
    "headers",
    [
        (("X-A", "1"), ("X-B", "2")),
        [["X-A", "1"], ["X-B", "2"]],
        {"X-A": "1", "X-B": "2"}.items(),
        iter([("X-A", "1"), ("X-B", "2")]),
    ],
)
def test_other_containers_are_accepted_as_gunicorn_does(serve, headers):
    answer = check(serve, lambda start_response: start_response("200 OK", headers))
    assert answer.headers == [(b"X-A", b"1"), (b"X-B", b"2")]


@pytest.mark.parametrize("headers", [None, 5, "ab"])
def test_headers_must_be_iterable_pairs(serve, headers):
    def calls(start_response):
        with pytest.raises((TypeError, ValueError)):
            start_response("200 OK", headers)
        start_response("200 OK", [])

    assert check(serve, calls).status == 200


def test_second_call_without_exc_info_is_an_assertion_error(serve):
    def calls(start_response):
        start_response("200 OK", [("X-A", "1")])
        for info in ((), (None,)):
            with pytest.raises(AssertionError):
                start_response("404 Not Found", [], *info)

    answer = check(serve, calls)
    assert (answer.status, answer.headers) == (200, [(b"X-A", b"1")])


def test_exc_info_replaces_a_head_that_waits(serve):
    def calls(start_response):
        start_response("200 OK", [("X-A", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [("X-B", "2")], sys.exc_info())

    answer = check(serve, calls)
    assert (answer.status, answer.reason, answer.headers) == (500, b"Oops", [(b"X-B", b"2")])


def test_bad_replacement_leaves_the_head_that_waits(serve):
    def calls(start_response):
        start_response("200 OK", [("X-A", "1")])
        try:
            raise ValueError
        except ValueError:
            with pytest.raises(ValueError):
                start_response("500 Oops", [("X-B", "2"), ("X C", "3")], sys.exc_info())

    answer = check(serve, calls)
    assert (answer.status, answer.headers, answer.body) == (200, [(b"X-A", b"1")], b"body")


def test_exc_info_behind_the_head_raises_the_apps_exception(serve):
    raised = []

    def app(environ, start_response):
        start_response("200 OK", [])(b"begun")
        try:
            raise ValueError("original")
        except ValueError:
            info = sys.exc_info()
        try:
            start_response("500 Oops", [], info)
        except ValueError as error:
            raised.append(error is info[1] and error.__traceback__ is not None)
            raise
        return [b"never"]

    answer = serve(app).ask()
    assert raised == [True] and answer.body == b"begun" and b"ValueError" in answer.aborted


def test_arguments_may_be_named(serve):
    def calls(start_response):
        start_response(headers=[("X-A", "1")], status="200 OK", exc_info=None)

    assert check(serve, calls).headers == [(b"X-A", b"1")]


def test_wrong_arguments_are_type_errors(serve):
    def calls(start_response):
        for args, named in (
            ((), {}),
            (("200 OK",), {}),
            (("200 OK", [], None, None), {}),
            (("200 OK", []), {"status": "200 OK"}),
            (("200 OK",), {"header": []}),
        ):
            with pytest.raises(TypeError):
                start_response(*args, **named)
        start_response("200 OK", [])

    assert check(serve, calls).status == 200


def test_headers_that_change_while_they_are_read_do_no_harm(serve):
    class Odd(list):
        def __iter__(self):
            for _ in range(3):
                self.clear()
                yield ("X-A", "1")

    answer = check(serve, lambda start_response: start_response("200 OK", Odd([("X-B", "2")])))
    assert answer.status == 200
