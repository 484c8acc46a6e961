"""Laws of the training loop: purity, resuming to the same bits, and that it learns what it should."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons
from torch import nn

from flowood_core.flow import image_flow, vector_flow
from flowood_core.system import progress
from flowood_core.train import History, NonFinite, Settings, draw_batch, fit

few = hypothesis_settings(max_examples=30, deadline=None)
COLUMNS = {"step", "loss", "log_px_id", "log_px_out", "bpd_id", "grad_norm", "seconds"}


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "none")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane_flow(seed: int = 0, **options) -> nn.Module:
    return vector_flow(2, **({"blocks": 4, "hidden": 16, "layers": 2, "seed": seed} | options))


def gaussian_points(n: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=seeded(seed)) @ torch.tensor([[1.0, 0.0], [0.8, 0.4]])


def images(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 3, 4, 4), generator=seeded(seed), dtype=torch.uint8)


def uniform(x, partner, *, rng):
    return 6 * torch.rand(x.shape, generator=rng, dtype=x.dtype) - 3


def mixed(x, partner, *, rng):
    """An outlier of bytes that uses all three arguments."""
    keep = torch.rand(x.shape, generator=rng) < 0.5
    return torch.where(keep, x, partner)


PROBLEMS = {  # x, outliers, flow
    "points": lambda: (gaussian_points(), None, plane_flow()),
    "points and outliers": lambda: (gaussian_points(), uniform, plane_flow()),
    "bytes and outliers": lambda: (images(), mixed, image_flow((3, 4, 4), blocks=2, hidden=4)),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS)


def weights(flow: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in flow.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def numbers(history: History) -> list[list[float]]:
    """The history as text, so that nan equals nan, without the seconds."""
    return [[repr(row[k]) for k in sorted(COLUMNS - {"seconds"})] for row in history.rows]


# --- batches ---------------------------------------------------------------------------------------------


@few
@given(st.integers(0, 10**6), st.integers(0, 10**4), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_batch_is_a_pure_function_of_seed_and_step(seed, step, outlier_prob):
    x, how = images(40), Settings(seed=seed, outlier_prob=outlier_prob)
    first, flags = draw_batch(x, mixed, step, 16, how)
    torch.rand(3)  # moves the global state
    again, flags_again = draw_batch(x, mixed, step, 16, how)
    assert torch.equal(first, again) and torch.equal(flags, flags_again)
    assert not torch.equal(first, draw_batch(x, mixed, step + 1, 16, how)[0])
    assert not torch.equal(first, draw_batch(x, mixed, step, 16, Settings(seed=seed + 1))[0])
    assert torch.equal(x, images(40)), "the data were changed in place"


@pytest.mark.parametrize("n, batch_size", [(64, 16), (70, 16), (10, 10), (7, 3), (5, 8)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_visits_every_sample_at_most_once(n, batch_size, epoch):
    x = torch.arange(n, dtype=torch.float32)[:, None]
    per_epoch = max(n // batch_size, 1)
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    seen = torch.cat([draw_batch(x, None, step, min(batch_size, n), Settings())[0] for step in steps])
    values = seen.flatten().tolist()
    assert len(values) == len(set(values)) == per_epoch * min(batch_size, n)
    if n % min(batch_size, n) == 0:
        assert sorted(values) == list(range(n))


def test_epochs_differ_in_order():
    x = torch.arange(32.0)[:, None]
    assert not torch.equal(
        draw_batch(x, None, 0, 32, Settings())[0], draw_batch(x, None, 1, 32, Settings())[0]
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_outliers_is_their_probability(share):
    x = torch.zeros(128, 1)

    def one(x, partner, *, rng):
        return torch.ones_like(x)

    drawn = [draw_batch(x, one, step, 128, Settings(outlier_prob=share)) for step in range(100)]
    flags = torch.cat([is_outlier for _, is_outlier in drawn])
    assert abs(flags.float().mean().item() - share) <= 4 * math.sqrt(share * (1 - share) / len(flags))
    assert all(torch.equal(batch[:, 0] == 1, is_outlier) for batch, is_outlier in drawn)


def test_without_outliers_none_is_flagged():
    _, flags = draw_batch(images(), None, 0, 32, Settings(outlier_prob=1))
    assert flags.dtype == torch.bool and not flags.any()


@pytest.mark.parametrize("n", [2, 3, 40])
def test_a_partner_is_another_sample_of_the_data(n):
    x, partners = torch.arange(n, dtype=torch.float32)[:, None], []

    def note(x, partner, *, rng):
        assert partner.shape == x.shape and not (partner == x).any()
        partners.extend(partner.flatten().tolist())
        return x

    for step in range(60):
        draw_batch(x, note, step, n, Settings())
    assert set(partners) == set(range(n))


def test_bytes_become_floats_inside_their_bins():
    x = images(64)
    batch, _ = draw_batch(x, None, 0, 64, Settings())
    assert batch.dtype == torch.float32 and batch.min() >= 0 and batch.max() < 1
    found = {tuple(image) for image in (256 * batch).floor().to(torch.uint8).flatten(1).tolist()}
    assert found == {tuple(image) for image in x.flatten(1).tolist()}
    epoch_2, _ = draw_batch(x, None, 1, 64, Settings())
    assert not torch.isin(epoch_2, batch).all(), "noise is drawn afresh"


def test_floats_are_taken_as_they_are():
    x = 100 * gaussian_points(20)
    batch, _ = draw_batch(x, None, 0, 20, Settings())
    assert torch.equal(batch.sort(0).values, x.sort(0).values)


# --- learning --------------------------------------------------------------------------------------------


def test_maximum_likelihood_comes_near_the_entropy_of_a_gaussian():
    x, fresh = gaussian_points(2000), gaussian_points(5000, seed=1)
    entropy = math.log(2 * math.pi * math.e) + math.log(1.0 * 0.4)  # 0.5 log det(2 pi e S), det of the root
    flow = plane_flow()
    history = fit(flow, x, settings=Settings(steps=300, lr=1e-2, schedule="cosine"))
    assert history.column("loss")[0] > 1.2 * history.column("loss")[-5:].mean()
    with torch.no_grad():
        assert -flow.log_prob(fresh).mean().item() == pytest.approx(entropy, abs=0.06)


def trained_twice(x, outliers) -> tuple[nn.Module, nn.Module]:
    """One flow by maximum likelihood, its twin with outliers."""
    how, flows = Settings(steps=150, lr=1e-2, schedule="cosine"), []
    for outliers_or_none in (None, outliers):
        flows.append(plane_flow(blocks=6, hidden=32).initialise(x))
        fit(flows[-1], x, outliers_or_none, settings=how)
        flows[-1].requires_grad_(False)
    return flows[0], flows[1]


def test_outliers_empty_the_gaps_between_the_moons():
    """Literal eq. 3 acts where the density exceeds 1, hence the small unit of x."""
    unit = 0.01
    x = unit * torch.tensor(make_moons(1000, noise=0.05, random_state=0)[0], dtype=torch.float32)
    grid = unit * torch.cartesian_prod(torch.linspace(-1.5, 2.5, 60), torch.linspace(-1, 1.5, 40))
    gaps = grid[torch.cdist(grid, x).amin(1) > 0.2 * unit]

    def uniform_in_the_gaps(x, partner, *, rng):
        return gaps[torch.randint(len(gaps), (len(x),), generator=rng)]

    mle, dual = trained_twice(x, uniform_in_the_gaps)
    assert dual.log_prob(gaps).median() < mle.log_prob(gaps).median() - 5
    assert dual.log_prob(x).mean() > mle.log_prob(x).mean() - 1, "and the data keep theirs"


def test_outliers_inside_the_data_lose_their_head_start():
    """The bias in two dimensions: outliers near the mode beat ID samples in likelihood, until trained on."""
    x = 0.1 * torch.randn(1000, 2, generator=seeded(0))

    def near_the_mode(x, partner, *, rng):
        return 0.02 * torch.randn(x.shape, generator=rng) + torch.tensor([0.1, 0.0])

    x_out = near_the_mode(x[:500], None, rng=seeded(1))
    mle, dual = trained_twice(x, near_the_mode)
    assert mle.log_prob(x_out).mean() > mle.log_prob(x).mean() + 0.2
    assert dual.log_prob(x_out).mean() < dual.log_prob(x).mean() - 1
    assert dual.log_prob(x_out).mean() < mle.log_prob(x_out).mean() - 2


def test_any_module_with_a_density_can_be_trained():
    class Normal(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(2))

        def log_prob(self, x):
            return -0.5 * (x - self.mean).square().sum(1) - math.log(2 * math.pi)

    model, x = Normal(), gaussian_points(256) + torch.tensor([1.0, -1.0])
    fit(model, x, settings=Settings(steps=200, lr=0.05, schedule="cosine", batch_size=256, weight_decay=0))
    assert torch.allclose(model.mean, x.mean(0), atol=0.01)


# --- the same bits ---------------------------------------------------------------------------------------


@each_problem
def test_the_same_seed_gives_the_same_bits(problem):
    def run(seed):
        x, outliers, flow = PROBLEMS[problem]()
        history = fit(flow, x, outliers, settings=Settings(steps=12, batch_size=16, seed=seed), log_every=5)
        return weights(flow), numbers(history)

    first, other = run(3), run(4)
    torch.rand(5)
    again = run(3)
    assert same(first[0], again[0]) and first[1] == again[1]
    assert not same(first[0], other[0]) and first[1] != other[1]


@each_problem
@pytest.mark.parametrize("stop", [1, 7, 12])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_ends_with_the_same_bits(problem, stop, schedule):
    how = Settings(steps=15, batch_size=16, schedule=schedule)
    x, outliers, flow = PROBLEMS[problem]()
    states = {}

    def keep(state):
        states[state["step"]] = copy.deepcopy(state)

    undisturbed = fit(flow, x, outliers, settings=how, on_checkpoint=keep, checkpoint_every_s=0, log_every=4)
    assert list(states) == list(range(1, 16))
    kept = copy.deepcopy(states[stop])
    for _ in range(2):  # a state can be used again: continuing does not change it
        x, outliers, fresh = PROBLEMS[problem]()
        with torch.no_grad():
            for p in fresh.parameters():
                p.add_(1)  # whatever it was before, the state decides
        resumed = fit(fresh, x, outliers, settings=how, state=states[stop], log_every=4)
        assert same(weights(fresh), weights(flow))
        assert numbers(resumed) == numbers(undisturbed)
        assert resumed.rows[-1]["seconds"] > states[stop]["seconds"]
    assert same(states[stop]["flow"], kept["flow"])
    assert numbers(History(states[stop]["history"])) == numbers(History(kept["history"]))


def test_a_state_survives_torch_save(tmp_path):
    x, outliers, flow = PROBLEMS["points and outliers"]()
    how = Settings(steps=6, batch_size=16)

    def save(state):
        if state["step"] == 3:
            torch.save(state, tmp_path / "checkpoint.pt")

    fit(flow, x, outliers, settings=how, on_checkpoint=save, checkpoint_every_s=0)
    fresh = plane_flow(seed=1)
    fit(fresh, x, outliers, settings=how, state=torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert same(weights(fresh), weights(flow))


def test_a_finished_run_has_nothing_left_to_do():
    x, how, states = gaussian_points(), Settings(steps=4), []
    flow = plane_flow()
    done = fit(flow, x, settings=how, on_checkpoint=lambda s: states.append(copy.deepcopy(s)))
    assert [s["step"] for s in states] == [4], "at the end, and not before half a minute"
    again = fit(plane_flow(seed=5), x, settings=how, state=states[0])
    assert numbers(again) == numbers(done)


def test_micro_batches_change_weights_by_rounding_only():
    runs = {}
    for size in (None, 16, 5, 1):
        flow, x = plane_flow().double(), gaussian_points().double()
        how = Settings(steps=10, batch_size=16, micro_batch=size)
        history = fit(flow, x, uniform, settings=how, log_every=1)
        runs[size] = torch.cat([p.flatten() for p in flow.parameters()]), history.column("loss")
    for size in (16, 5, 1):
        assert torch.allclose(runs[size][0], runs[None][0], atol=1e-7)
        assert np.allclose(runs[size][1], runs[None][1], atol=1e-9)


@each_problem
def test_training_touches_no_global_random_state(problem):
    x, outliers, flow = PROBLEMS[problem]()
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    fit(flow, x, outliers, settings=Settings(steps=3, batch_size=16))
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[2] == after[2]
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))


# --- settings --------------------------------------------------------------------------------------------


@few
@given(st.integers(2, 2000), st.floats(1e-6, 1))
def test_a_cosine_falls_from_lr_to_nearly_zero(steps, lr):
    rates = [Settings(steps=steps, lr=lr, schedule="cosine").lr_at(step) for step in range(steps)]
    assert rates[0] == lr and all(b <= a for a, b in itertools.pairwise(rates))
    assert 0 <= rates[-1] <= lr * 2.5 / steps**2 + 1e-12
    assert {Settings(steps=steps, lr=lr).lr_at(step) for step in range(steps)} == {lr}


@pytest.mark.parametrize("schedule, stands_still", [("cosine", True), ("constant", False)])
def test_the_optimizer_follows_the_schedule(schedule, stands_still):
    """The last steps of a cosine hardly move a weight; constant ones do."""
    path = []
    how = Settings(steps=100, batch_size=16, schedule=schedule, lr=1e-3)

    def watch(state):
        path.append(torch.cat([v.flatten() for v in state["flow"].values()]).clone())

    fit(plane_flow(), gaussian_points(), settings=how, on_checkpoint=watch, checkpoint_every_s=0)
    last, early = (path[-1] - path[-2]).norm(), (path[30] - path[29]).norm()
    assert (last < 0.01 * early) == stands_still


@pytest.mark.parametrize("clip", [0.5, 0.01, 0])
def test_clipping_bounds_the_gradient_the_optimizer_sees(clip):
    """Adam's first moment after one step is a tenth of the gradient it was given."""
    state = {}
    history = fit(
        plane_flow(),
        20 * gaussian_points(),
        settings=Settings(steps=1, clip=clip, weight_decay=0),
        on_checkpoint=lambda s: state.update(copy.deepcopy(s)),
    )
    moments = [moment["exp_avg"].flatten() for moment in state["optimizer"]["state"].values()]
    seen = 10 * torch.cat(moments).norm().item()
    found = history.rows[0]["grad_norm"]  # before clipping
    assert found > 1
    assert seen == pytest.approx(clip or found, rel=1e-3)


@pytest.mark.parametrize(
    "epochs, n, batch_size, steps",
    [(1, 1000, 128, 7), (500, 50_000, 128, 195_000), (0.5, 1000, 100, 5), (3, 50, 128, 3), (2, 128, 128, 2)],
)
def test_an_epoch_drops_the_incomplete_batch(epochs, n, batch_size, steps):
    assert Settings.epochs_to_steps(epochs, n, batch_size) == steps


def test_the_defaults_are_the_papers():
    paper = Settings()
    assert (paper.batch_size, paper.lr, paper.weight_decay) == (128, 1e-3, 1e-5)
    assert (paper.outlier_prob, paper.tau, paper.temperature, paper.schedule) == (0.5, 0, 1, "constant")


def test_bfloat16_keeps_weights_and_densities_in_float32():
    x, outliers, exact = PROBLEMS["bytes and outliers"]()
    flow = copy.deepcopy(exact)
    how = {"steps": 10, "batch_size": 32}
    found = fit(flow, x, outliers, settings=Settings(bf16=True, **how), log_every=1).column("bpd_id")
    expected = fit(exact, x, outliers, settings=Settings(**how), log_every=1).column("bpd_id")
    assert {p.dtype for p in flow.parameters()} == {torch.float32}
    assert np.allclose(found, expected, atol=0.05) and not np.array_equal(found, expected)


# --- history and progress --------------------------------------------------------------------------------


@each_problem
def test_the_history_has_every_column_and_the_last_step(problem):
    x, outliers, flow = PROBLEMS[problem]()
    history = fit(flow, x, outliers, settings=Settings(steps=9, batch_size=16), log_every=4)
    assert all(row.keys() == COLUMNS for row in history.rows)
    assert history.column("step").tolist() == [0, 4, 8]
    assert (np.diff(history.column("seconds")) >= 0).all()
    assert np.isnan(history.column("log_px_out")).all() == (outliers is None)
    known = [k for k in COLUMNS if k != "log_px_out"]
    assert all(np.isfinite(history.column(k)).all() for k in known)
    assert not flow.training


@pytest.mark.parametrize("bytes_in, levels", [(True, 256), (False, 1)])
def test_bits_per_dimension_are_those_of_the_density(bytes_in, levels):
    x = images() if bytes_in else images() / 255.0
    flow = image_flow((3, 4, 4), blocks=2, hidden=4)
    how = Settings(steps=1, batch_size=64)
    with torch.no_grad():
        log_px = flow.log_prob(draw_batch(x, None, 0, 64, how)[0]).double().mean().item()
    (row,) = fit(flow, x, settings=how).rows
    assert row["log_px_id"] == pytest.approx(log_px, rel=1e-5)
    assert row["loss"] == pytest.approx(-log_px / 48, rel=1e-5)
    assert row["bpd_id"] == pytest.approx(-log_px / 48 / math.log(2) + math.log2(levels), rel=1e-5)


def test_none_is_silent(capsys):
    fit(plane_flow(), gaussian_points(), settings=Settings(steps=3))
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_lines_tell_label_share_loss_and_time(capsys, monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "lines")
    monkeypatch.setattr(progress, "LINE_AT_LEAST_EVERY_S", 0.0)
    fit(plane_flow(), gaussian_points(), settings=Settings(steps=4), label="photo mle 0")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].startswith("photo mle 0:  50% (2/4) loss ")
    assert "bpd" in lines[1] and lines[-1].endswith("eta 0 s")


def test_a_bar_is_drawn_where_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("FLOWOOD_PROGRESS", "bar")
    fit(plane_flow(), gaussian_points(), settings=Settings(steps=3), label="photo mle 0")
    shown = capsys.readouterr()
    assert shown.out == "" and "photo mle 0" in shown.err


# --- when it goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["points", "bytes and outliers"])
@pytest.mark.parametrize("step, block", [(0, 1), (3, 0)])
def test_nan_in_a_block_is_named_and_the_last_checkpoint_stays(problem, step, block):
    x, outliers, flow = PROBLEMS[problem]()
    calls, states = [], []

    def spoil(_module, _args, out):
        calls.append(1)
        return ((out[0][0] * math.nan,), out[1]) if len(calls) > step else None

    flow.blocks[block].register_forward_hook(spoil)
    with pytest.raises(NonFinite, match=f"at step {step}.*block {block} of {len(flow.blocks)}") as caught:
        fit(
            flow,
            x,
            outliers,
            settings=Settings(steps=9, batch_size=16),
            on_checkpoint=lambda state: states.append(copy.deepcopy(state)),
            checkpoint_every_s=0,
        )
    assert (caught.value.step, caught.value.block) == (step, block)
    assert isinstance(caught.value, FloatingPointError)
    assert [state["step"] for state in states] == list(range(1, step + 1))
    assert all(torch.isfinite(v).all() for v in flow.state_dict().values())
    if states:
        assert same(states[-1]["flow"], weights(flow)), "the bad step was not taken"


@pytest.mark.parametrize("clip", [1.0, 0])
def test_nan_in_the_data_is_called_the_batch(clip):
    x = gaussian_points(64)
    x[40, 1] = math.nan
    with pytest.raises(NonFinite, match="the batch itself holds nan or inf") as caught:
        fit(plane_flow(), x, settings=Settings(steps=4, batch_size=16, clip=clip))
    assert caught.value.block is None and caught.value.step < 4  # one epoch


def test_outliers_that_are_not_finite_are_called_the_batch():
    with pytest.raises(NonFinite, match="outlier function"):
        fit(plane_flow(), gaussian_points(), lambda x, p, *, rng: x / 0, settings=Settings(steps=4))


def test_a_gradient_that_is_not_finite_is_told_from_a_density_that_is_not():
    class Kink(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def log_prob(self, x):
            return x.sum(1) + self.a.sqrt()

    with pytest.raises(NonFinite, match="density is finite but its gradient is not"):
        fit(Kink(), gaussian_points(), settings=Settings(steps=2))


ERRORS = [
    (1, {}, "at least 2 samples"),
    (8, {"steps": 0}, "steps >= 1"),
    (8, {"steps": -3}, "steps >= 1"),
    (8, {"schedule": "linear"}, "'constant' or 'cosine', got 'linear'"),
    (8, {"outlier_prob": 1.5}, r"outlier_prob in \[0, 1\]"),
    (8, {"outlier_prob": -0.1}, r"outlier_prob in \[0, 1\]"),
    (8, {"outlier_prob": math.nan}, r"outlier_prob in \[0, 1\]"),
    (8, {"batch_size": 0}, "batch_size >= 1"),
    (8, {"micro_batch": -1}, "micro_batch >= 1"),
    (8, {"temperature": -1}, "temperature >= 0"),
]


@pytest.mark.parametrize("n, wrong, message", ERRORS)
def test_wrong_settings_are_named(n, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(plane_flow(), gaussian_points(n), settings=Settings(**wrong))
