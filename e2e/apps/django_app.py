"""Django in one file: WSGI as `app`, ASGI as `asgi`."""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only a test",
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()


def hello(request):
    return HttpResponse("Hello, Django!")


def upload(request):
    return JsonResponse({"fields": request.POST.dict(), "files": {k: f.size for k, f in request.FILES.items()}})


def body(request):
    return HttpResponse(request.body, content_type="application/octet-stream")


def where(request):
    return JsonResponse({"url": request.build_absolute_uri(), "secure": request.is_secure(), "addr": request.META.get("REMOTE_ADDR")})


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


def stream(request):
    return StreamingHttpResponse((f"line {n}\n" for n in range(100)), content_type="text/plain")


def file(request):
    return FileResponse(open(__file__, "rb"))


async def slow(request):
    import asyncio

    await asyncio.sleep(0.05)
    return HttpResponse("slept")


def error(request):
    raise RuntimeError("on purpose")


urlpatterns = [
    path("", hello), path("upload", upload), path("body", body), path("where", where), path("visits", visits),
    path("stream", stream), path("file", file), path("slow", slow), path("error", error),
]
app = get_wsgi_application()
asgi = get_asgi_application()
