"""Training with other processes: the environment it needs, and a watch over the waits for them."""

import contextlib
import gc
import os
import re
import signal
import threading
import time
import zlib

from .errors import ScriptError, fail

# Variables that every process of a distributed training needs, and the pattern of their values.
VARIABLES = {
    "DMLC_ROLE": "scheduler|server|worker",
    "DMLC_PS_ROOT_URI": ".+",
    **dict.fromkeys(("DMLC_PS_ROOT_PORT", "DMLC_NUM_SERVER", "DMLC_NUM_WORKER"), "[1-9][0-9]*"),
}
SETTINGS_KEY = 10**6  # in the store, beyond the parameters
LIMIT_VARIABLE, DEFAULT_LIMIT = "MXBOARD_DEMO_WAIT_SECONDS", 60


def check_environment():
    """Name the variable that is missing or wrong, with which MXNet would crash or wait forever."""
    for name, pattern in VARIABLES.items():
        value = os.environ.get(name)
        if not re.fullmatch(pattern, value or ""):
            raise ScriptError(
                f"the environment variable {name} is {value or 'not set'}: "
                "docs/several-machines.md says what it must be"
            )


@contextlib.contextmanager
def server_errors():
    """Around the import of MXNet, in which its scheduler and servers stay: end in one line."""
    role = os.environ.get("DMLC_ROLE", "worker")
    if role == "worker":
        yield
        return
    try:
        check_environment()
        yield
    except ScriptError as error:
        fail(error)
    except RuntimeError as error:  # MXNetError
        reason = str(error).split(": ")[-1].strip()
        fail(
            f"MXNet's {role} cannot start ({reason}): "
            "is DMLC_PS_ROOT_URI this machine's, and DMLC_PS_ROOT_PORT free?"
        )


def compare_workers(kv, settings):
    """Make sure that what must be the same in all workers is, by a sum over their digests."""
    from mxnet import nd  # Importing this module must not import MXNet.

    digests = nd.array([zlib.crc32(repr(value).encode()) % 2**16 for value in settings.values()])
    total = nd.zeros_like(digests)
    kv.init(SETTINGS_KEY, total)
    kv.push(SETTINGS_KEY, digests.copy())  # The store sums in place.
    kv.pull(SETTINGS_KEY, total)
    same = (total == kv.num_workers * digests).asnumpy()
    if different := [name for name, is_same in zip(settings, same) if not is_same]:
        raise ScriptError(f"the workers differ in {', '.join(different)}: start all with the same")


def share_weights(trainer):
    """Start all workers from worker 0's weights.

    The Trainer would do so in its first step, but there a worker sometimes receives gradients in
    place of weights. Any call that needs the store makes it do so now; save_states is one, and has
    nothing to save yet.
    """
    from mxnet import nd

    trainer.save_states(os.devnull)
    nd.waitall()  # The weights are here before the first gradient leaves.


class PeerWatch:
    """Ends the process if its main thread waits too long for the others of a training.

    MXNet waits forever, in C. So a thread keeps sending a signal to the main thread, whose handler
    Python only runs once MXNet returns: no reply for too long means that the others are gone.
    """

    def __init__(self):
        from mxnet import runtime  # Importing this module must not import MXNet.

        if not runtime.Features().is_enabled("DIST_KVSTORE"):
            raise ScriptError(
                "argument --kv-store: MXNet's wheel for this processor has no parameter server",
                status=2,
            )
        check_environment()
        text = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT))
        if not re.fullmatch(r"[1-9]\d{0,8}", text):
            raise ScriptError(f"{LIMIT_VARIABLE}: {text} is not a number of seconds, as in 60")
        self._limit = int(text)
        self._silent = 0  # seconds; a clock would run on while Ctrl-Z holds the process

    def __enter__(self):
        signal.signal(signal.SIGURG, self._reply)
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *error):
        gc.collect()  # frees MXNet's store, which then waits for the others

    def _reply(self, number, frame):
        self._silent = 0

    def _watch(self):
        while self._silent < self._limit:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)
            time.sleep(0.5)
            self._silent += 0.5
        fail(
            f"no answer for {self._limit} seconds ({LIMIT_VARIABLE}): another process has probably "
            "gone, or was never started; end the scheduler and the servers with Ctrl-C or kill"
        )
