"""`module:callable` → the app, and whether it speaks WSGI or ASGI.

The forms are gunicorn's: `module`, `module:name`, `module:factory("literal", key=1)`, and dotted
names besides. Every failure is a `Failed` whose text says what to type instead, where that can be
known.
"""

import ast
import difflib
import functools
import importlib
import inspect
import logging
import os

from _ostler.blockers import PassedOver
from _ostler.failure import CALLABLE, IMPORT, Failed, app_frames, own_traceback

# Tried in this order when only a module is named.
USUAL_NAMES = ("application", "app")
USUAL_FACTORIES = ("create_app", "make_app", "get_app", "build_app")


def load(spec, interface, told=False):
    """Imports the app `spec` names: `(app, "wsgi" | "asgi")`; `interface` may be "auto". `told`: the
    warnings about it have been given."""
    with PassedOver(_say_nothing if told else _warn_of_server):
        return _load(spec, interface)


def _say_nothing(call, file, line):
    pass


def _warn_of_server(call, file, line):
    logging.getLogger("gunicorn.error").warning(
        "%s, line %d: %s is passed over, because ostler serves the app; hint: put it below "
        'if __name__ == "__main__":',
        file,
        line,
        call,
    )


def _load(spec, interface):
    module_name, _, expression = spec.partition(":")
    module = _import(module_name)
    if expression:
        app = _evaluate(module, module_name, expression)
    else:
        app, expression = _usual(module, module_name)
    if not callable(app):
        kind = type(app).__name__
        raise Failed(CALLABLE, f'"{expression}" in module "{module_name}" is not callable: {kind}')
    _refuse_asgi2(app, expression)
    if interface == "auto":
        _refuse_factory(app, module_name, expression)
        interface = spoken_by(app)
    return app, interface


def _import(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Raised for the module itself, and not by an import within it?
        missing = error.name is not None and f"{name}.".startswith(f"{error.name}.")
        if missing and app_frames(error.__traceback__) is None:
            raise Failed(IMPORT, _no_module(name)) from None
        raise Failed(IMPORT, own_traceback(error)) from None
    except BaseException as error:
        raise Failed(IMPORT, own_traceback(error)) from None


def _no_module(name):
    """Follows the name from folder to folder up to the part that is not there."""
    text = f'no module named "{name}" in {os.getcwd()}'
    wanted = (name[: -len(".py")] if name.endswith(".py") else name).replace("/", ".")
    parts = wanted.split(".")
    for depth, part in enumerate(parts):
        here = _modules(os.path.join(os.getcwd(), *parts[:depth]))
        if part not in here:
            close = difflib.get_close_matches(part, here, n=1)
            if not close:
                return text
            parts[depth] = close[0]
            break
    meant = ".".join(parts)
    return text if meant == name else f'{text}; did you mean "{meant}"?'


def _modules(folder):
    try:
        entries = os.listdir(folder)
    except OSError:
        return []
    stems = (entry[: -len(".py")] if entry.endswith(".py") else entry for entry in entries)
    return [stem for stem in stems if stem.isidentifier()]


def _usual(module, module_name):
    for name in USUAL_NAMES:
        if hasattr(module, name):
            return getattr(module, name), name
    tried = " or ".join(f'"{name}"' for name in USUAL_NAMES)
    text = f'no {tried} in module "{module_name}"'
    raise Failed(CALLABLE, text + _factory_hint(module, module_name))


def _evaluate(module, module_name, expression):
    path, arguments = _parse(expression)
    found = module
    for depth, name in enumerate(path):
        try:
            found = getattr(found, name)
        except AttributeError:
            where = f'module "{module_name}"' if depth == 0 else f'"{".".join(path[:depth])}"'
            callables = [key for key in dir(found) if callable(getattr(found, key, None))]
            hint = _did_you_mean(name, callables)
            if not hint and depth == 0:
                hint = _factory_hint(module, module_name)
            raise Failed(CALLABLE, f'no "{name}" in {where}{hint}') from None
    if arguments is None:
        return found
    if not callable(found):
        raise Failed(CALLABLE, f'"{".".join(path)}" in module "{module_name}" is not callable')
    return _call(found, arguments, expression)


def _parse(expression):
    """`obj.attr(…)` → (["obj", "attr"], (args, kwargs)), or None for the second without a call."""
    try:
        node, arguments = ast.parse(expression, mode="eval").body, None
        if isinstance(node, ast.Call):
            args = [ast.literal_eval(arg) for arg in node.args]
            kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
            node, arguments = node.func, (args, kwargs)
        path = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            return [node.id, *path], arguments
    except (SyntaxError, ValueError):
        pass
    text = f'"{expression}" is neither a name nor a call with literal arguments, as create_app("x")'
    raise Failed(CALLABLE, text)


def _call(factory, arguments, expression):
    args, kwargs = arguments
    try:
        inspect.signature(factory).bind(*args, **kwargs)
    except TypeError as error:
        raise Failed(CALLABLE, f"cannot call {expression}: {error}") from None
    except ValueError:
        pass  # no signature to be had: the call will tell
    try:
        return factory(*args, **kwargs)
    except BaseException as error:
        raise Failed(IMPORT, own_traceback(error)) from None


def spoken_by(app):
    """ "asgi" or "wsgi", told by how the app is to be called."""
    if _is_coroutine_function(app):
        return "asgi"
    names = _parameters(app)
    if names is not None and (names[:3] == ["scope", "receive", "send"] or len(names) == 3):
        return "asgi"
    return "wsgi"


def _is_coroutine_function(app):
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.isclass(app):
        return False
    if not (inspect.isfunction(app) or inspect.ismethod(app)):
        app = getattr(app, "__call__", app)
    return inspect.iscoroutinefunction(inspect.unwrap(app))


def _parameters(app):
    """The names of the arguments that have to be given, or None where that cannot be known."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _refuse_asgi2(app, expression):
    """ASGI 2 was app(scope) → an awaitable callable(receive, send); ASGI 3 replaced it in 2019."""
    inner = getattr(app, "__call__", None) if inspect.isclass(app) else None
    if _parameters(app) == ["scope"] and (inner is None or inspect.iscoroutinefunction(inner)):
        raise Failed(
            CALLABLE,
            f'"{expression}" is an ASGI 2 app, called as app(scope)(receive, send); ostler speaks '
            "ASGI 3: wrap it with asgiref.compatibility.guarantee_single_callable",
        )


def _refuse_factory(app, module_name, expression):
    if inspect.isfunction(app) and _parameters(app) == [] and "(" not in expression:
        try:
            inspect.signature(app).bind(None, None)
        except TypeError:
            raise Failed(
                CALLABLE,
                f'"{expression}" in module "{module_name}" takes no request; '
                f'did you mean "{module_name}:{expression}()"?',
            ) from None


def _factory_hint(module, module_name):
    for name in USUAL_FACTORIES:
        if callable(getattr(module, name, None)):
            return f'; did you mean "{module_name}:{name}()"?'
    return ""


def _did_you_mean(name, candidates):
    close = difflib.get_close_matches(name, candidates, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
