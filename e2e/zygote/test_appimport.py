"""`module:callable`: every form, every failure, and which language the app speaks."""

import importlib.machinery
import importlib.util
import sys

import pytest

from zygote_driver import EXTENSION

SOURCE = """
import functools

def wsgi(environ, start_response): pass
def wsgi_with_defaults(environ, start_response, more=None): pass
def anything(*args, **kwargs): pass
class WsgiClass:
    def __init__(self, environ, start_response): pass
    def __iter__(self): pass
class WsgiObject:
    def __call__(self, environ, start_response): pass
wsgi_object = WsgiObject()
wsgi_partial = functools.partial(lambda prefix, environ, start_response: None, "/")

async def asgi(scope, receive, send): pass
def asgi_in_sync_clothes(scope, receive, send): pass
@functools.wraps(asgi)
def asgi_wrapped(*args): return asgi(*args)
class AsgiObject:
    async def __call__(self, scope, receive, send): pass
    async def method(self, scope, receive, send): pass
class AsgiAnything:
    async def __call__(self, *args, **kwargs): pass
asgi_object = AsgiObject()
asgi_method = asgi_object.method
asgi_anything = AsgiAnything()
asgi_partial = functools.partial(asgi)
asgi_object_partial = functools.partial(asgi_object)

def asgi2(scope):
    async def inner(receive, send): pass
    return inner
class Asgi2Class:
    def __init__(self, scope): pass
    async def __call__(self, receive, send): pass

def create_app(kind="wsgi", *, wrap=False):
    return {"wsgi": wsgi, "asgi": asgi, "nothing": None}[kind]
def broken_factory():
    return {}["missing"]
number = 5
"""

USUAL = "def %s(environ, start_response): pass"


@pytest.fixture(scope="module")
def appimport():
    if "_ostler" not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader("_ostler", str(EXTENSION))
        spec = importlib.util.spec_from_file_location("_ostler", str(EXTENSION), loader=loader)
        sys.modules["_ostler"] = importlib.util.module_from_spec(spec)
        loader.exec_module(sys.modules["_ostler"])
    from _ostler import appimport

    return appimport


@pytest.fixture
def load(appimport, folder, monkeypatch):
    """Imports from a fresh folder; a failure is returned as `(exit, text)`."""
    from _ostler.failure import Failed

    home = folder(
        shop=SOURCE,
        only_application=USUAL % "application",
        only_app=USUAL % "app",
        both=USUAL % "app" + "\n" + USUAL % "application",
        factory="def make_app(): pass",
        needs="import not_installed",
        stops="raise SystemExit('set DATABASE_URL')",
    )
    (home / "pkg").mkdir()
    (home / "pkg/__init__.py").write_text("")
    (home / "pkg/site.py").write_text("class holder:\n    inner = staticmethod(lambda e, s: None)")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    before = set(sys.modules)

    def load(spec, interface="auto"):
        try:
            return appimport.load(spec, interface)
        except Failed as failed:
            return failed.exit, failed.text.replace(str(home), "HOME")

    yield load
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "spec, name",
    [
        ("shop:wsgi", "wsgi"),
        ("shop:create_app()", "wsgi"),
        ('shop:create_app("wsgi")', "wsgi"),
        ("shop:create_app(kind='asgi', wrap=True)", "asgi"),
        ("only_application", "application"),
        ("only_app", "app"),
        ("both", "application"),
        ("pkg.site:holder.inner", "<lambda>"),
    ],
)
def test_every_form_finds_its_app(load, spec, name):
    app, _ = load(spec)
    assert app.__name__ == name


@pytest.mark.parametrize(
    "name, interface",
    [
        ("wsgi", "wsgi"),
        ("wsgi_with_defaults", "wsgi"),
        ("anything", "wsgi"),
        ("WsgiClass", "wsgi"),
        ("wsgi_object", "wsgi"),
        ("wsgi_partial", "wsgi"),
        ("asgi", "asgi"),
        ("asgi_in_sync_clothes", "asgi"),
        ("asgi_wrapped", "asgi"),
        ("asgi_object", "asgi"),
        ("asgi_method", "asgi"),
        ("asgi_anything", "asgi"),
        ("asgi_partial", "asgi"),
        ("asgi_object_partial", "asgi"),
    ],
)
def test_wsgi_and_asgi_are_told_apart(load, name, interface):
    assert load(f"shop:{name}")[1] == interface


def test_the_interface_can_be_told(load):
    assert load("shop:anything", "asgi")[1] == "asgi"


@pytest.mark.parametrize(
    "spec, exit, text",
    [
        ("shop:wsg", 4, 'no "wsg" in module "shop"; did you mean "wsgi"?'),
        ("shop:zzz", 4, 'no "zzz" in module "shop"; did you mean "shop:create_app()"?'),
        ("only_app:zzz", 4, 'no "zzz" in module "only_app"'),
        ("pkg.site:holder.iner", 4, 'no "iner" in "holder"; did you mean "inner"?'),
        (
            "factory",
            4,
            'no "application" or "app" in module "factory"; did you mean "factory:make_app()"?',
        ),
        (
            "shop:create_app",
            4,
            '"create_app" in module "shop" takes no request; did you mean "shop:create_app()"?',
        ),
        ("shop:number", 4, '"number" in module "shop" is not callable: int'),
        ("shop:number()", 4, '"number" in module "shop" is not callable'),
        ("shop:create_app('nothing')", 4, "is not callable: NoneType"),
        ("shop:create_app(1, 2)", 4, "cannot call create_app(1, 2): too many positional arguments"),
        ("shop:create_app(wsgi)", 4, "is neither a name nor a call with literal arguments"),
        ("shop:a + b", 4, "is neither a name nor a call with literal arguments"),
        ("shop:(", 4, "is neither a name nor a call with literal arguments"),
        ("shop:asgi2", 4, '"asgi2" is an ASGI 2 app'),
        ("shop:Asgi2Class", 4, "guarantee_single_callable"),
        ("shp:wsgi", 3, 'no module named "shp" in HOME; did you mean "shop"?'),
        ("shop.py:wsgi", 3, 'no module named "shop.py" in HOME; did you mean "shop"?'),
        ("pkg/site.py:app", 3, 'no module named "pkg/site.py" in HOME; did you mean "pkg.site"?'),
        ("pkg.sit:app", 3, 'no module named "pkg.sit" in HOME; did you mean "pkg.site"?'),
        ("pk.site:app", 3, 'no module named "pk.site" in HOME; did you mean "pkg.site"?'),
        ("zzz:app", 3, 'no module named "zzz" in HOME'),
        ("needs:app", 3, "ModuleNotFoundError: No module named 'not_installed'"),
        ("stops:app", 3, "SystemExit: set DATABASE_URL"),
        ("shop:broken_factory()", 3, "KeyError: 'missing'"),
    ],
)
def test_a_failure_says_what_to_do(load, spec, exit, text):
    code, said = load(spec)
    assert code == exit
    assert said == text or text in said and not text.startswith("no ")


def test_frames_of_ours_are_not_shown(load):
    for spec in ("needs:app", "stops:app", "shop:broken_factory()"):
        _, text = load(spec)
        assert "<ostler" not in text and "importlib" not in text
        assert text.count("  File ") == 1
