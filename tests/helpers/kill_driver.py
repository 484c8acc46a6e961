"""Train one run while killing it again and again, or from two processes at once; started by runs/test_machine.py.

Usage: python kill_driver.py KILLS SEED or python kill_driver.py pair, with FLOWOOD_OUTPUTS set. Children are
forked, so that none pays for the imports; the last one may finish.
"""

import os
import random
import signal
import sys
import time

import torch

from flowood_core import runs, train
from flowood_core.runs import machine

FIELDS = {
    "id": "photo", "ood": ["digits"], "n_train": 64, "n_test": 40, "squeeze": 1, "blocks": 2, "hidden": 8,
    "batch_size": 16, "epochs": 12, "data_init": True, "method": "ccm_gaussian",
}  # fmt: skip


def spec(**fields) -> runs.Pixels:
    return runs.Pixels(**(FIELDS | fields))


def child() -> None:
    torch.set_num_threads(1)
    machine.CHECKPOINT_EVERY_S = 0.0  # a checkpoint after every step: the most chances to tear one
    runs.run_or_load(spec())
    os._exit(0)


def main(kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    rng = random.Random(seed)
    spec().folder.mkdir(parents=True, exist_ok=True)
    spec().data()  # embedded sets are made once, before the forks
    killed = 0
    while not (spec().folder / "metrics.json").exists():
        pid = os.fork()
        if pid == 0:
            child()
        if killed < kills:
            time.sleep(rng.uniform(0.02, 0.5))
            os.kill(pid, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        else:
            os.waitpid(pid, 0)
    print(f"killed {killed} times")


def pair() -> None:
    torch.set_num_threads(1)
    spec().data()
    fit = train.fit_together

    def counted(*args, **options):
        os.write(1, b"TRAINED\n")
        return fit(*args, **options)

    train.fit_together = counted
    pids = [os.fork() or child() for _ in range(2)]
    for pid in pids:
        os.write(1, b"exit %d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    os.environ["FLOWOOD_PROGRESS"] = "none"
    if sys.argv[1] == "pair":
        pair()
    else:
        main(int(sys.argv[1]), int(sys.argv[2]))
