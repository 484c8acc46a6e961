"""One step of training: the captured form against the called one, and both against torch as its manual has it."""

import copy
import dataclasses
import shutil

import pytest
import torch
from torch import nn

from flowood_core import objective
from flowood_core.flow import dequantise, image_flow, vector_flow
from flowood_core.train import Settings, draw_batch, draw_batches, fit, fit_together, step
from flowood_core.train.loop import _Draws

SETTINGS = Settings(steps=6, batch_size=8, lr=1e-2, seed=3)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 3, 4, 4), generator=seeded(seed), dtype=torch.uint8)


def small(seed: int = 0) -> nn.Module:
    return image_flow((3, 4, 4), blocks=2, hidden=4, seed=seed)


def mixed(x, partner, *, rng):
    return torch.where(torch.rand(x.shape, generator=rng, device=x.device) < 0.5, x, partner)


def batches(n_rows: int = 1, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = seeded(seed)
    return [
        (torch.rand(8, 3, 4, 4, generator=rng), torch.rand(8, generator=rng) < 0.5) for _ in range(n_rows)
    ]


def weights(*flows: nn.Module) -> list[torch.Tensor]:
    return [t.clone() for flow in flows for t in flow.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def as_the_manual_has_it(flow: nn.Module, optimizer, batch, flags, settings: Settings) -> torch.Tensor:
    optimizer.zero_grad()
    lp = flow.log_prob(batch)
    loss = objective.loss_total(lp, flags, tau=settings.tau, temperature=settings.temperature)
    (loss / batch[0].numel()).backward()
    nn.utils.clip_grad_norm_(flow.parameters(), settings.clip)
    optimizer.step()
    return lp.detach()


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_is_what_torch_does_unfused_with_backward(micro_batch):
    settings = dataclasses.replace(SETTINGS, micro_batch=micro_batch, clip=0.05)
    mine, plain = small(), small()
    take = step.Step([mine], [step.adam(mine, settings)], [settings])
    optimizer = torch.optim.Adam(plain.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for k in range(6):
        ((batch, flags),) = batches(seed=k)
        ((log_px, norm),) = take([(batch, flags)], [settings.lr])
        expected = as_the_manual_has_it(plain, optimizer, batch, flags, settings)
        assert torch.allclose(log_px, expected, rtol=1e-4) and norm > 0
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


class Shifted(nn.Module):
    """A density whose location enters as a sum of two parameters, and a third that some samples do not reach."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor([v, -v])) for v in (0.3, 0.1, 0.2))

    def log_prob(self, x):
        lp = -((x - (self.a + self.b)) ** 2).sum(1)
        return lp + (self.c * x).sum(1) if (x > 0).all() else lp


def test_parameters_that_enter_as_a_sum_are_clipped_once():
    settings = dataclasses.replace(SETTINGS, clip=0.05)
    mine, plain = Shifted(), Shifted()
    take = step.Step([mine], [step.adam(mine, settings)], [settings])
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    batch, flags = torch.randn(6, 2, generator=seeded()), torch.zeros(6, dtype=torch.bool)
    as_the_manual_has_it(plain, optimizer, batch, flags, settings)
    take([(batch, flags)], [0.0])
    assert torch.allclose(mine.a.grad, plain.a.grad) and torch.allclose(mine.b.grad, plain.b.grad)


@pytest.mark.parametrize("positive_first", [True, False])
def test_a_part_of_a_batch_may_miss_a_parameter(positive_first):
    whole = torch.stack([torch.ones(2), -torch.ones(2)][:: 1 if positive_first else -1])
    flow, settings = Shifted(), dataclasses.replace(SETTINGS, micro_batch=1, clip=0)
    take = step.Step([flow], [step.adam(flow, settings)], [settings])
    for _ in range(2):  # the gradients of the step before count no more
        take([(whole, torch.zeros(2, dtype=torch.bool))], [0.0])
        assert torch.allclose(flow.c.grad, torch.full((2,), -1 / 4))  # of -c x over b = 2 and D = 2


def test_recording_that_fails_leaves_no_trace(monkeypatch):
    class Fails(step.Captured):
        def _record(self):
            self._all_rows()
            raise RuntimeError("no graphs here")

    flow = small()
    optimizer = step.adam(flow, SETTINGS)
    before = weights(flow)
    with pytest.raises(RuntimeError, match="no graphs"):
        Fails([flow], [optimizer], [SETTINGS], batches())
    assert same(before, weights(flow))
    assert all((t == 0).all() for of in optimizer.state.values() for t in of.values())


def test_recording_leaves_no_trace_and_replaying_gives_the_same_bits():
    flows = [small(0), small(1)]
    settings = [SETTINGS, dataclasses.replace(SETTINGS, clip=0, tau=-5.0, temperature=0.0)]
    called, recorded = copy.deepcopy(flows), copy.deepcopy(flows)
    adams = [step.adam(f, s) for f, s in zip(called, settings, strict=True)]
    others = [step.adam(f, s) for f, s in zip(recorded, settings, strict=True)]
    take = step.Step(called, adams, settings)
    for k in range(2):  # with moments that are not zero when recording begins
        take(batches(2, seed=k), [0.01, 0.02])
    for f, o, g, p in zip(recorded, others, called, adams, strict=True):
        f.load_state_dict(g.state_dict())
        step.load_adam(o, p.state_dict())
    replay = step.Captured(recorded, others, settings, batches(2, seed=99))
    assert same(weights(*called), weights(*recorded))
    for k in range(2, 5):
        new = batches(2, seed=k)
        for a, b in zip(take(new, [0.01, 0.002 * k]), replay(new, [0.01, 0.002 * k]), strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert same(weights(*called), weights(*recorded))
    fresh = step.Captured([small(0)], [step.adam(small(0), SETTINGS)], [SETTINGS], batches())
    assert same(weights(*fresh.flows), weights(small(0)))
    assert all((t == 0).all() for of in fresh.optimizers[0].state.values() for t in of.values())


@pytest.mark.parametrize("kind", [step.Step, step.Captured])
def test_gradients_that_are_not_finite_move_nothing_and_are_remembered(kind):
    flow = small()
    args = ([flow], [step.adam(flow, SETTINGS)], [SETTINGS])
    take = kind(*args, batches()) if kind is step.Captured else kind(*args)
    take(batches(), [0.01])
    before, moments = weights(flow), copy.deepcopy(take.optimizers[0].state_dict())
    assert not take.is_broken(0)
    ((batch, flags),) = batches(seed=1)
    batch[0, 0, 0, 0] = torch.nan
    take([(batch, flags)], [0.01])
    take(batches(seed=2), [0.01])  # sound again, but what was reported broken stays as it was
    assert take.is_broken(0) and same(before, weights(flow))
    after = take.optimizers[0].state_dict()["state"]
    assert all(torch.equal(t, after[k][name]) for k, of in moments["state"].items() for name, t in of.items())


def test_moments_written_on_a_gpu_are_read_on_a_processor():
    flow = small()
    optimizer = step.adam(flow, SETTINGS)
    step.Step([flow], [optimizer], [SETTINGS])(batches(), [0.01])
    from_gpu = copy.deepcopy(optimizer.state_dict())
    from_gpu["param_groups"][0] |= {"lr": torch.tensor(0.5), "capturable": True, "fused": True}
    mine = step.adam(flow, SETTINGS)
    step.load_adam(mine, from_gpu)
    assert mine.param_groups[0]["lr"] == SETTINGS.lr and not mine.param_groups[0]["capturable"]
    assert all(
        torch.equal(a, b)
        for p in flow.parameters()
        if p.requires_grad
        for a, b in zip(mine.state[p].values(), optimizer.state[p].values(), strict=True)
    )
    mine.state[next(p for p in flow.parameters() if p.requires_grad)]["exp_avg"].zero_()
    assert from_gpu["state"][0]["exp_avg"].abs().sum() > 0  # copied, not shared


def test_flows_trained_together_are_those_trained_alone():
    x = images()
    settings = [SETTINGS, dataclasses.replace(SETTINGS, seed=4), dataclasses.replace(SETTINGS, tau=3.0)]
    methods = [None, mixed, mixed]
    alone, together = [small(k) for k in range(3)], [small(k) for k in range(3)]
    saved: list[tuple[int, int]] = []
    histories = fit_together(
        together, x, methods, settings=settings, log_every=1,
        on_checkpoint=lambda k, state: saved.append((k, state["step"])),
    )  # fmt: skip
    for flow, method, one, history in zip(alone, methods, settings, histories, strict=True):
        expected = fit(flow, x, method, settings=one, log_every=1)
        assert [repr(r["loss"]) for r in history.rows] == [repr(r["loss"]) for r in expected.rows]
    assert same(weights(*alone), weights(*together))
    assert saved == [(0, 6), (1, 6), (2, 6)]


@pytest.mark.parametrize(
    "settings, states, wrong",
    [
        ([SETTINGS, dataclasses.replace(SETTINGS, steps=7)], None, "steps"),
        ([SETTINGS, dataclasses.replace(SETTINGS, batch_size=4)], None, "batch_size"),
        ([SETTINGS, SETTINGS], [{"step": 2}, None], r"\[0, 2\]"),
        ([SETTINGS], None, "2, 2, 1 and 2"),
    ],
)
def test_what_does_not_agree_is_not_trained_together(settings, states, wrong):
    with pytest.raises(ValueError, match=wrong):
        fit_together([small(), small(1)], images(), [None, None], settings=settings, states=states)


def test_many_batches_drawn_at_once_visit_every_image_once_an_epoch():
    x = torch.arange(40.0)[:, None].repeat(1, 2)
    batch, flags = draw_batches(x, None, 3, 9, 8, SETTINGS)  # 5 batches an epoch: parts of 3 epochs
    assert batch.shape == (9, 8, 2) and not flags.any()
    one_by_one = torch.stack([draw_batch(x, None, k, 8, SETTINGS)[0] for k in range(3, 12)])
    assert torch.equal(batch, one_by_one)  # without outliers and noise the order alone decides
    assert sorted(batch[2:7, :, 0].flatten().tolist()) == list(range(40))


def test_batches_drawn_at_once_do_not_depend_on_where_a_run_continues():
    x, settings = images(), dataclasses.replace(SETTINGS, steps=10)
    whole = _Draws(x, mixed, 8, settings, at_once=4)
    expected = [whole.batch(k) for k in range(10)]
    late = _Draws(x, mixed, 8, settings, at_once=4)
    for k in (6, 7, 8, 9):  # 6 lies inside a draw, 8 begins the last, shorter one
        assert same(list(expected[k]), list(late.batch(k)))
    share = torch.stack([flags for _, flags in expected]).float().mean()
    assert 0.3 < share < 0.7 and not same([expected[0][0]], [expected[4][0]])


def test_the_step_is_called_on_a_processor_whatever_is_wanted(monkeypatch):
    flow = small()
    for wanted in ("", "torch", "graph"):
        monkeypatch.setenv("FLOWOOD_ENGINE", wanted)
        made = step.step_for([flow], [step.adam(flow, SETTINGS)], [SETTINGS], batches())
        assert type(made) is step.Step


@pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler"
)
def test_the_compiled_density_trains_the_same_flow():
    flows = [vector_flow(4, blocks=2, hidden=8, layers=2), vector_flow(4, blocks=2, hidden=8, layers=2)]
    batch = [(torch.randn(8, 4, generator=seeded()), torch.arange(8) < 3)]
    plain, compiled = (
        step.Captured([f], [step.adam(f, SETTINGS)], [SETTINGS], batch, compiled=c)
        for f, c in zip(flows, (False, True), strict=True)
    )
    for k in range(4):
        new = [(torch.randn(8, 4, generator=seeded(k)), torch.arange(8) < k)]
        ((a, _),), ((b, _),) = plain(new, [0.01]), compiled(new, [0.01])
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_graph_trains_what_the_calls_train(compiled):
    x = dequantise(images()).cuda()
    rows = [small(0).cuda(), small(1).cuda()]
    called, recorded = copy.deepcopy(rows), copy.deepcopy(rows)
    settings = [SETTINGS, dataclasses.replace(SETTINGS, tau=2.0)]
    data = [[(x[8 * k : 8 * k + 8], (torch.arange(8) < 4).cuda())] * 2 for k in range(5)]
    take = step.Step(called, [step.adam(f, s) for f, s in zip(called, settings, strict=True)], settings)
    others = [step.adam(f, s) for f, s in zip(recorded, settings, strict=True)]
    replay = step.Captured(recorded, others, settings, data[0], compiled=compiled)
    for k, new in enumerate(data):
        rates = [0.01, 0.001 * (k + 1)]
        for (a, n), (b, m) in zip(take(new, rates), replay(new, rates), strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-2) and torch.allclose(n, m, rtol=1e-2)
    batch, flags = data[0][0]
    broken = batch.clone()
    broken[0] = torch.nan
    replay([(broken, flags), (batch, flags)], [0.01, 0.01])
    assert replay.is_broken(0) and not replay.is_broken(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_training_continues_to_the_same_weights():
    x, settings = images().cuda(), dataclasses.replace(SETTINGS, steps=80)
    states: list[dict] = []
    whole, rest = small().cuda(), small().cuda()
    keep = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    fit(whole, x, mixed, settings=settings, on_checkpoint=keep, checkpoint_every_s=0)
    middle = next(s for s in states if s["step"] > 40)
    fit(rest, x, mixed, settings=settings, state=middle)
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
