"""The error log as Python code sees it: `wsgi.errors`, `server.log`, and captured output.

The lines of the server itself are not written here. A log file is reopened under the descriptor it
has, so whoever writes to it notices nothing.
"""

import json
import logging
import logging.config
import os
import sys

from _ostler.failure import CONFIG, Failed

_FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
_DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"

_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


class ErrorLog:
    """`stream` is a text stream, flushed at each line: standard error, or the file at `path`.

    With `capture` the file also takes the place of standard output and error. Raises `Failed`.
    """

    def __init__(self, path, capture):
        self._path = None if path in (None, "-", "/dev/stderr") else os.path.abspath(path)
        self.stream = sys.stderr
        self._copies = []
        if self._path is None:
            return
        try:
            fd = self._open()
        except OSError as error:
            text = f"cannot open the error log {path}: {error.strerror}"
            raise Failed(CONFIG, text) from None
        self.stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._copies = [fd]
        if capture:
            sys.stdout.flush()
            sys.stderr.flush()
            self._copies += [1, 2]
            os.dup2(fd, 1)
            os.dup2(fd, 2)

    def _open(self):
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def reopen(self):
        """After a rotation. A file that cannot be opened leaves the old one in use."""
        if self._path is None:
            return
        try:
            fd = self._open()
        except OSError as error:
            print(f"ostler: cannot reopen {self._path}: {error.strerror}", file=self.stream)
            return
        for copy in self._copies:
            os.dup2(fd, copy, inheritable=copy < 3)
        os.close(fd)


def set_up(cfg, error_log):
    """Gives "gunicorn.error" a handler before the app is imported, because apps copy its handlers
    and level, then applies logconfig_dict, logconfig_json or logconfig. Returns the logger."""
    handler = logging.StreamHandler(error_log.stream)
    handler.setFormatter(logging.Formatter(_FORMAT, _DATE_FORMAT))
    error = logging.getLogger("gunicorn.error")
    error.propagate = False
    error.setLevel(_LEVELS.get(str(cfg.loglevel).lower(), logging.INFO))
    error.handlers[:] = [handler]
    access = logging.getLogger("gunicorn.access")
    access.propagate = False
    access.setLevel(logging.INFO)
    # gunicorn's own log object is no Logger but holds these two.
    error.error_log, error.access_log = error, access
    try:
        _configure(cfg)
    except Exception as problem:
        raise Failed(CONFIG, f"invalid logging configuration: {problem}") from None
    return error


def _configure(cfg):
    if cfg.logconfig_dict:
        logging.config.dictConfig({**_defaults(), **cfg.logconfig_dict})
    elif cfg.logconfig_json:
        with open(cfg.logconfig_json, encoding="utf-8") as file:
            logging.config.dictConfig({**_defaults(), **json.load(file)})
    elif cfg.logconfig:
        path = os.path.abspath(cfg.logconfig)
        names = {"__file__": path, "here": os.path.dirname(path)}
        logging.config.fileConfig(path, defaults=names, disable_existing_loggers=False)


def _defaults():
    """What a logconfig_dict need not say, as in gunicorn: every log goes to the console."""
    console = {"class": "logging.StreamHandler", "formatter": "generic"}
    logger = {"level": "INFO", "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {
            "gunicorn.error": {**logger, "handlers": ["error_console"]},
            "gunicorn.access": {**logger, "handlers": ["console"]},
        },
        "handlers": {
            "console": {**console, "stream": "ext://sys.stdout"},
            "error_console": {**console, "stream": "ext://sys.stderr"},
        },
        "formatters": {"generic": {"format": _FORMAT, "datefmt": _DATE_FORMAT}},
    }
