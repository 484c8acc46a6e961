"""Run a command: in a copy of the warm process that FLOWOOD_WARM names (`workflow.warm`), else as it stands.

``python -IS workflow/ask.py papermill notebooks/00_start_here.ipynb out.ipynb`` needs nothing but the standard
library, so that a job of the grid starts in milliseconds. The exit code is the command's.
"""

import json
import os
import socket
import sys

KILLED = 137
TOLD = ("FLOWOOD_", "OMP_", "LOKY_")  # of the environment; the rest the warm process has


def main(command: list[str]) -> int:
    if address := os.environ.get("FLOWOOD_WARM"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as warm:
            try:
                warm.connect(address)
            except OSError:  # its head has ended; the command need not
                pass
            else:
                return _asked(warm, command)
    os.execvp(command[0], command)


def _asked(warm: socket.socket, command: list[str]) -> int:
    told = {name: value for name, value in os.environ.items() if name.startswith(TOLD)}
    request = {"command": command, "environment": told, "folder": os.getcwd()}
    socket.send_fds(warm, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
    answer = warm.recv(1)  # nothing: whoever worked on it was killed
    return answer[0] if answer else KILLED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
