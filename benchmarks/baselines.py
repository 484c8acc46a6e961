"""What somebody would otherwise write: the same work with FrEIA, PyTorch and Pillow as their manuals show it."""

import io
import math
import random
import tempfile
from pathlib import Path

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn
from torch.utils.data import DataLoader, Dataset


def freia_flow(squeeze: int, hidden: int, blocks: int = 8) -> nn.Module:
    """The flow from FrEIA's own modules."""

    def subnet(c_in: int, c_out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(c_in, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, c_out, 3, padding=1)
        )

    shape = (3, 32, 32)
    inn = Ff.SequenceINN(*shape)
    for _ in range(squeeze):
        inn.append(Fm.IRevNetDownsampling)
    for _ in range(blocks):
        inn.append(Fm.AllInOneBlock, subnet_constructor=subnet)
    return inn


def log_prob(inn: nn.Module, x: torch.Tensor) -> torch.Tensor:
    z, ladj = inn(x)
    z = z.flatten(1)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + ladj


def train_step(inn, optimizer, x, is_outlier, log_prob=log_prob):
    """One step of eq. (2) and (3) as it reads."""
    optimizer.zero_grad()
    lp = log_prob(inn, x)
    d = x[0].numel()
    loss = torch.where(is_outlier, nn.functional.softplus(lp), -lp).sum() / len(x) / d
    loss.backward()
    nn.utils.clip_grad_norm_(inn.parameters(), 1.0)
    optimizer.step()
    return loss


class PilDataset(Dataset):
    """Outliers while loading: one image at a time, with Pillow and NumPy, CCM+Gaussian."""

    def __init__(self, x: torch.Tensor):
        self.x = x.permute(0, 2, 3, 1).numpy()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int):
        image = self.x[i]
        is_outlier = random.random() < 0.5
        if is_outlier:
            image = self.outlier(image)
        u = np.random.rand(*image.shape)
        return torch.from_numpy(((image + u) / 256).transpose(2, 0, 1).astype(np.float32)), is_outlier

    def outlier(self, image: np.ndarray) -> np.ndarray:
        augment, blur = random.choice([(True, False), (False, True), (True, True)])
        if augment:
            other = self.x[random.randrange(len(self.x))]
            kind = random.randrange(3)
            image = image.copy()
            h, w, _ = image.shape
            if kind == 0:  # CutPaste
                area, ratio = random.uniform(0.02, 0.15) * h * w, math.exp(random.uniform(-1.2, 1.2))
                ph, pw = (max(1, min(32, round(math.sqrt(area * r)))) for r in (ratio, 1 / ratio))
                a, b, c, e = (random.randint(0, s) for s in (h - ph, w - pw, h - ph, w - pw))
                image[c : c + ph, e : e + pw] = image[a : a + ph, b : b + pw].copy()
            elif kind == 1:  # CutMix
                side = math.sqrt(1 - random.random())
                ph, pw = int(side * h / 2), int(side * w / 2)
                cy, cx = random.randrange(h), random.randrange(w)
                part = np.s_[max(cy - ph, 0) : cy + ph, max(cx - pw, 0) : cx + pw]
                image[part] = other[part]
            else:  # MixUp
                lam = random.random()
                image = (lam * image + (1 - lam) * other).round().astype(np.uint8)
        if blur:
            image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))
        return image


def pil_loader(x: torch.Tensor, batch_size: int) -> DataLoader:
    return DataLoader(PilDataset(x), batch_size=batch_size, shuffle=True, drop_last=True)


def gradient_norms_loop(inn: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Table 4 one sample at a time."""
    norms = []
    for one in x:
        one = one[None].clone().requires_grad_(True)
        log_prob(inn, one).sum().backward()
        norms.append(one.grad.norm())
    return torch.stack(norms)


def complexity_through_files(x: torch.Tensor) -> list[float]:
    """C(x) with glymur, which writes files."""
    import glymur

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(x.permute(0, 2, 3, 1).contiguous().numpy()):
            path = Path(folder, f"{i}.jp2")
            glymur.Jp2k(path, data=image, mct=False)
            found.append(8 * path.stat().st_size / image.size)
    return found


def complexity_one_by_one(x: torch.Tensor) -> list[float]:
    """C(x) with Pillow, one image at a time in memory."""
    found = []
    for image in x.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG2000")
        found.append(8 * len(file.getvalue()) / image.size)
    return found


class FreiaFastFlow(nn.Module):
    """FastFlow from FrEIA's blocks, whose backbone sees each batch anew."""

    def __init__(self, backbone: nn.Module, size: int, hidden_ratio: float, blocks: int = 8):
        super().__init__()
        self.backbone = backbone
        self.norms, self.flows = nn.ModuleList(), nn.ModuleList()
        for shape in backbone.shapes(size):
            self.norms.append(nn.LayerNorm(shape))
            inn = Ff.SequenceINN(*shape)
            for k in range(blocks):
                inn.append(
                    Fm.AllInOneBlock, subnet_constructor=self.subnet(hidden_ratio, 3 if k % 2 == 0 else 1)
                )
            self.flows.append(inn)

    @staticmethod
    def subnet(ratio: float, kernel: int):
        def make(c_in: int, c_out: int) -> nn.Module:
            hidden = int(c_in * ratio)
            first = nn.Conv2d(c_in, hidden, kernel, padding="same")
            return nn.Sequential(first, nn.ReLU(), nn.Conv2d(hidden, c_out, kernel, padding="same"))

        return make

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        with torch.no_grad():
            maps = self.backbone(x)
        each = zip(maps, self.norms, self.flows, strict=True)
        z, ladj = zip(*[flow(norm(m)) for m, norm, flow in each], strict=True)
        return list(z), sum(ladj)


def log_prob_of_maps(flow: nn.Module, x: torch.Tensor) -> torch.Tensor:
    maps, ladj = flow(x)
    z = torch.cat([m.flatten(1) for m in maps], 1)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + ladj


# --- texts -------------------------------------------------------------------------------------------------


def transformer(folder: str):
    """Model and tokenizer as transformers' manual loads them."""
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def encode(
    model, tokenizer, texts: list[str], padding: str, length: int = 512, batch_size: int = 8
) -> torch.Tensor:
    """Text features in the order the texts come; padding is "max_length" or "longest" (of the batch)."""
    features = []
    with torch.no_grad():
        for i in range(0, len(texts), batch_size):
            batch = tokenizer(
                texts[i : i + batch_size], padding=padding, truncation=True, max_length=length,
                return_tensors="pt",
            )  # fmt: skip
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            features.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(features)


def write_untrained_albert(folder: Path, texts) -> None:
    """A folder as the hub has it: ALBERT as large as MiniLM-L6, with random weights and a WordPiece of these texts."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=512,
    )  # fmt: skip
    fast.save_pretrained(folder)
    config = transformers.AlbertConfig(
        vocab_size=fast.vocab_size, embedding_size=128, hidden_size=384, num_hidden_layers=6,
        num_attention_heads=12, intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    transformers.AlbertModel(config).save_pretrained(folder)


def tag_each(sentences: list[list[str]]) -> list[list[tuple[str, str]]]:
    """As most write it; NLTK reads its tagger from disk in every call."""
    import nltk

    return [nltk.pos_tag(words) for words in sentences]


def tag_all(sentences: list[list[str]]) -> list[list[tuple[str, str]]]:
    """What NLTK's manual advises for more than one sentence."""
    import nltk

    return nltk.pos_tag_sents(sentences)


def simplify(text: str, tag, max_words: int = 20) -> str:
    """A text outlier with NLTK's own functions: short sentences, the first synonym of each word."""
    import nltk
    from nltk.corpus import wordnet
    from nltk.tokenize.treebank import TreebankWordDetokenizer

    found = nltk.sent_tokenize(text.replace("<br />", " "))
    kept = [s for s in found if len(s.split()) <= max_words] or [min(found, key=lambda s: len(s.split()))]
    sentences = []
    for tagged in tag([nltk.word_tokenize(sentence) for sentence in kept]):
        words = []
        for word, pos in tagged:
            synsets = wordnet.synsets(word, pos[0].lower().replace("j", "a")) if pos[0] in "NVJR" else []
            lemmas = [lemma.replace("_", " ") for lemma in synsets[0].lemma_names()] if synsets else []
            words.append(next((lemma for lemma in lemmas if lemma.lower() != word.lower()), word))
        sentences.append(TreebankWordDetokenizer().detokenize(words))
    return " ".join(sentences)
