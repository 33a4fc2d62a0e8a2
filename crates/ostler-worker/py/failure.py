"""How a start that fails is told: an exit code, and a text for the person who has to act.

The text of an exception is the app's own traceback: the frames of this package and of the import
machinery that lead into the app are left out.
"""

import traceback

# The exit codes of a failed start; 3 and 4 are gunicorn's.
CONFIG = 1
IMPORT = 3
CALLABLE = 4

# A longer text keeps its two ends: it has to fit into one control message after JSON escaping.
_HEAD = 4 * 1024
_TAIL = 12 * 1024


class Failed(Exception):
    """The process cannot go on; `exit` is its exit code."""

    def __init__(self, exit, text):
        super().__init__(text)
        self.exit = exit
        self.text = text

    def message(self):
        return {"type": "failed", "exit": self.exit, "text": excerpt(self.text)}


def own_traceback(error):
    """The formatted traceback of `error` without the frames that lead to the app's first one."""
    link, seen = error, set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = app_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines).rstrip("\n")


def app_frames(tb):
    """The traceback from the first frame that is neither ours nor the import machinery's, and
    without those of ours that stand between imports."""
    while tb is not None and _leads_in(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    kept = tb
    while kept is not None:
        while kept.tb_next is not None and _is_ours(kept.tb_next):
            kept.tb_next = kept.tb_next.tb_next
        kept = kept.tb_next
    return tb


def _is_ours(tb):
    return tb.tb_frame.f_code.co_filename.startswith("<ostler ")


def _leads_in(filename):
    return filename.startswith(("<ostler ", "<frozen importlib")) or filename.endswith(
        "/importlib/__init__.py"
    )


def excerpt(text):
    left_out = len(text) - _HEAD - _TAIL
    if left_out <= 0:
        return text
    return f"{text[:_HEAD]}\n... {left_out} characters left out ...\n{text[-_TAIL:]}"
