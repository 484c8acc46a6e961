"""FastFlow and CS-Flow beside anomalib's: the same backbone weights, flow weights and images, in two processes."""

import math
import os
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from flowood_core.features import backbones
from flowood_core.features.cs_flow import CSFlow, cs_flow
from flowood_core.features.map_flows import FastFlow, fast_flow

pytestmark = pytest.mark.skipif(
    not os.environ.get("FLOWOOD_ANOMALIB_PYTHON"),
    reason="on demand: FLOWOOD_ANOMALIB_PYTHON=python of an environment with anomalib",
)

# Runs where anomalib is. Backbones are made without weights and then filled; nothing is downloaded.
THERE = """
import sys
from importlib.metadata import version
import numpy as np, timm, torch, torchvision
from torch import nn
folder, kind = sys.argv[1], sys.argv[2]
given = {k: torch.from_numpy(v) for k, v in np.load(f"{folder}/given.npz").items()}
state = {k[9:]: v for k, v in given.items() if k.startswith("backbone.")}
settings = {k[4:]: v.item() for k, v in given.items() if k.startswith("set.")}
convs = lambda net: [m for m in net.modules() if isinstance(m, nn.Conv2d)]
out = {}

@torch.no_grad()
def fill(conv, name):
    conv.weight.copy_(given[f"{name}.weight"]); conv.bias.copy_(given[f"{name}.bias"])

if kind == "csflow":
    from anomalib.models.image.csflow import torch_model as csflow
    plain = torchvision.models.efficientnet_b5(weights=None)
    missing, _ = plain.load_state_dict({"features." + k[len("stages.0."):]: v for k, v in state.items()}, strict=False)
    assert all(k.startswith(("features.7", "features.8", "classifier")) for k in missing), missing
    csflow.efficientnet_b5 = lambda weights: plain
    size = int(settings["size"])
    model = csflow.CsFlowModel((size, size), int(settings["hidden"]), int(settings["blocks"])).double().eval()
    cross = [n for n in model.graph.graph.module_list if isinstance(n, csflow.ParallelGlowCouplingLayer)]
    moves = [n for n in model.graph.graph.module_list if isinstance(n, csflow.ParallelPermute)]
    for b, (coupling, move) in enumerate(zip(cross, moves, strict=True)):
        move.perm = [given[f"{b}.permutation.{k}"] for k in range(3)]
        for net, of in ((coupling.cross_convolution1, "of_first"), (coupling.cross_convolution2, "of_second")):
            for k in range(3):
                fill(getattr(net, f"conv_scale{k}_0"), f"{b}.{of}.first.{k}")
                fill(getattr(net, f"conv_scale{k}_1"), f"{b}.{of}.same.{k}")
                setattr(net, f"gamma{k}", nn.Parameter(given[f"{b}.{of}.gamma.{k}"]))
            for k, (up, down) in enumerate((("up_conv10", "down_conv01"), ("up_conv21", "down_conv12"))):
                fill(getattr(net, up), f"{b}.{of}.up.{k}"); fill(getattr(net, down), f"{b}.{of}.down.{k}")
    torch.set_default_dtype(torch.float64)  # not before: FrEIA's permutations are made in single precision
    with torch.no_grad():
        maps = [model.feature_extractor.feature_extractor(given[f"image.{k}"])["features.6.8"] for k in range(3)]
        z, ladj = model.graph(maps)
        out["score"] = model._compute_anomaly_scores(z)
        csflow.ParallelGlowCouplingLayer.log_e = lambda self, s: self.clamp * 2 / torch.pi * torch.atan(s / self.clamp)
        exact, out["exact.ladj"] = model.graph(maps)
        out |= {f"exact.z.{k}": m for k, m in enumerate(exact)}
else:
    from anomalib.models.image.fastflow.torch_model import FastflowModel
    size = int(settings["size"])
    only_3x3 = bool(settings["only_3x3"])
    model = FastflowModel((size, size), kind, False, int(settings["blocks"]), only_3x3, settings["ratio"])
    model = model.double().train()
    model.feature_extractor.eval()
    names = {"stages.0": "layer1", "stages.1": "layer2", "stages.2": "layer3",
             "stem.0": "conv1", "stem.1": "bn1"}
    renamed = {next(new + k[len(old):] for old, new in names.items() if k.startswith(old)): v for k, v in state.items()}
    missing, unknown = model.feature_extractor.load_state_dict(renamed, strict=False)
    assert not unknown and all(k.startswith("layer4") for k in missing), (missing, unknown)
    for i, (norm, flow) in enumerate(zip(model.norms, model.fast_flow_blocks, strict=True)):
        with torch.no_grad():
            norm.weight.copy_(given[f"{i}.norm.weight"]); norm.bias.copy_(given[f"{i}.norm.bias"])
        for j, block in enumerate(flow.module_list):
            with torch.no_grad():
                block.global_scale.copy_(given[f"{i}.{j}.global_scale"])
                block.global_offset.copy_(given[f"{i}.{j}.global_offset"])
                p = given[f"{i}.{j}.permutation"]
                w = torch.zeros(len(p), len(p)); w[torch.arange(len(p)), p] = 1.0
                block.w_perm.copy_(w.view_as(block.w_perm))
            for c, conv in enumerate(convs(block.subnet)):
                fill(conv, f"{i}.{j}.conv.{c}")
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        maps = model.feature_extractor(given["image.0"])
        z, ladj = model(given["image.0"])
        out["score"] = model.anomaly_map_generator(z).amax((-2, -1))
        out["anomaly_map"] = model.anomaly_map_generator(z)
        ladj = sum(ladj)
out |= {f"h.{k}": m for k, m in enumerate(maps)} | {f"z.{k}": m for k, m in enumerate(z)} | {"ladj": ladj}
np.savez(f"{folder}/found.npz", **{k: v.numpy() for k, v in out.items()})
print("anomalib", version("anomalib"), "torch", torch.__version__, "timm", timm.__version__, "FrEIA", version("FrEIA"))
"""


def shaken(flow):
    """Weights away from their start, where couplings are nearly the identity; gentle, so that rounding stays small."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * p.abs().mean().clamp_min(0.1) * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return flow.eval()


def conv(name, of: nn.Conv2d):
    return {f"{name}.weight": of.weight, f"{name}.bias": of.bias}


def weights_of_fast_flow(flow: FastFlow):
    given = {}
    for i, (norm, blocks) in enumerate(zip(flow.norms, flow.flows, strict=True)):
        given |= {f"{i}.norm.weight": norm.weight, f"{i}.norm.bias": norm.bias}
        for j, block in enumerate(blocks):
            of = ("global_scale", "global_offset", "permutation")
            given |= {f"{i}.{j}.{name}": getattr(block, name) for name in of}
            for c, m in enumerate(m for m in block.subnet.modules() if isinstance(m, nn.Conv2d)):
                given |= conv(f"{i}.{j}.conv.{c}", m)
    return given


def weights_of_cs_flow(flow: CSFlow):
    given = {}
    for b, block in enumerate(flow.couplings):
        given |= {f"{b}.permutation.{k}": block._permutation(k) for k in range(3)}
        for name in ("of_first", "of_second"):
            net = getattr(block, name)
            given |= {f"{b}.{name}.gamma.{k}": gamma for k, gamma in enumerate(net.gamma)}
            for part in ("first", "same", "up", "down"):
                for k, m in enumerate(getattr(net, part)):
                    given |= conv(f"{b}.{name}.{part}.{k}", m)
    return given


def found_there(folder, kind, flow, given, images, **settings):
    """What anomalib makes of these weights and images: features h, z, ladj and score, as tensors; prints versions."""
    given = given | {f"backbone.{k}": v for k, v in flow.backbone.net.state_dict().items()}
    given |= {f"image.{k}": v for k, v in enumerate(images)}
    given |= {f"set.{k}": torch.tensor(v) for k, v in settings.items()}
    np.savez(folder / "given.npz", **{k: v.detach().numpy() for k, v in given.items()})
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [os.environ["FLOWOOD_ANOMALIB_PYTHON"], "-c", THERE, str(folder), kind],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout.strip().splitlines()[-1])
    with np.load(folder / "found.npz") as f:
        return {k: torch.from_numpy(f[k]) for k in f.files}


def gap(a, b):
    """Largest difference relative to the largest value."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


def pictures(size):
    g = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, size, size, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["resnet18", "wide_resnet50_2"])
@torch.no_grad()
def test_fast_flow_is_anomalibs(kind, tmp_path):
    """Features, z, log-det, map and score; the log-det without that of the layer norm, which is the published loss.

    Done with anomalib 2.7.0, torch 2.15.0+cu132, timm 1.0.31, FrEIA 0.2, Python 3.11.7, double precision, CPU: largest
    relative difference 5e-16 for both backbones, features the same bits.
    """
    size, blocks, ratio = 64, 4, 0.16
    flow = fast_flow(backbones.load(f"{kind}:untrained"), size, blocks=blocks, hidden_ratio=ratio)
    flow = shaken(flow.double())
    x = pictures(size)
    images = [flow.backbone.normalise(256 * x - 0.5)]
    settings = {"size": size, "blocks": blocks, "ratio": ratio, "only_3x3": kind == "resnet18"}
    there = found_there(tmp_path, kind, flow, weights_of_fast_flow(flow), images, **settings)
    h = flow.features(x)
    flow.count_norm = False  # theirs is the published loss
    z, ladj = flow.transform(h)
    gaps = {"ladj": gap(ladj, there["ladj"]), "score": gap(flow._score(z), there["score"].flatten())}
    gaps |= {f"h.{k}": gap(m, there[f"h.{k}"]) for k, m in enumerate(h)}
    gaps |= {f"z.{k}": gap(m, there[f"z.{k}"]) for k, m in enumerate(z)}
    gaps["map"] = gap(flow.score_maps(x), there["anomaly_map"].reshape(3, size, size))
    print(kind, {name: f"{value:.0e}" for name, value in gaps.items()})
    assert max(gaps.values()) < 1e-9


@torch.no_grad()
def test_cs_flow_is_anomalibs_but_for_its_sum_over_the_batch(tmp_path):
    """Features, z and score; its log-det is the sum over the batch for every image, ours is each image's own.

    Its coupling rounds 2/pi to 0.636. Done with anomalib 2.7.0, torch 2.15.0+cu132, timm 1.0.31, FrEIA 0.2,
    Python 3.11.7, double precision, CPU: the same bits with 2/pi; 1e-6 in z and 1e-3 in the log-det as it is.
    """
    size, hidden, blocks = 256, 8, 4
    flow = shaken(
        cs_flow(backbones.load("efficientnet_b5:untrained"), size, hidden=hidden, blocks=blocks).double()
    )
    x, seen = pictures(size), []
    hook = flow.backbone.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    h = flow.features(x)
    hook.remove()
    settings = {"size": size, "hidden": hidden, "blocks": blocks}
    there = found_there(tmp_path, "csflow", flow, weights_of_cs_flow(flow), seen, **settings)
    z, ladj = flow.transform(h)
    gaps = {f"h.{k}": gap(m, there[f"h.{k}"]) for k, m in enumerate(h)}
    gaps |= {f"z.{k}": gap(m, there[f"exact.z.{k}"]) for k, m in enumerate(z)}
    summed = ladj.sum().expand(len(x))  # theirs: each image has the log-determinant of the whole batch
    gaps["summed ladj"] = gap(summed, there["exact.ladj"])
    rounded = {f"z.{k}": gap(m, there[f"z.{k}"]) for k, m in enumerate(z)}
    rounded |= {"score": gap(flow._score(z), there["score"]), "summed ladj": gap(summed, there["ladj"])}
    for name, of in (("2/pi", gaps), ("0.636", rounded)):
        print(name, {k: f"{value:.0e}" for k, value in of.items()})
    assert gap(ladj, there["exact.ladj"]) > 0.5
    assert max(gaps.values()) < 1e-9
    assert max(rounded.values()) < 10 * (2 / math.pi - 0.636)
