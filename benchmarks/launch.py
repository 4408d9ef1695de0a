"""Run one command and tell what it used: `python -I -S launch.py COMMAND...` prints a line of JSON at its end.

A process of its own because of the peak memory: a child starts with the memory of whoever forked it, and Linux counts
that as the child's peak even after it has become another program. This one imports next to nothing, so the floor is
some 10 MiB. The command's output goes to standard error. wait4 gives the usage of the command and of what it waited
for, and of nothing else: not of nginx, nor of the command before.
"""

import json
import os
import sys
import time


def main() -> None:
    command = sys.argv[1:]
    null = os.open(os.devnull, os.O_RDONLY)
    began = time.perf_counter()
    child = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
    )
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - began
    kibibyte = 1 if sys.platform != "darwin" else 1 / 1024  # ru_maxrss is in bytes there
    print(
        json.dumps(
            {
                "exit_code": os.waitstatus_to_exitcode(status),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "wall_seconds": wall,
                "peak_mib": usage.ru_maxrss * kibibyte / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
