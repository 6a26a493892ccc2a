"""Run a command while holding a lock file: `python with_lock.py FILE COMMAND...`; waits for the lock.

The lock belongs to the open file, which the command inherits: it is released when the last process that has
the file open ends, however it ends.
"""

import fcntl
import os
import sys
from pathlib import Path


def main(path: str, *command: str) -> None:
    """Take the lock, then replace this process by the command."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("environment: another process is making it; waiting", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
