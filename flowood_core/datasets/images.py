"""Images by name: sets embedded in installed packages (quick profile), and prepared arrays on disk.

A set of the registry that is not here is downloaded and prepared, once, when it is first asked for.

Everything is uint8, shaped (n, c, h, w), as stored on disk and never normalised: complexity and
Pillow-exact blur are defined on bytes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from flowood_core.complexity import codec_versions, image_complexity
from flowood_core.datasets import prepare, registry
from flowood_core.notebook import labels
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = [
    "EMBEDDED",
    "LABELS",
    "NOT_SHOWN",
    "ImageSet",
    "MissingData",
    "complexity_of",
    "digest",
    "embedded",
    "load",
    "load_prepared",
    "mixed_pool",
]

SIDE = 32
TILE = 64  # photographs are cut into tiles; a crop never crosses the border of its tile
STRIDE = 5
CROPS_BPD = {  # crops are sorted into sets by their complexity, as the paper orders its sets by theirs
    "photo": (6.5, 8.5),  # walls, leaves, tiles; CIFAR-10 has 6.7
    "smooth": (0.0, 5.0),  # sky, out-of-focus background; SVHN has 5.0
    "aliased": (8.0, 99.0),  # iSUN has 8.2
}

EMBEDDED = {
    "photo": "textured 32x32 crops of scikit-learn's two photographs (complex; the ID set of the quick profile)",
    "enlarged": "the middle of photo crops enlarged by 2, as by a digital zoom (simpler than photo, same content)",
    "smooth": "smooth 32x32 crops of the same photographs: sky and out-of-focus background (simple)",
    "digits": "scikit-learn's handwritten digits, 8x8 enlarged to 32x32, grey as RGB (simple)",
    "aliased": "textured crops after naive subsampling by 2, as iSUN was made (more complex than photo)",
}

LABELS = labels.names(labels.IMAGES)

NOT_SHOWN = frozenset({"faces_rmfd"})  # identifiable people: numbers may be published, pictures never


class MissingData(FileNotFoundError):
    """A data set is neither embedded nor prepared nor to be had; the message names the ways to supply it."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A named split of images.

    Attributes:
        name, split: what it is; `split` is train or test.
        x: uint8 (n, c, h, w).
        source: where it came from, for the provenance of a run.
    """

    name: str
    split: str
    x: UInt8[Tensor, "n c h w"]
    source: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)

    @property
    def pictures(self) -> UInt8[Tensor, "n c h w"]:
        """The images, to be shown.

        Raises:
            PermissionError: the set shows identifiable people (`NOT_SHOWN`); its numbers may be shown.
        """
        if self.name in NOT_SHOWN:
            raise PermissionError(
                f"pictures of {self.name!r} are never shown, they are of identifiable people; choose another set"
            )
        return self.x

    def first(self, n: int | None) -> "ImageSet":
        """The first n images (all when n is None or larger than the set)."""
        return self if n is None else dataclasses.replace(self, x=self.x[:n])

    def drawn(self, n: int | None, seed: int) -> "ImageSet":
        """n images drawn without replacement, seeded, in the drawn order (all when n is None or too large)."""
        if n is None or n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        return dataclasses.replace(self, x=self.x[torch.from_numpy(rng.permutation(len(self))[:n].copy())])

    def facts(self) -> dict[str, object]:
        """Count, shape, source and content hash: what a run records about its data."""
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self),
            "shape": list(self.x.shape[1:]),
            "source": self.source,
            "sha256": digest(self.x),
        }


def load(name: str, split: str) -> ImageSet:
    """Images of a set by name: embedded, else prepared under FLOWOOD_DATA (or data/), else fetched and prepared.

    A download goes below the data root, or below ``data/`` where the data root is read-only. FLOWOOD_OFFLINE=1
    forbids it, FLOWOOD_MIRROR names an address of your own to try first.

    Args:
        name: an id such as ``photo`` or ``cifar10``; `EMBEDDED` lists what needs no file, `registry.SETS` what
            can be fetched.
        split: ``train`` or ``test``.
    Raises:
        MissingData: no such set here; the message lists paths and addresses tried and what to do.
        ValueError: unknown split, or a file whose arrays are not uint8 images.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    if name in EMBEDDED:
        return embedded(name, split)
    if name in registry.SETS and _prepared_path(name, split) is None:
        try:
            prepare.prepare(name)
        except prepare.PrepareError as error:
            raise MissingData(_missing(name, split, str(error))) from error
    return load_prepared(name, split)


def load_prepared(name: str, split: str) -> ImageSet:
    """Read ``images/<name>_<split>.npz`` (key x: uint8 (n, h, w, c)) below the data root; fetches nothing."""
    path = _prepared_path(name, split)
    if path is None:
        raise MissingData(_missing(name, split))
    return ImageSet(name, split, _read_npz(path), f"prepared file {path.name}")


@functools.lru_cache(maxsize=16)
def embedded(name: str, split: str) -> ImageSet:
    """A set made from images inside installed packages; train and test come from disjoint image regions."""
    if name not in EMBEDDED:
        raise MissingData(f"expected one of the embedded sets {', '.join(EMBEDDED)}, got {name!r}")
    x = {"digits": _digits, "enlarged": _enlarged}.get(name, lambda split: _crops(name, split))(split)
    return ImageSet(name, split, x, EMBEDDED[name])


def mixed_pool(sets: list[ImageSet], n: int, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
    """Real outliers of the RO row: n images, equal shares of each set, drawn without replacement (A18).

    The paper's RO uses 10 % of the number of ID samples. Give the non-test splits.

    Raises:
        ValueError: no sets, or a set smaller than its share.
    """
    if not sets:
        raise ValueError("expected at least one set of real outliers, got none")
    shares = [n // len(sets) + (k < n % len(sets)) for k in range(len(sets))]
    for s, share in zip(sets, shares, strict=True):
        if len(s) < share:
            raise ValueError(
                f"expected at least {share} images of {s.name}/{s.split} for the pool, got {len(s)}"
            )
    return torch.cat([s.drawn(share, seed).x[:share] for s, share in zip(sets, shares, strict=True)])


def complexity_of(x: UInt8[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """C(x) of a whole set, as `complexity.image_complexity`, remembered by content below the outputs folder.

    The key is the bytes of the images and the codec that measured them, so that neither another set nor
    another version of Pillow ever reads a stale value. A cache that cannot be read or written is no error.
    """
    key = hashlib.sha256((digest(x) + repr(sorted(codec_versions().items()))).encode()).hexdigest()[:24]
    path = paths.outputs_root() / ".cache" / f"complexity-{key}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        return torch.from_numpy(np.load(path, allow_pickle=False))
    bpd = image_complexity(x)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, bpd.numpy(), allow_pickle=False)
        write_atomically(path, buffer.getvalue())
    return bpd


def digest(x: Tensor) -> str:
    """sha256 of shape and bytes of an array: tells whether two runs saw the same data."""
    h = hashlib.sha256(repr((str(x.dtype), tuple(x.shape))).encode())
    h.update(np.ascontiguousarray(x.numpy()).data)
    return h.hexdigest()


def _read_npz(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as f:
            x = f["x"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(
            f"expected a .npz file with an array 'x' at {path}, got {type(e).__name__}: {e}; "
            "the file may be truncated, copy or prepare it again"
        ) from e
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3) or len(x) == 0:
        raise ValueError(
            f"expected 'x' of {path.name} as uint8 (n, h, w, c) with c 1 or 3 and n > 0, got {x.dtype} {x.shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _prepared_path(name: str, split: str) -> Path | None:
    places = [root / "images" / f"{name}_{split}.npz" for root in paths.data_roots()]
    return next((path for path in places if path.is_file()), None)


def _missing(name: str, split: str, why: str = "") -> str:
    """What was looked for and where, why it could not be fetched, and the ways out."""
    first, *others = [root / "images" / f"{name}_{split}.npz" for root in paths.data_roots()]
    lines = [f"expected the {split} images of {name!r}, found no {first}."]
    lines += [f"  nor {path} (the data root is read-only)" for path in others]
    lines.append(f"  embedded sets (no file needed): {', '.join(EMBEDDED)}")
    found = sorted({stem for path in (first, *others) for stem in _prepared_names(path.parent)})
    lines.append(f"  prepared sets found here: {', '.join(found) or 'none'}")
    by_hand = (
        f"write the file yourself: numpy.savez({first.name!r}, x=array) with x uint8 shaped (n, h, w, c)"
    )
    if name in registry.SETS:
        lines += [f"  {line}" for line in why.splitlines()]
        archives = ", ".join(file.filename for file in registry.SETS[name].files)
        by_hand = f"put {archives} into {prepare.archive_folder(name)} and load again, or {by_hand}"
    else:
        lines.append(f"  sets that can be fetched: {', '.join(registry.SETS)}")
    return "\n".join(
        [
            *lines,
            "What to do, one of:",
            "  1. point FLOWOOD_DATA at a folder of prepared data (layout: data/README.md);",
            f"  2. {by_hand};",
            "  3. use profile=quick, which needs no data.",
        ]
    )


def _prepared_names(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*_*.npz")) if folder.is_dir() else []


def _digits(split: str) -> Tensor:
    from sklearn.datasets import load_digits

    small = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(a).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for a in small]
    )
    x = torch.from_numpy(large)[:, None].repeat(1, 3, 1, 1)
    return x[:797] if split == "train" else x[797:]


def _enlarged(split: str) -> Tensor:
    quarter = SIDE // 4
    middle = embedded("photo", split).x[:, :, quarter:-quarter, quarter:-quarter]
    return torch.stack([_resized(image) for image in middle])


def _resized(image: Tensor) -> Tensor:
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    large = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return torch.from_numpy(large).permute(2, 0, 1)


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def _crops(name: str, split: str) -> Tensor:
    """Windows that lie inside the tiles of one split, so that train and test share no pixel."""
    crops = []
    for image in _photographs():
        # naive subsampling, no smoothing: this is what makes iSUN complex. Four phases, four images
        views = [image[i::2, j::2] for i in (0, 1) for j in (0, 1)] if name == "aliased" else [image]
        for view in views:
            for row, column in np.ndindex(view.shape[0] // TILE, view.shape[1] // TILE):
                if ((row + 2 * column) % 4 == 0) != (split == "test"):
                    continue  # every fourth tile tests, spread over the photograph
                tile = view[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                windows = np.lib.stride_tricks.sliding_window_view(tile, (SIDE, SIDE), axis=(0, 1))
                crops.append(windows[::STRIDE, ::STRIDE].reshape(-1, 3, SIDE, SIDE))
    x = torch.from_numpy(np.concatenate(crops))
    bpd = complexity_of(x)
    low, high = CROPS_BPD[name]
    keep = (bpd >= low) & (bpd < high)
    # neighbouring windows share pixels: shuffle once, so that the first n are spread over the photographs
    order = torch.from_numpy(np.random.default_rng(0).permutation(int(keep.sum())))
    return x[keep][order]
