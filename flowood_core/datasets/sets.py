"""A named split of images, its complexity and its fingerprint of bytes."""

import contextlib
import dataclasses
import hashlib
import io

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flowood_core.complexity import codec_versions, image_complexity
from flowood_core.notebook import labels
from flowood_core.system import paths
from flowood_core.system.files import write_atomically

__all__ = ["LABELS", "NOT_SHOWN", "ImageSet", "MissingData", "complexity_of", "digest"]

LABELS = labels.names(labels.IMAGES)

NOT_SHOWN = frozenset(
    {"faces_rmfd", "celeba"}
)  # identifiable people: numbers may be published, pictures never


class MissingData(FileNotFoundError):
    """A data set is neither embedded nor prepared nor to be had; the message names the ways to supply it."""


class MissingPool(MissingData):
    """The real outliers of one training are not here; other trainings on the same ID set may have all they need."""


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
