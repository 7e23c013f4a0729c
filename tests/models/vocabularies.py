"""Tiny tokenizer.json files, one per family of vocabularies, built with the library `tokenizers`."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("a", "photo", "of", "cat", "dog", "x")


def gemma(path: Path) -> Path:
    """Byte pairs over text whose spaces are letters; the file asks for <bos>, which SigLIP 2 never saw."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<s>", "</s>", "▁", *LETTERS]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("▁", "x")]
    vocabulary = {token: number for number, token in enumerate([*tokens, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.enable_padding(direction="left", length=20)  # as Gemma's files may say
    return _saved(tokenizer, path)


def wordpiece(path: Path) -> Path:
    """BERT's words and pieces, in lower case."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *WORDS, *LETTERS[1:], *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)
    return _saved(tokenizer, path)


def xlm(path: Path) -> Path:
    """XLM-R's pieces with a dummy space in front; the end has a small id, and x is two pieces."""
    scores = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -2.0, ".": -3.0}
    scores |= dict.fromkeys(LETTERS, -4.0) | {f"▁{word}": -3.0 for word in WORDS if word != "x"}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    return _saved(tokenizer, path)


def t5(path: Path) -> Path:
    """T5's pieces: an end and no start."""
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -2.0}
    scores |= dict.fromkeys(LETTERS, -4.0) | {f"▁{word}": -3.0 for word in WORDS}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _saved(tokenizer, path)


def _saved(tokenizer: Tokenizer, path: Path) -> Path:
    tokenizer.save(str(path))
    return path
