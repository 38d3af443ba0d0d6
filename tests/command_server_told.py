"""A command that tells what it was given."""

import os
import pathlib
import signal
import sys
import threading
import time

if __name__ == "__main__":
    act = os.environ.get("BT_ACT")
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "hang":
        time.sleep(600)
    print(sys.argv[1:], os.environ["BT_CACHE"], os.environ["BT_MORE"], pathlib.Path.cwd(), sep="\n")
    print(threading.active_count() == 1 and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    print("to stderr", end="", file=sys.stderr)
    sys.exit(3)
