"""Complexity of the data: C(x) of an image by JPEG2000, C(X) of a text corpus by gzip (section 2.1).

C depends on the encoder and on its options as much as on the image, so both are fixed here and recorded by
`codec_versions`: lossless 5-3 wavelet, no colour transform, the .jp2 container counted. With other common
choices CIFAR-10 costs 5.4 (colour transform on) or a constant 2.0 (a lossy default) instead of 6.75.

torch is imported only where a tensor is returned: the worker processes start without it.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

PARTS = ("container", "codestream", "payload")
ENCODERS = ("pillow", "glymur")

_OLDEST_OPENJPEG = (2, 4)  # glymur refuses older ones
_MAX_RESOLUTIONS = 6  # OpenJPEG's default: five decompositions
_MAX_CHUNK = 256  # images per task, so that the bar moves and the workers end together


# --- images ----------------------------------------------------------------------------------------------


def image_complexity(
    x: torch.Tensor | np.ndarray,
    *,
    part: str = "container",
    encoder: str = "pillow",
    colour_transform: bool = False,
    workers: int | str = 1,
    progress: bool = False,
) -> torch.Tensor:
    """Image complexity C(x) = L(x) / d, Definition 1.

    L is the length in bits of the lossless JPEG2000 encoding of one image, d = c*h*w. The headers count, as
    in the paper's Table 7: a black image costs 253 bytes = 0.66 bits per dimension at 3 x 32 x 32 and 0.01 at
    3 x 256 x 256, and noise at 3 x 32 x 32 costs 9.96, more than the 8 bits it is stored in.

    Args:
        x: 8-bit images as stored on disk (not normalised), shaped (b, c, h, w), c = 1 or 3.
        part: which bytes are counted.
            "container"   the .jp2 file; the paper's choice.
            "codestream"  without the boxes around it, 85 bytes less at every size.
            "payload"     the container minus that of a black image of the same shape (253 bytes at
                          3 x 32 x 32), so that black costs 0, and white at that shape. Other greys differ by
                          a few bytes (244 for 128, whose wavelet coefficients all vanish, 250 to 259 for the
                          rest), so that a featureless image may come out a little below 0.
        encoder: "pillow" (in memory) or "glymur" (through a file, slower). They give the same
            bytes where they use the same OpenJPEG; the second exists as a check on the first.
        colour_transform: off in the paper, so that the channels are coded one by one and a grey picture costs as much
            as a coloured one. On, what they share is coded once: a picture that is simple in its colours is cheap.
        workers: processes; "all" takes every core this process may use. The result does not depend on it.
        progress: show a bar that counts images.
    Returns:
        One value per image, float64 shaped (b,), in bits per dimension; higher is more complex.
    Raises:
        TypeError: x is not uint8. C of a normalised image is another quantity.
        ValueError: the shape is not (b, c, h, w) with c = 1 or 3, the batch is empty, an option is unknown.
    Source: paper section 2.1; values to expect in Tables 7 and 8. Serra et al. (2020).
    """
    _check_option("part", part, PARTS)
    _check_option("encoder", encoder, ENCODERS)
    n_workers = _n_workers(workers)
    images = _images(x)
    n, d = len(images), math.prod(images.shape[1:])

    options = part != "codestream", encoder, colour_transform
    size = min(_MAX_CHUNK, math.ceil(n / (4 * n_workers)))
    chunks = [images[i : i + size] for i in range(0, n, size)]
    n_bytes = np.concatenate(list(_lengths_of_chunks(chunks, options, n_workers, progress)))
    if part == "payload":
        black = np.zeros(images.shape[1:], dtype=np.uint8)
        n_bytes = n_bytes - len(_encode(black, *options))

    import torch

    return torch.from_numpy(8.0 * n_bytes / d)


def jpeg2000_bytes(
    image: torch.Tensor | np.ndarray, *, container: bool = True, encoder: str = "pillow"
) -> bytes:
    """The lossless JPEG2000 encoding of one 8-bit image shaped (c, h, w): the bytes whose length is L(x).

    Args:
        image: uint8, c = 1 or 3.
        container: the .jp2 file (the paper's), or the bare codestream.
        encoder: "pillow" or "glymur".
    Returns:
        A complete file; any JPEG2000 reader gives the identical image back.
    Raises:
        TypeError, ValueError: as `image_complexity`.
    """
    _check_option("encoder", encoder, ENCODERS)
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 3:
        raise ValueError(f"expected one image shaped (c, h, w), got {type(image).__name__} shaped {shape}")
    return _encode(_images(image[None])[0], container, encoder)


def codec_versions() -> dict[str, str | bool | None]:
    """What C depends on besides the data, for the provenance of a result.

    Returns:
        Versions of Pillow, of the OpenJPEG inside it and of zlib (behind gzip), and the options held fixed.
    """
    import PIL
    from PIL import features

    return {
        "pillow": PIL.__version__,
        "openjpeg": features.version("jpg_2000"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "container": "jp2",
        "lossless": True,
        "mct": False,
    }


def _lengths_of_chunks(
    chunks: list[np.ndarray], options: tuple[bool, str, bool], n_workers: int, progress: bool
) -> Iterator[np.ndarray]:
    """File lengths in bytes, chunk by chunk and in order, here or in `n_workers` processes."""
    from tqdm.auto import tqdm

    with tqdm(total=sum(map(len, chunks)), desc="C(x)", unit="img", disable=not progress) as bar:
        if n_workers == 1 or len(chunks) == 1:
            results = (_lengths(chunk, *options) for chunk in chunks)
        else:
            from joblib import Parallel, delayed

            # Chunks are small: pickled, they need no memory-mapped files that someone has to clean up.
            pool = Parallel(n_jobs=n_workers, return_as="generator", max_nbytes=None)
            results = pool(delayed(_lengths)(chunk, *options) for chunk in chunks)
        for lengths in results:
            bar.update(len(lengths))
            yield lengths


def _lengths(images: np.ndarray, *options: Any) -> np.ndarray:
    return np.array([len(_encode(image, *options)) for image in images])


def _encode(image: np.ndarray, container: bool, encoder: str, mct: bool = False) -> bytes:
    pixels = np.ascontiguousarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    return (_encode_pillow if encoder == "pillow" else _encode_glymur)(pixels, container, mct)


def _encode_pillow(pixels: np.ndarray, container: bool, mct: bool) -> bytes:
    from PIL import Image, Jpeg2KImagePlugin, features  # noqa: F401  (the plug-in alone; save would load all)

    if not features.check("jpg_2000"):
        raise RuntimeError(
            "expected a Pillow with JPEG2000, got one built without OpenJPEG; install Pillow's own wheel "
            "(pip install --force-reinstall pillow), or conda's pillow, or OpenJPEG itself and pass "
            "encoder='glymur'"
        )
    buffer = io.BytesIO()
    # Pillow's defaults, spelled out so that a change of defaults cannot move a table.
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False, mct=int(mct), no_jp2=not container)
    return buffer.getvalue()


def _encode_glymur(pixels: np.ndarray, container: bool, mct: bool) -> bytes:
    glymur = _import_glymur()
    # glymur insists on six resolutions; Pillow takes as many as the shorter side can be halved.
    resolutions = min(_MAX_RESOLUTIONS, min(pixels.shape[:2]).bit_length())
    mct = mct if pixels.ndim == 3 else None  # glymur's default for RGB is on; grey may not even say off
    with tempfile.TemporaryDirectory() as folder:  # a fresh name each time: glymur reads a file that is there
        file = Path(folder) / ("x.jp2" if container else "x.j2k")
        glymur.Jp2k(file, data=pixels, mct=mct, numres=resolutions)
        return file.read_bytes()


@functools.cache
def _import_glymur():
    """glymur with an OpenJPEG under it: the system's, else the one inside Pillow's wheel."""
    glymur = _glymur_or_explain()
    if glymur.version.openjpeg_version_tuple >= _OLDEST_OPENJPEG:
        return glymur
    found = glymur.version.openjpeg_version
    library = _pillow_openjpeg()
    if library is not None:
        # glymur looks for the library, and lays out its C structures to fit it, only while it is imported.
        for name in [name for name in sys.modules if name.split(".")[0] == "glymur"]:
            del sys.modules[name]
        with _glymurrc(library):
            glymur = _glymur_or_explain()
        if glymur.version.openjpeg_version_tuple >= _OLDEST_OPENJPEG:
            return glymur
    got = "none" if found == "0.0.0" else f"version {found}"
    raise RuntimeError(
        f"expected OpenJPEG 2.4 or newer for encoder='glymur', got {got} (on the system, in a glymurrc, in "
        "Pillow's wheel); pass encoder='pillow', which gives the same bytes, or install it (apt install "
        "libopenjp2-7, conda install openjpeg, brew install openjpeg), or name its file in a glymurrc, under "
        "[library] as openjp2"
    )


def _glymur_or_explain():
    try:
        import glymur
    except ImportError as error:
        raise ImportError(
            f"expected glymur for encoder='glymur', got {error}; pip install glymur packaging, or conda "
            "install glymur, or pass encoder='pillow', which gives the same bytes"
        ) from error
    return glymur


def _pillow_openjpeg() -> Path | None:
    """The libopenjp2 that came inside Pillow's wheel (Linux, macOS), if it did."""
    import PIL

    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package.parent / "Pillow.libs", package / ".dylibs"):
        for library in sorted(folder.glob("libopenjp2*")):
            return library
    return None


@contextlib.contextmanager
def _glymurrc(library: Path) -> Iterator[None]:
    """A glymurrc that names `library`, in force inside the block only."""
    before = os.environ.get("XDG_CONFIG_HOME")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "glymur" / "glymurrc"
        config.parent.mkdir()
        escaped = str(library).replace("%", "%%")  # glymur reads it with interpolation on
        config.write_text(f"[library]\nopenjp2: {escaped}\n", encoding="utf-8")
        os.environ["XDG_CONFIG_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CONFIG_HOME"]
            else:
                os.environ["XDG_CONFIG_HOME"] = before


def _images(x: torch.Tensor | np.ndarray) -> np.ndarray:
    """x as a uint8 array (b, c, h, w), or an error that says what to change."""
    dtype = getattr(x, "dtype", type(x).__name__)
    if str(dtype).removeprefix("torch.") != "uint8":
        raise TypeError(
            f"expected uint8 images 0..255 shaped (b, c, h, w), got {dtype}; C of a normalised image is "
            "another quantity, so pass the images as stored on disk"
        )
    images = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    shape = images.shape
    if images.ndim != 4:
        hint = "; for one image pass x[None]" if images.ndim == 3 else ""
        raise ValueError(f"expected images shaped (b, c, h, w), got {shape}{hint}")
    if shape[1] not in (1, 3):
        hint = (
            "; these look channel-last, so pass x.permute(0, 3, 1, 2) (numpy: x.transpose(0, 3, 1, 2))"
            if shape[-1] in (1, 3)
            else ""
        )
        raise ValueError(f"expected images shaped (b, c, h, w) with c = 1 or 3, got {shape}{hint}")
    if images.size == 0:
        raise ValueError(f"expected at least one image with at least one pixel, got shape {shape}")
    return images


def _n_workers(workers: int | str) -> int:
    if workers == "all":
        from joblib import cpu_count

        return cpu_count()
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"expected workers to be 1 or more, or 'all', got {workers!r}")
    return workers


def _check_option(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, valid))}, got {value!r}")


# --- text ------------------------------------------------------------------------------------------------


def text_complexity(texts: Iterable[str], *, joiner: str = " ", level: int = 9) -> float:
    """Text complexity C(X) of a corpus, in bits per UTF-8 byte; higher is more complex.

    All texts are joined and compressed by gzip as one; d is the length of the joined corpus in bytes. Section
    2.1 defines d as the number of texts, which must be an erratum: that would be about 12,000 bits for the
    movie reviews whose C Table 9 prints as 3.05, and 3.05 is what gzip gives per byte of them joined.

    C(X) compares corpora, not texts: compressed one by one the same reviews cost 3.86, since a short text has
    nothing before it to refer to.

    Args:
        texts: the corpus. The order counts in the third digit, as gzip looks back 32 kB: the movie reviews
            cost 3.055 class by class, as they are distributed, and 3.060 shuffled.
        joiner: what stands between two texts; its bytes are part of d.
        level: gzip's effort, 1 to 9. Table 9 fits 9.
    Returns:
        8 * (bytes of the gzip file) / (bytes of the joined corpus).
    Raises:
        TypeError: a bare string instead of a list of them, or an item that is not a string.
        ValueError: no text, nothing but empty texts, or a level outside 1 to 9.
    Source: paper section 2.1; values to expect in Table 9.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"expected a list of texts, got one {type(texts).__name__}; for a single text pass [text]"
        )
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"expected every text to be a str, got {type(text).__name__} at position {i}")
    if level not in range(1, 10):
        raise ValueError(f"expected a gzip level from 1 to 9, got {level!r}")
    corpus = joiner.join(texts).encode("utf-8")
    if not corpus:
        raise ValueError(f"expected at least one text that is not empty, got {len(texts)} texts of 0 bytes")
    return 8 * len(gzip.compress(corpus, compresslevel=level, mtime=0)) / len(corpus)
