"""Text outliers x' (section 2.2.2): shorter sentences and simpler words.

A text is split into sentences, those of more than 20 words are dropped, and in the rest each noun, verb,
adjective and adverb becomes the first synonym that WordNet gives for it. No step is random: an outlier is a function
of the text and of the resources, made once and remembered.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowood_core.system import paths
from flowood_core.system.files import write_atomically
from flowood_core.system.progress import track

__all__ = ["Lexicon", "MissingResource", "length_facts", "sentences", "simplify", "simplify_all"]

POS = {"NN": "n", "VB": "v", "JJ": "a", "RB": "r"}  # Penn tags by their first two letters
NEEDED = {
    "punkt_tab": "tokenizers/punkt_tab/english/",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng/",
    "wordnet": "corpora/wordnet.zip/wordnet/",
}
DEBIAN = Path("/usr/share/wordnet")  # the package wordnet-base
CHUNK = 256  # texts written to the cache at a time
LONG = (
    10_000  # characters: what has no full stop for so long is no prose, and some patterns take time squared
)


class MissingResource(LookupError):
    """WordNet, the tagger or the sentence splitter is not on this machine; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """What the outliers need to know about English: sentences, parts of speech, synonyms.

    Attributes:
        synonyms: True for WordNet's, False for the length filter alone.
        sources: resource: where it was found.
    """

    synonyms: bool
    sources: dict[str, str]

    @classmethod
    def load(cls, synonyms: str = "wordnet") -> "Lexicon":
        """Find the resources: ``nltk_data`` below FLOWOOD_DATA, NLTK's own folders, a download, wordnet-base.

        Args:
            synonyms: "wordnet" is the paper; "none" leaves the words as they are and needs no resource;
                "auto" takes WordNet where it is on the machine already and never downloads.
        Raises:
            MissingResource: with "wordnet", if one cannot be had; names the ways to get it.
        """
        if synonyms not in ("wordnet", "none", "auto"):
            raise ValueError(f"expected synonyms to be wordnet, none or auto, got {synonyms!r}")
        if synonyms == "none":
            return cls(False, {})
        found = {name: _find(name, may_download=synonyms == "wordnet") for name in NEEDED}
        missing = [name for name, where in found.items() if where is None]
        own = paths.data_roots()[-1] / "nltk_data"
        if not missing:
            return cls(True, {name: str(where) for name, where in found.items()})
        if synonyms == "auto":
            return cls(False, {})
        raise MissingResource(
            f"expected NLTK's {', '.join(NEEDED)}, found no {', '.join(missing)}.\n"
            f"  looked in {own}, in NLTK_DATA and NLTK's usual folders, and "
            + ("did not download: FLOWOOD_OFFLINE is set\n" if paths.is_offline() else "tried to download\n")
            + "What to do, one of:\n"
            f"  1. with a network: python -m nltk.downloader -d {own} {' '.join(missing)}\n"
            "  2. copy an nltk_data folder there, or set NLTK_DATA to one (WordNet alone: Debian's wordnet-base)\n"
            '  3. synonyms="none": the length filter alone, which is not the paper\'s outlier'
        )

    def __str__(self) -> str:
        if not self.synonyms:
            return "length filter only, no synonyms"
        return "; ".join(f"{name} from {where}" for name, where in self.sources.items())

    def facts(self) -> str:
        """The same without the folders of this machine, for what a run records."""
        if not self.synonyms:
            return str(self)
        parts = {name: where.replace("\\", "/").split("/nltk_data/") for name, where in self.sources.items()}
        return "; ".join(f"{name} from {'nltk_data/' * (len(p) > 1)}{p[-1]}" for name, p in parts.items())


def sentences(text: str, lexicon: Lexicon) -> list[str]:
    """Sentences of a text by NLTK's Punkt: trained on English where the lexicon has synonyms, else by full stops."""
    return _splitter(lexicon.synonyms)(text.replace("<br />", " "))


def simplify(text: str, lexicon: Lexicon, *, max_words: int = 20) -> str:
    """The synthetic outlier x' of one text.

    Args:
        text: any English text; HTML line breaks count as blanks.
        lexicon: from `Lexicon.load`.
        max_words: longest sentence that stays, in words between blanks; 20 in the paper (DECISIONS.md A26).
    Returns:
        The remaining sentences with their words replaced by the first lemma of the first synset that differs
        from the word (A27), joined by a blank. When every sentence is too long, the shortest one stays, so
        that no outlier is empty. A sentence of more than 10,000 characters keeps its words.
    Raises:
        TypeError, ValueError: not a string, or max_words < 1.
    Source: paper section 2.2.2; details decoded from the third row of Table 11.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected a text, got {type(text).__name__}")
    if max_words < 1:
        raise ValueError(f"expected max_words >= 1, got {max_words}; the paper uses 20")
    found = sentences(text, lexicon)
    if not found:
        return text.strip()
    kept = [s for s in found if len(s.split()) <= max_words] or [min(found, key=lambda s: len(s.split()))]
    if lexicon.synonyms:
        kept = [_replace_words(s) for s in kept]
    return " ".join(kept)


def simplify_all(
    texts: Sequence[str], lexicon: Lexicon, *, max_words: int = 20, processes: int | None = None
) -> list[str]:
    """`simplify` of many texts, over processes, with progress, and remembered by content.

    Each finished chunk is written below the outputs folder, so that a killed call continues where it was.

    Args:
        texts, lexicon, max_words: as in `simplify`.
        processes: None takes all cores when there is enough to do; 1 stays in this process.
    Raises:
        TypeError: one of them is not a string; known before the first is begun.
    """
    texts = list(texts)
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(
            f"expected texts, got {type(texts[wrong]).__name__} at position {wrong}; leave it out"
        )
    chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
    files = [_cache_file(chunk, lexicon, max_words) for chunk in chunks]
    done = {i: found for i, file in enumerate(files) if (found := _read(file, len(chunks[i]))) is not None}
    waiting = [i for i in range(len(chunks)) if i not in done]
    if processes is None:
        processes = min(len(waiting), _cores())
    with track(len(texts), "text outliers", sum(len(chunks[i]) for i in done)) as progress:
        for i, made in _made(chunks, waiting, lexicon, max_words, processes):
            done[i] = made
            with contextlib.suppress(OSError):  # a cache that cannot be written is no error
                files[i].parent.mkdir(parents=True, exist_ok=True)
                write_atomically(files[i], json.dumps(made).encode())
            progress.update(len(made))
    return [text for i in range(len(chunks)) for text in done[i]]


def length_facts(texts: Sequence[str], lexicon: Lexicon, *, max_words: int = 20) -> dict[str, int]:
    """What the length filter does to these texts, for the report.

    Returns:
        Counts: texts, empty texts, texts all of whose sentences are too long (their shortest one stays, A26),
        sentences, and sentences longer than max_words.
    """
    facts = dict.fromkeys(("texts", "empty", "all_too_long", "sentences", "too_long"), 0)
    for text in texts:
        lengths = [len(sentence.split()) for sentence in sentences(text, lexicon)]
        n_long = sum(n > max_words for n in lengths)
        facts["texts"] += 1
        facts["empty"] += not lengths
        facts["all_too_long"] += bool(lengths) and n_long == len(lengths)
        facts["sentences"] += len(lengths)
        facts["too_long"] += n_long
    return facts


# --- words -------------------------------------------------------------------------------------------------


def _replace_words(sentence: str) -> str:
    if len(sentence) > LONG:
        return sentence
    tokens = _tokenizer().tokenize(sentence)
    tagged = _tagger().tag(tokens)
    words = [_synonym(word, POS[tag[:2]]) if tag[:2] in POS else word for word, tag in tagged]
    if words and words[0] != tokens[0] and tokens[0][:1].isupper():
        words[0] = words[0][:1].upper() + words[0][1:]
    return _detokenizer().detokenize(words)


@functools.lru_cache(maxsize=200_000)
def _synonym(word: str, pos: str) -> str:
    synsets = _wordnet().synsets(word, pos)
    if not synsets:
        return word
    lemmas = (lemma.replace("_", " ") for lemma in synsets[0].lemma_names())
    return next((lemma for lemma in lemmas if lemma.lower() != word.lower()), word)


@functools.cache
def _splitter(trained: bool):
    _search()
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer

    # without its model Punkt still knows full stops, but no abbreviations
    splitter = PunktTokenizer("english") if trained else PunktSentenceTokenizer()
    rules = splitter._lang_vars
    rules._re_period_context = _unguarded(rules.period_context_re())  # one clock for all of a long text
    return splitter.tokenize


@functools.cache
def _tokenizer():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return _without_clocks(NLTKWordTokenizer())


@functools.cache
def _tagger():
    _search()
    from nltk.tag.perceptron import PerceptronTagger

    tagger = PerceptronTagger()  # nltk.pos_tag makes one for every call
    tagger.model = _Perceptron(tagger.model)
    return tagger


class _Perceptron:
    """NLTK's averaged perceptron with its weights in one table: the same sums in the same order, many at a time."""

    def __init__(self, model: Any):
        self.labels = sorted(model.classes)
        column = {label: k for k, label in enumerate(self.labels)}
        self.row = {feature: k for k, feature in enumerate(model.weights)}
        self.weights = np.zeros((len(self.row), len(self.labels)))
        for k, weights in enumerate(model.weights.values()):
            self.weights[k, [column[label] for label in weights]] = list(weights.values())

    def predict(self, features: Iterable[str], return_conf: bool = False) -> tuple[str, None]:
        """Label of the largest sum, the last in the alphabet among equals; each feature is there once."""
        known = [self.row[feature] for feature in features if feature in self.row]
        scores = self.weights[np.array(known, dtype=np.intp)].sum(0)
        return self.labels[len(scores) - 1 - int(scores[::-1].argmax())], None


@functools.cache
def _detokenizer():
    from nltk.tokenize.treebank import TreebankWordDetokenizer

    return _without_clocks(TreebankWordDetokenizer())


def _without_clocks(tool: Any) -> Any:
    """The tool with all its patterns unguarded."""
    for name, value in vars(type(tool)).items():
        if name.isupper():
            setattr(tool, name, _unguarded(value))
    return tool


def _unguarded(patterns: Any) -> Any:
    """The same patterns, in lists or not, as Python's own `re` has them.

    NLTK has each watched by a clock, which takes half of the time of short sentences and breaks off long texts.
    """
    if isinstance(patterns, list | tuple):
        return type(patterns)(map(_unguarded, patterns))
    if hasattr(patterns, "pattern") and not isinstance(patterns, re.Pattern):
        known = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE
        return re.compile(patterns.pattern, patterns.flags & known)
    return patterns


@functools.cache
def _wordnet():
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class English(WordNetCorpusReader):
        def map_wn(self, version="wordnet"):
            """Of other languages' synsets to these; looks for a second WordNet among NLTK's own corpora."""
            return None

    where = _find("wordnet", may_download=False)
    assert where is not None  # Lexicon.load has looked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # other languages are not available, and not wanted
        if where != DEBIAN:
            return English(where, None)
        folder = _debian_root()
        if str(folder) not in nltk.data.path:  # NLTK reads only below the folders on its path
            nltk.data.path.append(str(folder))
        return English(str(folder), None)


# --- resources ---------------------------------------------------------------------------------------------


def _search() -> str:
    """Have NLTK look below the data root first; in every process, for each has its own list."""
    import nltk

    own = [str(root / "nltk_data") for root in paths.data_roots()]
    nltk.data.path[:0] = [folder for folder in own if folder not in nltk.data.path]
    return own[-1]


def _find(name: str, may_download: bool):
    import nltk

    own = _search()
    for attempt in range(2):
        for path in (NEEDED[name], NEEDED[name].replace(".zip/wordnet", "")):
            with contextlib.suppress(LookupError):
                return nltk.data.find(path)
        if name == "wordnet" and (DEBIAN / "data.noun").is_file():
            return DEBIAN
        if attempt or not may_download or paths.is_offline():
            return None
        with contextlib.suppress(OSError):
            nltk.download(name, download_dir=own, quiet=True)
    return None


def _debian_root() -> Path:
    """The package's files, and the list of lexicographer files that NLTK wants and the package leaves out."""
    folder = paths.outputs_root() / ".cache" / "wordnet"
    folder.mkdir(parents=True, exist_ok=True)
    for file in DEBIAN.iterdir():
        copy = folder / file.name
        if file.is_file() and not (copy.exists() and copy.stat().st_size == file.stat().st_size):
            write_atomically(
                copy, file.read_bytes()
            )  # a link would lead out of the folder, which NLTK refuses
    numbers = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
    lines = [f"{i:02d}\t{name}\t{numbers[name.split('.')[0]]}\n" for i, name in enumerate(_LEXNAMES)]
    write_atomically(folder / "lexnames", "".join(lines).encode())
    return folder


_LEXNAMES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling",
    "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person",
    "noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation",
    "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition",
    "verb.communication", "verb.competition", "verb.consumption", "verb.contact", "verb.creation",
    "verb.emotion", "verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative",
    "verb.weather", "adj.ppl",
)  # fmt: skip


# --- many texts --------------------------------------------------------------------------------------------


def _cores() -> int:
    """Cores that this process may use; a job of a grid has few (LOKY_MAX_CPU_COUNT)."""
    from joblib import cpu_count

    return cpu_count()


def _made(chunks, waiting, lexicon, max_words, processes):
    if processes <= 1:
        for i in waiting:
            yield i, [simplify(text, lexicon, max_words=max_words) for text in chunks[i]]
        return
    import joblib

    job = joblib.delayed(_one_chunk)
    parallel = joblib.Parallel(processes, return_as="generator_unordered")
    yield from parallel(job(i, chunks[i], lexicon, max_words) for i in waiting)


def _one_chunk(i: int, texts: list[str], lexicon: Lexicon, max_words: int) -> tuple[int, list[str]]:
    return i, [simplify(text, lexicon, max_words=max_words) for text in texts]


def _cache_file(texts: list[str], lexicon: Lexicon, max_words: int) -> Path:
    import nltk

    made_by = {
        "version": 2, "nltk": nltk.__version__, "max_words": max_words, "synonyms": lexicon.synonyms,
        "wordnet": str(_wordnet().get_version()) if lexicon.synonyms else None,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps([made_by, texts]).encode()).hexdigest()[:24]
    return paths.outputs_root() / ".cache" / f"texts-{key}.json"


def _read(file: Path, n: int) -> list[str] | None:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list) and len(content) == n and all(isinstance(t, str) for t in content):
            return content
    return None
