"""What a zygote, a worker and the hook process do to themselves: name, user, parent, end.

Knows nothing of messages, hooks or apps.
"""

import atexit
import os
import signal
import sys
import threading
import traceback

import _ostler

# Signals that a whole process group gets (systemd's default KillMode, a container's init) although
# they are meant for the keeper, which ends us in order. Their default would end us at once.
NOT_FOR_US = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def disregard_signals():
    """Survives the signals of `NOT_FOR_US`, whatever an import has made of them. A handler and not
    SIG_IGN, which programs that the app starts would inherit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in NOT_FOR_US:
        signal.signal(signum, lambda signum, frame: None)


def name(role, app, suffix=""):
    """Shows as `ostler: worker app:app [1]` in `ps`, as `ostler: worker` in `top`."""
    title = f"ostler: {role} {app}{suffix}".replace("\0", "")
    _ostler.set_title(f"ostler: {role}", title)


def die_with_parent(parent, group=False):
    """This process is killed when the process `parent` ends, its whole process group with `group`; a
    change of user undoes that."""
    _ostler.set_pdeathsig(_ostler.take_group_along() if group else signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def switch_user(uid, gid, groups):
    """Becomes `uid` and `gid` (None: as they are) with exactly the supplementary `groups`.

    Raises OSError. Afterwards there is no way back.
    """
    if uid in (None, os.geteuid()) and gid in (None, os.getegid()):
        return
    os.setgroups(groups)
    if gid is not None:
        os.setresgid(gid, gid, gid)
    if uid is not None:
        os.setresuid(uid, uid, uid)
    _ostler.set_dumpable()


def other_threads():
    """The names of every thread of this process but the calling one, whoever made them."""
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    return [
        named.get(int(tid)) or _comm(tid)
        for tid in sorted(os.listdir("/proc/self/task"), key=int)
        if int(tid) != threading.get_native_id()
    ]


def _comm(tid):
    try:
        with open(f"/proc/self/task/{tid}/comm") as file:
            return file.read().strip()
    except OSError:
        return f"thread {tid}"


def leave(code, patience, group=False, last=None):
    """Ends the process as the interpreter would: waits for threads that are not daemons, runs
    atexit, flushes. But for no longer than `patience` seconds, and without the finalization under
    which daemon threads die in the middle of native code. `last` is called when nothing of the app runs any
    more. With `group` it takes the process group along that it leads."""

    def too_late(signum, frame):
        raise TimeoutError(f"the app's exit handlers and threads took over {patience} s")

    try:
        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, max(patience, 0.001))
        threading._shutdown()
        atexit._run_exitfuncs()
    except TimeoutError as error:
        print(f"ostler: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for step in (last, sys.stdout.flush, sys.stderr.flush):
            try:
                if step is not None:
                    step()
            except BaseException:
                pass
        if group:
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(code)
