"""Where a number comes from: commit, versions, machine and memory."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flowood_core.complexity import codec_versions
from flowood_core.engine import compiled
from flowood_core.system import paths

__all__ = ["peak_memory_mb", "provenance"]


def provenance() -> dict[str, Any]:
    """Commit, versions and machine: what a number needs to be believed."""
    packages = ["torch", "torchvision", "FrEIA", "numpy", "scipy", "pillow"]
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "codec": codec_versions(),
        "engine": compiled.status(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def peak_memory_mb() -> float:
    """MB that this process came to hold at most, on any system."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], cwd=paths.repo_root(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
