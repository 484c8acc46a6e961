"""One thread each: the tests' tensors are tiny, and waiting for a second thread costs more than it saves."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process a test starts
os.environ.setdefault(
    "FLOWOOD_OFFLINE", "1"
)  # no test asks the internet; those of the download serve themselves
