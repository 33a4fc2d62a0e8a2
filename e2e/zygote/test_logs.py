"""The error log, captured output, logging configuration, and the watch for changed files."""

import os
import signal

from zygote_driver import HELLO, until

CHATTY = """
import logging, sys
error = logging.getLogger("gunicorn.error")
copied = error.handlers, error.level
def app(environ, start_response):
    start_response("200 OK", [])
    print("to wsgi.errors", file=environ["wsgi.errors"])
    print("to stdout")
    print("to stderr", file=sys.stderr)
    error.warning("to the logger")
    return [repr(copied[1]).encode()]
"""


def test_without_a_file_everything_goes_to_the_standard_streams(folder, start):
    folder(app=CHATTY)
    zygote = start()
    zygote.start(cfg={"loglevel": "warning"})
    assert zygote.fork().boot().slots[0].get("/") == "30"
    output = zygote.output()
    assert "to wsgi.errors\nto stdout\nto stderr\n" in output
    assert "[WARNING] to the logger" in output


def test_the_error_log_takes_errors_and_captures_output_when_asked(folder, start):
    for capture, in_file in (
        (False, ["to wsgi.errors"]),
        (True, ["to wsgi.errors", "to stdout", "to stderr"]),
    ):
        log = folder(app=CHATTY) / f"error-{capture}.log"
        zygote = start()
        zygote.start(error_log=str(log), capture_output=capture)
        zygote.fork().boot().slots[0].get("/")
        lines = log.read_text().splitlines()
        assert lines[:-1] == in_file
        assert lines[-1].endswith("[WARNING] to the logger")
        assert ("to stdout" in zygote.output()) is not capture
        zygote.log.truncate(0)


def test_sigusr1_opens_a_rotated_log_anew(folder, start):
    log = folder(app=CHATTY + "\nprint('import')\n") / "error.log"
    zygote = start()
    zygote.start(error_log=str(log), capture_output=True)
    worker = zygote.fork().boot()
    old = log.rename(log.with_suffix(".1"))
    os.kill(worker.pid, signal.SIGUSR1)
    until(log.exists)
    worker.slots[0].get("/")
    assert old.read_text() == "import\n"
    assert log.read_text().count("\n") == 4
    # A file that cannot be opened leaves the old one in use.
    log.rename(log.with_suffix(".2"))
    log.mkdir()
    os.kill(worker.pid, signal.SIGUSR1)
    until(lambda: "cannot reopen" in log.with_suffix(".2").read_text())
    worker.slots[0].get("/")
    assert log.with_suffix(".2").read_text().count("\n") == 9
    # So does the zygote, for what it prints and for the workers to come.
    log.rmdir()
    zygote.process.send_signal(signal.SIGUSR1)
    until(log.exists)
    zygote.fork(2).boot().slots[0].get("/")
    assert log.read_text().count("\n") == 4


def test_an_error_log_that_cannot_be_opened_is_named(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.configure()
    failed = zygote.load(error_log="/nowhere/error.log")
    assert (failed["type"], failed["exit"]) == ("failed", 1)
    assert (
        failed["text"] == "cannot open the error log /nowhere/error.log: No such file or directory"
    )


def test_logconfig_dict_configures_the_apps_loggers(folder, start):
    folder(
        app="""
import logging
def app(environ, start_response):
    start_response("200 OK", [])
    logging.getLogger("shop").info("an order")
    return [b"ok"]
"""
    )
    settings = {
        "formatters": {"generic": {"format": "<%(name)s> %(message)s"}},
        "loggers": {"shop": {"level": "INFO", "handlers": ["console"], "propagate": False}},
    }
    zygote = start()
    zygote.start(cfg={"logconfig_dict": settings})
    assert zygote.fork().boot().slots[0].get("/") == "ok"
    assert "<shop> an order\n" in zygote.output()


def test_an_invalid_logconfig_is_a_failed_start(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.configure()
    failed = zygote.load(cfg={"logconfig_dict": {"root": {"handlers": ["nowhere"]}}})
    assert failed["exit"] == 1
    assert failed["text"].startswith("invalid logging configuration: ")


def test_each_change_of_a_file_is_told(folder, start):
    home = folder(app="import part\n" + HELLO, part="", template="")
    zygote = start()
    extra = str(home / "template.py")
    zygote.start(reload=True, reload_extra_files=[extra])
    workers = [zygote.fork(id).boot() for id in (1, 2)]
    later = os.stat(home / "part.py").st_mtime + 10
    assert all(worker.control.silent(1.3) for worker in workers)
    os.utime(home / "part.py", (later, later))
    for worker in workers:
        changed = worker.control.expect("changed")
        assert changed == {"type": "changed", "file": str(home / "part.py")}
    os.utime(extra, (later, later))
    assert [worker.control.expect("changed")["file"] for worker in workers] == [extra] * 2
    assert all(worker.control.silent() for worker in workers)
