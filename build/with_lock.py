"""Run a command while holding a lock file: `python with_lock.py FILE COMMAND...`; waits while it is held.

The lock belongs to the open file, which the command inherits: it ends with the last process that has the
file open, however that process ends.
"""

import fcntl
import os
import sys
from pathlib import Path


def main(path: str, *command: str) -> None:
    """Take the lock, then become the command."""
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
