"""The normalizing flow f: x -> (z, log|det dz/dx|) of section 3.1, built from FrEIA's AllInOneBlock.

The flow is a density on x: `log_prob` keeps the constant of the normal and the full determinant, because
eq. (3) compares log p_X with a fixed threshold and any dropped constant would move it.
"""

import contextlib
import copyreg
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import AllInOneBlock
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flowood_core import subnets
from flowood_core.engine import compiled

__all__ = ["Block", "Flow", "densities", "dequantise", "draw_permutations", "image_flow", "vector_flow"]


class Block(AllInOneBlock):
    """FrEIA 0.2's AllInOneBlock: same parameters, same numbers, safe under autocast and autograd.

    Inside `engine.fused()` the direction x -> z of an image block is one compiled call, and so is its gradient.

    Three differences, none of which changes a float32 result: the subnet's output is not scaled in place
    (in FrEIA 0.2 a subnet that ends in ReLU fails in backward), log-scale and shift are brought to the
    precision of x, and the permutation is never rounded, so that under bfloat16 autocast only the subnet
    computes in bfloat16 while z and the determinant stay in float32. A fourth: it holds no lambda, so that it can
    be pickled and sent to another process.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        del self.global_scale_activation  # FrEIA's lambda; the method below takes its place

    def global_scale_activation(self, a: Tensor) -> Tensor:
        """The global affine's scale, FrEIA's SOFTPLUS: 0.1 softplus_{beta=1/2}(a)."""
        return 0.1 * self.softplus(a)

    def forward(
        self, x: tuple[Tensor, ...], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        done = None if rev or c else compiled.block(self, x[0])
        if done is None:
            return super().forward(x, c, rev, jac)
        y, ladj = done
        return (y,), ladj

    def log_scales(self, x: Tensor) -> Float[Tensor, "b ..."]:
        """Log of what the block multiplies at each place, nats: shaped as x without channels, adds up to ladj."""
        passive, _ = x.split(self.splits, 1)
        log_scale = self._log_scale(0.1 * self.subnet(passive).to(x.dtype))
        return log_scale.sum(1) + self.global_scale_activation(self.global_scale).log().sum()

    def _log_scale(self, a: Tensor) -> Tensor:
        return self.clamp * torch.tanh(a[:, : self.splits[1]])

    def _affine(self, x: Tensor, a: Tensor, rev: bool = False) -> tuple[Tensor, Tensor]:
        a = 0.1 * a.to(x.dtype)
        log_scale, shift = self._log_scale(a), a[:, self.splits[1] :]
        ladj = log_scale.sum(self.sum_dims)
        if rev:
            return (x - shift) * torch.exp(-log_scale), -ladj
        return x * torch.exp(log_scale) + shift, ladj

    def _permute(self, x: Tensor, rev: bool = False) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return super()._permute(x, rev)


def _scales_of(block: AllInOneBlock) -> str:
    if hasattr(block, "softplus"):
        return "SOFTPLUS"
    return "EXP" if float(block.global_scale_activation(torch.zeros(()))) == 1 else "SIGMOID"


def _restored(kind: type, scales: str, state: dict[str, Any]) -> AllInOneBlock:
    block = kind.__new__(kind)
    block.__dict__.update(state)
    block.global_scale_activation = {
        "SOFTPLUS": lambda a: 0.1 * block.softplus(a),
        "SIGMOID": lambda a: 10 * torch.sigmoid(a - 2.0),
        "EXP": torch.exp,
    }[scales]
    return block


def _reduced(block: AllInOneBlock) -> tuple[Any, ...]:
    state = {name: value for name, value in block.__dict__.items() if name != "global_scale_activation"}
    return _restored, (type(block), _scales_of(block), state)


# FrEIA's own block, in anybody's flow, travels too: its lambda is left behind and made anew. A copy of one no longer
# computes with the original's softplus.
copyreg.pickle(AllInOneBlock, _reduced)


class Flow(nn.Module):
    """An invertible map f with standard normal latent: x -> (z, ladj), x of a fixed shape.

    Args:
        inn: FrEIA network on the (possibly squeezed) shape.
        shape: shape of one sample x, (c, h, w) or (d,).
        squeeze: how often 2x2 pixels move into channels before the first block; exact, volume preserving.
    """

    def __init__(self, inn: SequenceINN, shape: tuple[int, ...], squeeze: int = 0):
        super().__init__()
        self.inn, self.shape, self.squeeze = inn, tuple(shape), squeeze

    @property
    def d(self) -> int:
        """Number of dimensions of x (and of z)."""
        return math.prod(self.shape)

    @property
    def blocks(self) -> list[nn.Module]:
        """The coupling blocks in the order x passes them."""
        return list(self.inn.module_list)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters; FrEIA's permutation matrices are parameters but not trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(self, x: Float[Tensor, "b ..."]) -> tuple[Tensor, Float[Tensor, " b"]]:
        """z = f(x) and ladj = log|det dz/dx| in nats. z has the (squeezed) shape of the latent.

        A flow in double takes float32 too, which it widens; a float32 flow does not narrow float64.
        """
        self._check(x)
        dtype = next(self.parameters()).dtype
        x = x.to(dtype) if dtype == torch.float64 else x
        z, ladj = self.inn(self._squeezed(x))
        return z, ladj

    def inverse(self, z: Tensor) -> Float[Tensor, "b ..."]:
        """x = f^-1(z)."""
        x, _ = self.inn(z, rev=True)
        for _ in range(self.squeeze):
            x = F.pixel_shuffle(x, 2)
        return x

    def log_densities(self, x: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(log p_Z(f(x)), log p_X(x)) in nats: eq. (4) needs the first, eq. (2) the second."""
        z, ladj = self(x)
        log_pz = -0.5 * (z.flatten(1).square().sum(1) + self.d * math.log(2 * math.pi))  # N(0, I)
        return log_pz, log_pz + ladj  # change of variables, eq. (2)

    def log_densities_by_place(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b k l"], Float[Tensor, "b k l"]]:
        """`log_densities` taken apart by place of the latent, in nats; over the places they add up to those of x.

        Exact: a coupling scales each value where it lies, and a permutation mixes the channels of one place only.

        Raises:
            ValueError: a flow on vectors, which has no places.
        """
        self._check(x)
        if x.ndim != 4:
            raise ValueError(f"expected images, got samples shaped {self.shape}, which have no places")
        z, ladj = self._squeezed(x), torch.zeros(())
        for block in self.blocks:
            ladj = ladj + block.log_scales(z)
            z = block((z,))[0][0]
        log_pz = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        return log_pz, log_pz + ladj

    def log_prob(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """log p_X(x) = log p_Z(z) + log|det dz/dx|, eq. (2), in nats, constant included."""
        return self.log_densities(x)[1]

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> Float[Tensor, "n ..."]:
        """n samples x = f^-1(z), z ~ N(0, I); `rng` lives on the device of the flow (seed 0 when omitted)."""
        if n < 1:
            raise ValueError(f"expected n >= 1 samples, got {n}")
        p = next(self.parameters())
        rng = rng if rng is not None else torch.Generator(p.device).manual_seed(0)
        z = torch.randn((n, *self.latent_shape), generator=rng, device=p.device, dtype=p.dtype)
        return self.inverse(z)

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "b ..."]) -> "Flow":
        """Set each block's global affine so that its outputs on x have mean 0 and variance 1 per channel.

        Not in the paper: the data-dependent start of Kingma & Dhariwal (2018). FrEIA's scale is 0.1 softplus
        of a parameter near 10, which Adam at 1e-3 moves by 1e-4 a step; short trainings never get there.

        Args:
            x: a few hundred ID samples, as floats.
        Raises:
            ValueError: a channel of x is constant.
        """
        self._check(x)
        h = self._squeezed(x.to(next(self.parameters()).dtype))
        for block in self.blocks:
            block.global_scale.fill_(_inverse_scale(torch.ones(())).item())
            block.global_offset.zero_()
            # the outputs before the permutation: run the block, undo the permutation
            y = block._permute(block((h,))[0][0], rev=True)[0]
            dims = (0, *range(2, y.ndim))
            mean, std = y.mean(dims, keepdim=True), y.std(dims, keepdim=True)
            if not (std > 1e-6).all():
                raise ValueError(
                    "expected every channel of x to vary, got a constant one; give more varied samples"
                )
            block.global_scale.copy_(_inverse_scale(1 / std))
            block.global_offset.copy_(-mean / std)
            h = block((h,))[0][0]
        return self

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one z."""
        if not self.squeeze:
            return self.shape
        c, h, w = self.shape
        s = 2**self.squeeze
        return (c * s * s, h // s, w // s)

    def _squeezed(self, x: Tensor) -> Tensor:
        for _ in range(self.squeeze):
            x = F.pixel_unshuffle(x, 2)
        # convolutions over few channels run about twice as fast on a CPU in this layout; values are the same
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _check(self, x: Tensor) -> None:
        if not torch.is_floating_point(x):
            raise TypeError(
                f"expected a float tensor, got {x.dtype}; bytes go through flow.dequantise(x) first, "
                "which scales them to [0, 1]"
            )
        if len(x) == 0:
            raise ValueError("expected at least one sample, got an empty batch")
        if tuple(x.shape[1:]) != self.shape or x.ndim != len(self.shape) + 1:
            raise ValueError(
                f"expected x shaped (b, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}"
            )

    def extra_repr(self) -> str:
        return f"shape={self.shape}, squeeze={self.squeeze}, trainable={self.n_parameters:,}"


def image_flow(
    shape: tuple[int, int, int] = (3, 32, 32),
    *,
    squeeze: int = 0,
    blocks: int = 8,
    hidden: int = 64,
    permute_soft: bool = False,
    seed: int = 0,
) -> Flow:
    """The paper's flow on pixels: `blocks` AllInOneBlocks with two 3x3 convolutions each (section 3.1).

    Args:
        shape: (c, h, w) of an image.
        squeeze: 0 is the paper; 1 turns 3x32x32 into 12x16x16 first, which trains faster and fits better (A7).
        blocks: 8 in the paper.
        hidden: width of the subnets (A10).
        permute_soft: random rotations instead of permutations between blocks (A8).
        seed: of weights and permutations; nobody's global random state is touched.
    Raises:
        ValueError: height or width not divisible by 2**squeeze, or fewer than two channels to couple.
    """
    c, h, w = shape
    s = 2**squeeze
    if squeeze < 0 or h % s or w % s:
        raise ValueError(f"expected sides divisible by {s} for squeeze={squeeze}, got {h}x{w}")
    inner = (c * s * s, h // s, w // s)
    inn = _coupling_flow(inner, subnets.conv3x3(hidden), blocks, permute_soft, seed)
    return Flow(inn, tuple(shape), squeeze)


def vector_flow(
    d: int, *, blocks: int = 8, hidden: int = 256, layers: int = 3, permute_soft: bool = False, seed: int = 0
) -> Flow:
    """The flow on vectors: 2-D toys with 256 (Appendix A), text features with 768 (section 3.3).

    Raises:
        ValueError: d < 2, a coupling needs two parts.
    """
    inn = _coupling_flow((d,), subnets.linear(hidden, layers), blocks, permute_soft, seed)
    return Flow(inn, (d,))


def dequantise(
    x: UInt8[Tensor, "b ..."], rng: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b ..."]:
    """Bytes to [0, 1]: (x + u) / 256 with u uniform in [0, 1) when `rng` is given, else the bin's centre u = 1/2.

    Training needs the noise: on bare integers a density can grow without bound. Scoring uses the centre,
    so that a score is a function of the image alone (DECISIONS.md A11).
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"expected uint8 values 0..255, got {x.dtype}")
    if rng is None:
        return (x.to(dtype) + 0.5) / 256
    if dtype != torch.float32:
        u = torch.rand(x.shape, generator=rng, device=x.device, dtype=dtype)
        # a u nearer to 1 would be rounded up, out of the bin of 255
        return u.clamp_max_(1 - 128 * torch.finfo(dtype).eps).add_(x).div_(256)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    four_each = bits.random_(-(2**63), None, generator=rng).view(torch.int16)
    return _within_bins(x, four_each[: x.numel()].view(x.shape))


def _within_bins(x: Tensor, noise: Tensor) -> Tensor:
    # 16 bits of noise and the 8 of x are all that a float32 below 1 holds: nothing is rounded, least of all out of
    # its bin, and one 64-bit draw serves four values
    return noise.to(torch.float32).mul_(2.0**-16).add_(0.5).add_(x).div_(256)


@torch.inference_mode()
def densities(flow: Flow, x: Tensor, *, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(log p_Z, log p_X) of many samples, in nats, as float64 arrays: bytes at their bin's centre, floats as they are.

    `batch_size` is 64 on a processor, whose cache it fits, and 1,024 on a GPU, unless given.

    Raises:
        ValueError: the flow returns nan or infinity for a sample; says for how many and which comes first.
    """
    device = next(flow.parameters()).device
    parts = []
    with compiled.fused():
        for part in x.split(batch_size or (64 if device.type == "cpu" else 1024)):
            part = part.to(device)
            part = dequantise(part) if part.dtype == torch.uint8 else part
            parts.append(torch.stack(flow.log_densities(part)))
    both = torch.cat(parts, 1).double().cpu().numpy()
    bad = ~np.isfinite(both).all(0)
    if bad.any():
        raise ValueError(
            f"expected finite log-densities, got nan or inf for {bad.sum()} of {len(x)} samples (first: number "
            f"{bad.argmax()}); check the inputs, or train with a lower lr"
        )
    return both[0], both[1]


def draw_permutations(channels: int, blocks: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Permutations for `blocks` coupling blocks that let every channel be transformed and be passive.

    A block transforms the last channels//2 of its inputs. With three channels and free random
    permutations about one flow in nine never transforms some colour at all (DECISIONS.md A8); here the whole
    set is drawn again until each channel has been transformed at least twice (once, where fewer blocks
    than that exist), and conditions a block at least once.
    """
    n_transformed = channels // 2
    wanted = min(2, blocks * n_transformed // channels)
    for attempt in itertools.count():
        # free draws succeed within a few attempts for images; with hundreds of channels they never do
        draw = _free_permutations if attempt < 200 else _complementary_permutations
        permutations = draw(channels, blocks, rng)
        transformed = _times_transformed(permutations)
        if transformed.min() >= wanted and transformed.max() < blocks:
            return permutations
    raise AssertionError("unreachable")


def _free_permutations(channels: int, blocks: int, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.permutation(channels) for _ in range(blocks)]


def _complementary_permutations(channels: int, blocks: int, rng: np.random.Generator) -> list[np.ndarray]:
    # after every second block what was just transformed turns passive and the other way round
    n_passive = channels - channels // 2
    permutations = []
    for k in range(blocks):
        if k % 2:
            permutations.append(rng.permutation(channels))
            continue
        passive, transformed = rng.permutation(n_passive), n_passive + rng.permutation(channels - n_passive)
        keep = n_passive - len(transformed)  # 1 for an odd number of channels: it stays passive
        permutations.append(
            np.concatenate([rng.permutation([*transformed, *passive[:keep]]), passive[keep:]])
        )
    return permutations


def _times_transformed(permutations: list[np.ndarray]) -> np.ndarray:
    channels = len(permutations[0])
    position = np.arange(channels)  # which original channel sits at each position
    times = np.zeros(channels, int)
    for p in permutations:
        times[position[channels - channels // 2 :]] += 1
        position = position[p]
    return times


def _coupling_flow(
    shape: tuple[int, ...], constructor: subnets.SubnetConstructor, blocks: int, permute_soft: bool, seed: int
) -> SequenceINN:
    if shape[0] < 2:
        raise ValueError(
            f"expected at least 2 channels to couple, got {shape[0]}; for grey images use squeeze=1"
        )
    if blocks < 2:
        raise ValueError(
            f"expected at least 2 blocks, got {blocks}: a block leaves half of its input unchanged"
        )
    with _private_rng(seed):
        inn = SequenceINN(*shape)
        for _ in range(blocks):
            inn.append(Block, subnet_constructor=constructor, permute_soft=permute_soft)
    if not permute_soft:
        for block, p in zip(
            inn, draw_permutations(shape[0], blocks, np.random.default_rng(seed)), strict=True
        ):
            w = torch.zeros(shape[0], shape[0])
            w[torch.arange(shape[0]), torch.from_numpy(p)] = 1.0
            block.w_perm.data.copy_(w.view_as(block.w_perm))
            block.w_perm_inv.data.copy_(w.T.reshape(block.w_perm_inv.shape))
    inn.to(torch.get_default_dtype())  # FrEIA makes its permutations float32, whatever the rest is
    for block in inn:  # a transposed view in FrEIA, which safetensors refuses to save
        block.w_perm_inv.data = block.w_perm_inv.data.contiguous()
    return inn


def _inverse_scale(scale: Tensor) -> Tensor:
    # FrEIA's SOFTPLUS affine: scale = 0.1 softplus_{beta=1/2}(g) = 0.2 log(1 + exp(g / 2))
    t = 5 * scale.double()
    return (2 * (t + torch.log(-torch.expm1(-t)))).to(scale.dtype)  # log(exp(t) - 1) without overflow


@contextlib.contextmanager
def _private_rng(seed: int) -> Iterator[None]:
    # FrEIA draws permutations and rotations from numpy's global state, torch its weights from torch's
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
            np.random.seed(seed % 2**32)
            yield
    finally:
        np.random.set_state(state)
