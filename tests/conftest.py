"""One thread each: the tests' tensors are tiny, and waiting for a second thread costs more than it saves."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process a test starts
