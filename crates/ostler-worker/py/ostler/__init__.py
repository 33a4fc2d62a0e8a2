"""What an app may import from ostler: `from ostler import timed`.

In a worker of ostler with `perf` on, calls are noted in the run's files. Anywhere else (`python
app.py`, tests, another server) everything here runs what it is given and does nothing more.
"""

from __future__ import annotations

import functools
import inspect
import time
from typing import Any, Callable, TypeVar, overload

try:
    import _ostler
except ImportError:
    _ostler = None

__all__ = ["timed"]

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def timed(what: _F) -> _F: ...
@overload
def timed(what: str | None = None) -> Timed: ...


def timed(what: Any = None) -> Any:
    """Times calls: `@timed`, `@timed("name")`, or `with timed("name"):`.

    Functions may be plain, `async`, generators (from the first item asked for to the last) or
    asynchronous generators. Without a name it is the function's own.
    """
    if what is None or isinstance(what, str):
        return Timed(what)
    return Timed(None)(what)


class Timed:
    """What `timed("name")` gives. One may be used by several threads and tasks at once; which of
    them had which time is then not told apart, the sum of their times is right."""

    __slots__ = ("_name", "_begun")

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._begun: list[tuple[int, int]] = []

    def __call__(self, function: _F) -> _F:
        if inspect.isclass(function) or not callable(function):
            raise TypeError(f"timed takes a function or a name, not {function!r}; hint: below @staticmethod and @classmethod")
        return _wrapped(function, self._name or _name(function))

    def __enter__(self) -> None:
        if self._name is None:
            raise TypeError('a block has no name of its own: write with timed("name"):')
        self._begun.append(_now())

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if self._begun:
            _note(self._begun.pop(), self._name or "", kind)


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else name


def _now() -> tuple[int, int]:
    return time.time_ns(), time.perf_counter_ns()


def _note(begun: tuple[int, int], name: str, kind: type[BaseException] | None) -> None:
    timings = getattr(_ostler, "timings", None)
    if timings is not None:
        start, clock = begun
        duration = (time.perf_counter_ns() - clock) // 1000
        timings.note(start // 1000, duration, name, "ok" if kind is None else kind.__name__)


def _wrapped(function: Any, name: str) -> Any:
    if inspect.iscoroutinefunction(function):
        return _coroutine(function, name)
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, name)
    if inspect.isgeneratorfunction(function):
        return _generator(function, name)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if getattr(_ostler, "timings", None) is None:
            return function(*args, **kwargs)
        begun, kind = _now(), None
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            _note(begun, name, kind)

    return call


def _coroutine(function: Any, name: str) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        begun, kind = _now(), None
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            _note(begun, name, kind)

    return call


def _generator(function: Any, name: str) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        begun, kind = _now(), None
        try:
            return (yield from function(*args, **kwargs))
        except GeneratorExit:
            raise  # whoever asked wants no more: that is no error
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            _note(begun, name, kind)

    return call


def _async_generator(function: Any, name: str) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        begun, kind = _now(), None
        inner = function(*args, **kwargs)
        try:
            # What `yield from` does, which asynchronous generators do not have (PEP 525).
            step, value = inner.asend, None
            while True:
                try:
                    item = await step(value)
                except StopAsyncIteration:
                    return
                try:
                    step, value = inner.asend, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, value = inner.athrow, error
        except GeneratorExit:
            raise
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            await inner.aclose()
            _note(begun, name, kind)

    return call
