"""Laws of the engine: the numbers of plain torch, the same bits every time, and torch where it cannot be built."""

import contextlib
import copy
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowood_core import flow, runs, subnets, train
from flowood_core.engine import compiled

COMPILER = next(filter(None, map(shutil.which, ["c++", "g++", "clang++"])), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: nothing can be built here")
few = settings(max_examples=25, deadline=None)

SIZES = [(8, 8), (16, 16), (32, 32), (28, 28), (20, 12), (5, 1), (1, 1)]
FLOAT32 = 1e-5  # seen is 1e-6
STUB = """
extern "C" int flowood_kinds() { return 1; }
extern "C" int flowood_forward(void*, float, void*, void*, void*, void*, void*, void*, void*, void*, float* y) {
    y[0] = 1e9f;
    return 0;
}
extern "C" int flowood_backward() { return 0; }
extern "C" int flowood_blur() { return 0; }
"""


def coarse(x: torch.Tensor) -> torch.Tensor:
    """Few bits: what goes into a ReLU is then exact in every precision, and no ReLU falls to the other side."""
    return (16 * x).round().clamp(-127, 127) / 16


def block(c: int, h: int, w: int, hidden: int, seed: int = 0, soft: bool = True) -> flow.Block:
    """A block whose every parameter matters."""
    rng = torch.Generator().manual_seed(seed)
    inn = flow.image_flow((c, h, w), blocks=2, hidden=hidden, permute_soft=soft, seed=seed)
    module = inn.blocks[0]
    with torch.no_grad():
        for p in (*module.subnet.parameters(), module.global_offset):
            p.copy_(torch.randn(p.shape, generator=rng) / math.sqrt(max(p[0].numel() / 9, 1)))
        for p in module.subnet[0].parameters():
            p.copy_(coarse(p))
        module.global_scale.add_(torch.randn(module.global_scale.shape, generator=rng))
    return module


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(module: nn.Module, x: torch.Tensor, fused: bool, bf16: bool = False) -> dict[str, torch.Tensor]:
    """y, ladj, and the gradients of a sum that weighs each of their entries, by x and by every parameter."""
    x = x.detach().requires_grad_()
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if fused:
            with compiled.fused():
                (y,), ladj = module((x,))
        else:
            (y,), ladj = module((x,))
    loss = (y * normal(*y.shape, seed=2).to(y)).sum() + (ladj * normal(len(ladj), seed=3).to(y)).sum()
    grads = torch.autograd.grad(loss, [x, *trained.values()])
    return {"y": y.detach(), "ladj": ladj.detach() / y[0].numel()} | dict(
        zip(["x", *trained], grads, strict=True)
    )


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest norm of an error by the norm of its value; a value far below its terms, by 0.1 an entry."""
    floor = {k: 0.1 * math.sqrt(v.numel()) for k, v in expected.items()}
    errors = {
        k: ((found[k].double() - v).norm() / v.norm().clamp_min(floor[k])).item() for k, v in expected.items()
    }
    assert all(map(math.isfinite, errors.values())), errors
    return max(errors.values())


def errors(c: int, h: int, w: int, hidden: int, b: int, seed: int = 0, soft: bool = True, bf16: bool = False):
    """Of the engine and of plain torch, both against torch in double."""
    module, x = block(c, h, w, hidden, seed, soft), coarse(normal(b, c, h, w, seed=seed + 4))
    expected = results(copy.deepcopy(module).double(), x.double(), fused=False)
    return tuple(worst(results(module, x, fused=fused, bf16=bf16), expected) for fused in (True, False))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and nothing loaded, before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FLOWOOD_ENGINE", raising=False)
    compiled._load.cache_clear()
    yield tmp_path
    compiled._load.cache_clear()


# ---- the numbers of torch


@given(
    c=st.integers(2, 7),
    h=st.integers(1, 20),
    w=st.integers(1, 20),
    hidden=st.integers(1, 40),
    b=st.integers(1, 3),
    seed=st.integers(0, 99),
    soft=st.booleans(),
)
@few
def test_a_block_and_its_gradients_are_those_of_torch_in_double(c, h, w, hidden, b, seed, soft):
    assert errors(c, h, w, hidden, b, seed, soft)[0] < FLOAT32


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_of_images(size):
    assert errors(3, *size, hidden=64, b=2)[0] < FLOAT32


@pytest.mark.parametrize(
    "c, size, hidden",
    [
        *((3, size, 64) for size in SIZES),
        *((c, (16, 17), n) for c, n in [(2, 1), (3, 13), (12, 48), (5, 31), (6, 129)]),
    ],
    ids=str,
)
def test_bfloat16_errs_no_more_than_that_of_torch(c, size, hidden):
    mine, torchs = errors(c, *size, hidden, b=4, bf16=True)
    assert FLOAT32 < mine < 1.2 * torchs + 1e-3


@pytest.mark.parametrize("squeeze", [0, 1])
def test_a_whole_flow_has_the_density_and_the_gradients_of_torch(squeeze):
    model = flow.image_flow((3, 16, 16), squeeze=squeeze, hidden=16)
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def gradients(model, x):
        log_px = model.log_prob(x)
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(log_px.mean(), trained.values())
        return {"log_px": log_px.detach()} | dict(zip(trained, grads, strict=True))

    expected = gradients(copy.deepcopy(model).double(), x.double())
    with compiled.fused():
        assert worst(gradients(model, x), expected) < FLOAT32


def test_exp_and_tanh_over_all_log_scales():
    a = torch.linspace(-300, 300, 200)
    module = block(400, 1, 1, hidden=1, soft=False)
    with torch.no_grad():
        module.subnet[2].weight.zero_()
        module.subnet[2].bias.copy_(torch.cat([a, torch.zeros(200)]))
        module.global_offset.zero_()
        module.w_perm.copy_(torch.eye(400).view_as(module.w_perm))
    with compiled.fused():
        (y,), ladj = module((torch.ones(1, 400, 1, 1),))
    l = module.clamp * torch.tanh(0.1 * a.double())
    scale = module.global_scale_activation(module.global_scale.double()).flatten()
    assert torch.allclose(y[0, 200:, 0, 0].double(), l.exp() * scale[200:], rtol=2e-6, atol=0)
    assert math.isclose(ladj.item(), (l.sum() + scale.log().sum()).item(), rel_tol=1e-5, abs_tol=1e-3)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("channel", [0, 2])
def test_nan_stays_nan(channel, bf16):
    module, x = block(3, 4, 4, hidden=8), normal(2, 3, 4, 4)
    x[1, channel, 2, 2] = math.nan
    with compiled.fused(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        (y,), _ = module((x,))
    assert y[1].isnan().any() and y[0].isfinite().all()


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.flip(0).repeat_interleave(2, 3)[..., ::2].flip(0),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    ],
    ids=["channels last", "strided", "transposed"],
)
def test_the_layout_of_x_changes_nothing(layout):
    module, x = block(3, 6, 8, hidden=8), normal(4, 3, 6, 8)
    plain, other = results(module, x, fused=True), results(module, layout(x), fused=True)
    tolerance = (
        0 if compiled.status().startswith("engine") else FLOAT32
    )  # torch picks its kernel by the layout
    assert worst(other, {k: v.double() for k, v in plain.items()}) <= tolerance


# ---- the same bits every time


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_number_of_threads_always_gives_the_same_bits(threads, bf16):
    module, x = block(4, 8, 8, hidden=12), normal(5, 4, 8, 8)
    one = results(module, x, fused=True, bf16=bf16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (results(module, x, fused=True, bf16=bf16) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    # sums over samples are cut elsewhere: rounding, nothing more
    assert worst(first, {k: v.double() for k, v in one.items()}) < 1e-6


@needs_compiler
@pytest.mark.parametrize("bf16", [False, True])
def test_a_sample_without_gradient_changes_nothing_to_the_bit(bf16):
    # most outliers are soon so unlikely that the softplus of eq. (3) has no slope left
    module, x = block(3, 9, 8, 10), normal(6, 3, 9, 8)
    with_slope = torch.tensor([True, False, False, True, True, False])

    def gradients(x, slope):
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), compiled.fused():
            (y,), ladj = module((x,))
        loss = ((y.square().sum((1, 2, 3)) + ladj) * slope).sum()
        by_x, *rest = torch.autograd.grad(loss, [x, *(p for p in module.parameters() if p.requires_grad)])
        return by_x, rest

    by_x, rest = gradients(x, with_slope.float())
    alone, alone_rest = gradients(x[with_slope], torch.ones(3))
    assert torch.equal(by_x[with_slope], alone) and not by_x[~with_slope].any()
    # the number of threads shares samples out in another way, hence rounding
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(rest, alone_rest, strict=True))
    nan = x.clone()
    nan[1] = math.nan
    assert gradients(nan, torch.ones(6))[0].isnan().any(), (
        "what is wrong is still seen where there is a slope"
    )


@needs_compiler
@pytest.mark.parametrize("only", ["y", "ladj"])
def test_a_gradient_by_one_output_alone_is_none_to_leave_out(only):
    module, x = block(3, 9, 8, 10), normal(4, 3, 9, 8)

    def by_x(x, fused):
        x = x.detach().requires_grad_()
        with compiled.fused() if fused else contextlib.nullcontext():
            (y,), ladj = module((x,))
        return torch.autograd.grad((y.square() if only == "y" else ladj).sum(), x)[0]

    found, expected = by_x(x, True), by_x(x, False)
    assert expected.any() and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_the_engine_says_which_blocks_it_takes(monkeypatch):
    x = normal(2, 3, 8, 8)
    taken = flow.image_flow((3, 8, 8), blocks=2, hidden=4)
    assert compiled.takes(taken.blocks, x)
    assert not compiled.takes([], x) and not compiled.takes(taken.blocks, x.double())
    assert not compiled.takes([*taken.blocks, nn.Identity()], x)
    assert not compiled.takes(flow.vector_flow(4).blocks, normal(2, 4))
    monkeypatch.setenv("FLOWOOD_ENGINE", "torch")
    assert not compiled.takes(taken.blocks, x)


def test_training_goes_the_same_way_as_in_torch(monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    x = torch.randint(256, (32, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def losses(which):
        monkeypatch.setenv("FLOWOOD_ENGINE", which)
        model = flow.image_flow((3, 8, 8), blocks=3, hidden=8)
        history = train.fit(model, x, settings=train.Settings(steps=8, batch_size=16), log_every=1)
        return history.column("loss"), flow.densities(model, x)[1]

    (mine, log_px), (plain, expected) = losses(""), losses("torch")
    assert np.allclose(mine, plain, rtol=1e-4) and np.allclose(log_px, expected, rtol=1e-4)


# ---- where it applies


@pytest.mark.parametrize("context", [contextlib.nullcontext, compiled.fused])
def test_torch_compile_sees_one_graph_of_plain_torch(context):
    torch._dynamo.reset()
    model = flow.image_flow((3, 4, 4), blocks=2, hidden=4)
    with context():
        found = torch._dynamo.explain(model.log_prob)(torch.rand(2, 3, 4, 4))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


def test_only_inside_the_context_and_there_only_what_fits(monkeypatch):
    monkeypatch.delenv("FLOWOOD_ENGINE", raising=False)
    module, x = block(3, 4, 4, hidden=8), normal(2, 3, 4, 4)
    assert compiled.block(module, x) is None
    wide = copy.deepcopy(module)
    wide.subnet[0] = nn.Conv2d(2, 8, 5, padding=2)
    text = flow.vector_flow(4, hidden=8).blocks[0]
    with compiled.fused():
        assert (compiled.block(module, x) is not None) == compiled.status().startswith("engine")
        assert compiled.block(copy.deepcopy(module).double(), x.double()) is None
        assert compiled.block(wide, x) is None and compiled.block(text, normal(2, 4)) is None
        assert compiled.block(module, x[:0]) is None
    assert compiled.block(module, x) is None


def test_samples_come_back_through_the_inverse():
    model = flow.image_flow((3, 6, 6), hidden=8)
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with compiled.fused(), torch.no_grad():
        assert torch.allclose(model.inverse(model(x)[0]), x, atol=1e-4)


def test_second_derivatives_are_refused_inside_and_exist_outside():
    module, x = block(3, 4, 4, hidden=8), normal(2, 3, 4, 4).requires_grad_()

    def gradient(y):
        return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0].square().sum()

    gradient(module((x,))[0][0]).backward()
    if compiled.status().startswith("engine"):
        with compiled.fused(), pytest.raises(RuntimeError, match="once_differentiable"):
            gradient(module((x,))[0][0]).backward()


# ---- building, and what happens where that fails


def test_the_engine_is_built_where_there_is_a_compiler(monkeypatch):
    monkeypatch.delenv("FLOWOOD_ENGINE", raising=False)
    assert compiled.status().startswith("torch: no C++ compiler" if COMPILER is None else "engine: float32")


def plain_bits_inside_the_context():
    module, x = block(3, 4, 4, hidden=8), normal(2, 3, 4, 4)
    inside, outside = results(module, x, fused=True), results(module, x, fused=False)
    return all(torch.equal(inside[k], outside[k]) for k in inside)


def test_without_a_compiler_torch_computes(fresh, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    assert compiled.status() == "torch: no C++ compiler (c++, g++ or clang++) on PATH"
    assert plain_bits_inside_the_context()


def test_torch_on_request(fresh, monkeypatch):
    monkeypatch.setenv("FLOWOOD_ENGINE", "torch")
    assert compiled.status() == "torch: FLOWOOD_ENGINE=torch"
    assert plain_bits_inside_the_context()


@needs_compiler
@pytest.mark.parametrize(
    "source, says", [("this is no C++", "failed: "), (STUB, "self-check failed")], ids=["broken", "wrong"]
)
def test_a_library_that_cannot_be_built_or_errs_is_not_used(fresh, monkeypatch, source, says):
    file = fresh / "blocks.cpp"
    file.write_text(source, encoding="utf-8")
    monkeypatch.setattr(compiled, "SOURCE", file)
    status = compiled.status()
    assert status.startswith("torch: ") and says in status and "\n" not in status
    assert plain_bits_inside_the_context()


@needs_compiler
def test_a_library_is_built_once_and_again_when_damaged_or_changed(fresh, monkeypatch):
    file = fresh / "blocks.cpp"
    file.write_text(STUB, encoding="utf-8")
    monkeypatch.setattr(compiled, "SOURCE", file)

    def build():
        compiled._built(COMPILER, compiled.FLAGS)
        return {p: p.stat().st_mtime_ns for p in (fresh / "flowood").iterdir()}

    first = build()
    assert len(first) == 1 and build() == first
    (library,) = first
    content = library.read_bytes()
    library.unlink()
    library.write_bytes(content[:100])
    build()
    assert library.read_bytes() == content
    file.write_text(STUB.replace("return 1", "return 2"), encoding="utf-8")
    assert len(build()) == 2


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(fresh, monkeypatch):
    (fresh / "flowood").write_text("a file where the folder should be", encoding="utf-8")
    file = fresh / "blocks.cpp"
    file.write_text(STUB, encoding="utf-8")
    monkeypatch.setattr(compiled, "SOURCE", file)
    assert compiled._built(COMPILER, compiled.FLAGS).flowood_kinds() == 1


def test_the_subnet_of_the_flow_is_one_the_engine_knows():
    """A change of `subnets.conv3x3` would send every training back to torch, silently."""
    net = subnets.conv3x3(8)(2, 2)
    assert len(net) == 3 and compiled._is_conv3x3(net[0]) and compiled._is_conv3x3(net[2])


def test_bfloat16_leaves_the_trained_auroc_within_its_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWOOD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")
    fields = {
        "id": "photo", "ood": ("digits", "smooth"), "method": "ccm_gaussian", "n_train": 400, "n_test": 150,
        "squeeze": 1, "blocks": 4, "hidden": 16, "data_init": True, "epochs": 6, "batch_size": 16, "lr": 2e-3,
        "schedule": "cosine",
    }  # fmt: skip
    full, half = (runs.run_or_load(runs.Pixels(**fields, bf16=bf16)) for bf16 in (False, True))
    assert full.metrics["id"]["log_px_mean"] != half.metrics["id"]["log_px_mean"]  # it did run in bfloat16
    for ood in fields["ood"]:
        for score in ("pz", "px"):
            _, low, high = full.metrics["ood"][ood][score]["auroc"]
            assert low <= half.metrics["ood"][ood][score]["auroc"][0] <= high
