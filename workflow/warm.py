"""A warm process: everything is imported once, and each job of the grid gets a copy of it (fork) in milliseconds.

Starting Python with torch costs seconds of a core, and a grid of small runs has forty such starts. A copy serves one
command of `workflow.ask` and ends; killing it costs that one job, as it would in a process of its own. A notebook's
kernel is such a copy too, so papermill, its output and its errors stay what they are.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["can_fork", "preload", "serve"]

WARM = (
    "torch._dynamo",  # the optimizer asks for it, and with it for sympy
    "ipykernel.kernelapp", "nbconvert", "papermill.cli", "papermill.engines", "sklearn.metrics",
    "flowood_core.anyflow.correction", "flowood_core.anyflow.detector",
    "flowood_core.evidence.claims", "flowood_core.evidence.decisions", "flowood_core.evidence.site",
    "flowood_core.notebook.figures", "flowood_core.notebook.params", "flowood_core.notebook.widgets",
)  # fmt: skip


def can_fork() -> bool:
    """Whether copies are safe here: Linux, and no GPU, whose driver does not survive a fork."""
    if sys.platform != "linux":
        return False
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return not has_gpu or os.environ.get("CUDA_VISIBLE_DEVICES") == ""


def preload(profile: str) -> None:
    """Import what trainings, notebooks and the site need, and make the embedded images of a profile."""
    os.environ["MPLBACKEND"] = (
        "module://matplotlib_inline.backend_inline"  # what a kernel would choose, too late
    )
    for name in WARM:
        importlib.import_module(name)
    import torch

    from flowood_core import datasets
    from flowood_core.runs import grid

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    wanted = [s for s in grid.by_run_id(profile).values() if s.id in datasets.EMBEDDED]
    for name in dict.fromkeys(name for s in wanted for name in (s.id, *s.ood)):
        datasets.load(name, "test")
    for name in dict.fromkeys(name for s in wanted for name in (s.id, *getattr(s, "ro_pool", ()))):
        datasets.load(name, "train")


def serve(listener: socket.socket, lifeline: int, as_on_a_cluster: str) -> None:
    """Serve commands, each in a copy of this process, until the other end of the pipe `lifeline` is closed.

    Args:
        listener: a listening Unix socket.
        as_on_a_cluster: id of the run that is trained by its notebook, as all are on a cluster; the others
            train without a kernel, to the same bits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while lifeline not in (ready := select.select([listener, lifeline], [], [], 1.0)[0]):
        for _ in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(lifeline)
                _work(connection, as_on_a_cluster)
            connection.close()
        _bury()
    _bury()


def _bury() -> None:
    """Take leave of copies that have ended; their clients know how."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _work(connection: socket.socket, as_on_a_cluster: str) -> None:
    """One command in this copy, which ends with it, or when its client does."""
    code = 1
    _forget_pool()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        command = _received(connection)
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        code = _run(command, as_on_a_cluster)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _dismiss_pool()
        connection.send(bytes([code & 255]))
        os._exit(code & 255)


def _dismiss_pool() -> None:
    """End the processes that joblib keeps for more work: they would hold this copy's streams open for minutes."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if pool := getattr(loky, "_executor", None):
        pool.shutdown(kill_workers=True)


def _forget_pool() -> None:
    """Whoever was copied may have a pool; its threads were not copied with it, so that to use it would be to wait."""
    if loky := sys.modules.get("joblib.externals.loky.reusable_executor"):
        loky._executor = None  # type: ignore[attr-defined]


def _received(connection: socket.socket) -> list[str]:
    """Take over the client's streams, environment and folder; returns its command."""
    import torch

    text, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 20)
    request = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    return request["command"]


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)  # a client says nothing more; it comes back when the client has ended
    os._exit(1)


def _run(command: Sequence[str], as_on_a_cluster: str) -> int:
    if command[:3] == ["python", "-m", "flowood_core"]:
        from flowood_core.__main__ import main

        return main(command[3:])
    if command[0] != "papermill":
        raise ValueError(f"expected papermill or python -m flowood_core, got {' '.join(command)}")
    given = dict(_given(command))
    if (run_id := given.get("run_id")) is None or run_id == as_on_a_cluster:
        return _papermill(command)
    from flowood_core import runs
    from flowood_core.runs import grid

    runs.run_or_load(grid.by_run_id(given["profile"])[run_id])
    return 0


def _given(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at, word in enumerate(command[:-2]):
        if word in ("-p", "-r"):
            yield command[at + 1], command[at + 2]


def _papermill(command: Sequence[str]) -> int:
    """papermill with a kernel that is a copy of this process."""
    from jupyter_client.provisioning import local_provisioner
    from papermill.cli import papermill

    # where jupyter_client starts a kernel; forked now, before there is an event loop
    local_provisioner.launch_kernel = _Kernel().start
    papermill(args=list(command[1:]), prog_name="papermill", standalone_mode=False)
    return 0


class _Kernel:
    """A forked kernel, with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            _be_kernel(reader)
        os.setpgid(
            self.pid, self.pid
        )  # jupyter_client signals the kernel's group, which must not be the grid's
        os.close(reader)

    def start(self, command: Sequence[str], env: dict[str, str] | None = None, cwd: Any = None, **_: Any):
        told = dict(env or os.environ) | {"JPY_PARENT_PID": str(os.getpid())}
        order = {"command": list(command), "environment": told, "folder": str(cwd or os.getcwd())}
        with os.fdopen(self._writer, "w") as pipe:
            pipe.write(json.dumps(order))
        return self

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        return self._waited(0)

    def _waited(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be_kernel(reader: int) -> None:
    """Wait for the order, then be the kernel until the notebook has ended."""
    code = 1
    try:
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        if text:  # nothing: the notebook has ended before it began
            order = json.loads(text)
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            from ipykernel.kernelapp import IPKernelApp

            # it ends with the notebook's process; ipykernel reads the variable when imported, which was long ago
            parent = f"--IPKernelApp.parent_handle={order['environment']['JPY_PARENT_PID']}"
            sys.argv = ["ipykernel_launcher", *order["command"][3:], parent]
            IPKernelApp.launch_instance(argv=sys.argv[1:])
            code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _dismiss_pool()
        os._exit(code)
