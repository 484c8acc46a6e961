"""The image flow's coupling block as one compiled call on a processor: same numbers, several times faster.

`blocks.cpp` is compiled at first use with the system's C++ compiler and kept in the user's cache. Where that
is not possible, and outside `with fused():`, everything stays plain torch; `status()` says which and why.
Only first derivatives exist, hence the context: Lipschitz constants differentiate twice and stay outside.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowood_core.system.files import write_atomically

__all__ = ["block", "blur", "fused", "status", "takes"]

SOURCE = Path(__file__).with_name("blocks.cpp")
FLAGS = ["-std=c++17", "-O3", "-shared", "-fPIC", "-pthread"]
NATIVE = ["-march=native", "-mtune=generic"]  # GCC 12 cuts unaligned loads in two for some processors

_on: contextvars.ContextVar[bool] = contextvars.ContextVar("flowood_engine", default=False)


@contextlib.contextmanager
def fused() -> Iterator[None]:
    """Blocks run in the engine in here, where they can. First derivatives only, by parameters and by x.

    A block is one call: hooks on its subnet do not fire. The flag belongs to the thread that sets it.
    """
    token = _on.set(True)
    try:
        yield
    finally:
        _on.reset(token)


def status() -> str:
    """One line: what computes the blocks inside `fused()`, and why."""
    if os.environ.get("FLOWOOD_ENGINE") == "torch":
        return "torch: FLOWOOD_ENGINE=torch"
    library, why = _load()
    return f"engine: {why}" if library else f"torch: {why}"


def block(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """(y, log-determinant) of an AllInOneBlock with a conv-ReLU-conv subnet, or None where torch has to do it.

    With v = (x1, x2 exp(l) + t), l = clamp tanh(0.1 a), (a, 10 t) = subnet(x1): y = W_perm (scale v + offset).
    Under autocast to bfloat16 the subnet's products are in bfloat16, if the processor has them; sums and all
    else stay float32.
    """
    if torch.compiler.is_compiling() or not (_on.get() and _fits(module, x)):
        return None
    library = None if os.environ.get("FLOWOOD_ENGINE") == "torch" else _load()[0]
    if library is None:
        return None
    first, _, second = module.subnet
    scale = module.global_scale_activation(module.global_scale)
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    tensors = [
        x,
        first.weight,
        first.bias,
        second.weight,
        second.bias,
        scale,
        module.global_offset,
        module.w_perm,
    ]
    if (
        half and library.flowood_kinds() == 1
    ):  # no such instruction: weights of that precision, exact products
        tensors[1], tensors[3], half = tensors[1].bfloat16().float(), tensors[3].bfloat16().float(), False
    y, ladj = _Block.apply(library, float(module.clamp), half, torch.is_grad_enabled(), *tensors)
    return y, ladj + x[0, 0].numel() * scale.log().sum()


def takes(blocks: Iterable[nn.Module], x: Tensor) -> bool:
    """Whether all the blocks would run in the engine on images like x, (b, c, h, w), inside `fused()`.

    It takes one image at a time, so that its memory and speed do not hang on the size of a batch.
    """
    if os.environ.get("FLOWOOD_ENGINE") == "torch":
        return False
    blocks = list(blocks)
    return bool(blocks) and all(_fits(block, x) for block in blocks) and _load()[0] is not None


def blur(x: Tensor, reach: int, inner: int, outer: int) -> Tensor | None:
    """Pillow's blur of 8-bit planes (..., h, w) bit for bit, or None where others have to do it.

    Three passes of a box along each axis, weights in units of 2^-24: `inner` for the 2 reach + 1 pixels around the
    centre, `outer` for the two at its ends. See `outliers.image.gaussian_blur`.
    """
    if x.device.type != "cpu" or os.environ.get("FLOWOOD_ENGINE") == "torch" or _load()[0] is None:
        return None
    x = x.contiguous()
    out = torch.empty_like(x)
    dims = (ctypes.c_int64 * 6)(x.shape[:-2].numel(), *x.shape[-2:], reach, inner, outer)
    if _load()[0].flowood_blur(dims, ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr())):
        raise MemoryError("expected room for one plane of the image")
    return out


def _fits(module: nn.Module, x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4 or not x.numel():
        return False
    if not hasattr(module, "w_perm"):  # no AllInOneBlock
        return False
    if module.GIN or module.householder or module.reverse_pre_permute or module.conditional:
        return False
    subnet = module.subnet
    if not (type(subnet) is nn.Sequential and len(subnet) == 3 and type(subnet[1]) is nn.ReLU):
        return False
    first, _, second = subnet
    if not (_is_conv3x3(first) and _is_conv3x3(second)) or module.w_perm.requires_grad:
        return False
    tensors = (first.weight, first.bias, second.weight, second.bias, module.global_scale, module.w_perm)
    return all(p.device.type == "cpu" and p.dtype == torch.float32 for p in tensors)


def _is_conv3x3(m: nn.Module) -> bool:
    return (
        type(m) is nn.Conv2d
        and (m.kernel_size, m.stride, m.padding, m.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (m.groups, m.padding_mode, m.bias is not None) == (1, "zeros", True)
    )


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, clamp: float, half: bool, keep: bool, *tensors: Tensor
    ) -> Any:
        inputs = [t.detach().contiguous() for t in tensors]  # any layout comes in, the plain one is kept
        x, w1, _, w2, *_ = inputs
        y, ladj = torch.empty_like(x), x.new_empty(len(x))
        a = x.new_empty(len(x), len(w2), *x.shape[2:]) if keep else None
        dims = (ctypes.c_int64 * 7)(*x.shape, len(w1), half, torch.get_num_threads())
        ctx.call = library, dims, ctypes.c_float(clamp)
        _call(library.flowood_forward, *ctx.call[1:], [*inputs, y, ladj, a])
        if keep:
            ctx.save_for_backward(a, *inputs)
        return y, ladj

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dladj: Tensor) -> tuple[Tensor | None, ...]:
        a, x, *parameters = ctx.saved_tensors
        library, dims, clamp = ctx.call
        dx = torch.empty_like(x) if ctx.needs_input_grad[4] else None
        grads = [torch.empty_like(p) for p in parameters[:-1]]  # all but the permutation
        dy, dladj = dy.contiguous(), dladj.contiguous()
        _call(library.flowood_backward, dims, clamp, [x, a, *parameters, dy, dladj, dx, *grads])
        return None, None, None, None, dx, *grads, None


def _call(function: Any, dims: Any, clamp: ctypes.c_float, arrays: list[Tensor | None]) -> None:
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in arrays]
    if function(dims, clamp, *pointers):
        raise MemoryError("expected room for the hidden planes of one sample a thread; use fewer threads")


# ---- building


_building = threading.Lock()


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None, and the reason; tried once a process."""
    compiler = next(filter(None, map(shutil.which, ["c++", "g++", "clang++"])), None)
    if compiler is None:
        return None, "no C++ compiler (c++, g++ or clang++) on PATH"
    why = ""
    with _building:  # a second thread then finds what the first one built
        for flags, how in [(FLAGS + NATIVE, "for this processor"), (FLAGS, "for any processor, slow")]:
            try:
                library = _built(compiler, flags)
                kinds = ["float32", "bfloat16"][: library.flowood_kinds()]
                errors = {kind: _self_check(library, kind == "bfloat16") for kind in kinds}
            except (OSError, subprocess.SubprocessError, AttributeError, MemoryError, RuntimeError) as e:
                why = f"{compiler} failed: {(getattr(e, 'stderr', None) or str(e)).strip()[:200]}"
                continue
            if all(errors[kind] < {"float32": 1e-4, "bfloat16": 0.05}[kind] for kind in kinds):
                return library, f"{' and '.join(kinds)}, compiled {how} by {compiler}"
            why = f"self-check failed, relative errors {errors}"
    return None, " ".join(why.split())


def _built(compiler: str, flags: list[str]) -> ctypes.CDLL:
    """Compile, unless the cache holds what this source, compiler and processor would give."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    key = "\0".join([compiler, version, shlex.join(flags), platform.machine(), _processor()])
    name = "engine-" + _digest(SOURCE.read_bytes() + key.encode())
    for file in _cache().glob(f"{name}-*.so"):
        # the name holds a digest of the content: loading a damaged library could end the process
        if file.stem == f"{name}-{_digest(file.read_bytes())}":
            return _open(file)
    with tempfile.TemporaryDirectory() as folder:  # several processes may build at once, each its own
        out = Path(folder) / "engine.so"
        command = [compiler, *flags, str(SOURCE), "-o", str(out)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        file = _cache() / f"{name}-{_digest(out.read_bytes())}.so"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, out.read_bytes())
        except OSError:  # no writable cache: this process compiled for itself
            return _open(out)
    return _open(file)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _open(file: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(file))
    for name in ("kinds", "forward", "backward", "blur"):
        function = getattr(library, f"flowood_{name}")
        function.restype = ctypes.c_int
    return library


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowood"


def _processor() -> str:
    """What -march=native sees, so that a cache shared by two machines holds two libraries."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


@torch.inference_mode(False)
@torch.enable_grad()
def _self_check(library: ctypes.CDLL, half: bool) -> float:
    """Largest relative difference to plain torch, of a small block's results and gradients."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 6), (7, 2, 3, 3), (7,), (2, 7, 3, 3), (2,), (1, 3, 1, 1), (1, 3, 1, 1), (3, 3, 1, 1)]
    tensors = [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]
    weights = [torch.randn(shape, generator=rng) for shape in [(2, 3, 5, 6), (2,)]]

    def gradients(y: Tensor, ladj: Tensor) -> list[Tensor]:
        loss = (y * weights[0]).sum() + (ladj * weights[1]).sum()
        return [y.detach(), ladj.detach(), *torch.autograd.grad(loss, tensors[:-1])]

    with torch.autocast("cpu", enabled=False):
        mine = gradients(*_Block.apply(library, 2.0, half, True, *tensors))
        plain = gradients(*_plain(2.0, *tensors))
    errors = [(a - b).norm() / b.norm() for a, b in zip(mine, plain, strict=True)]
    return torch.stack(errors).max().item()  # nan where one of them is


def _plain(
    clamp: float,
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: Tensor,
    offset: Tensor,
    perm: Tensor,
) -> tuple[Tensor, Tensor]:
    x1, x2 = x.tensor_split([x.shape[1] - x.shape[1] // 2], 1)
    a, shift = (0.1 * F.conv2d(F.conv2d(x1, w1, b1, padding=1).relu(), w2, b2, padding=1)).chunk(2, 1)
    l = clamp * torch.tanh(a)
    return F.conv2d(torch.cat([x1, x2 * l.exp() + shift], 1) * scale + offset, perm), l.sum((1, 2, 3))
