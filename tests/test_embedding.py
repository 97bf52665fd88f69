"""The gate against paraphrases: what it sees, that its scores depend on two texts alone, and what it reads."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct_hub.errors import ConfigError
from selfinstruct_hub.novelty import NoveltyGate, embedding
from selfinstruct_hub.novelty.embedding import EmbeddingGate, fingerprint, model_in
from selfinstruct_hub.records import Neighbour
from tests.support import static_model

GROUPS = {
    **dict.fromkeys(["write", "compose", "pen", "写", "创作"], "write"),
    **dict.fromkeys(["poem", "verses", "诗", "诗歌"], "poem"),
    **dict.fromkeys(["sea", "ocean", "waves", "大海", "海洋"], "sea"),
    **dict.fromkeys(["list", "name", "列出"], "list"),
    **dict.fromkeys(["rivers", "streams", "河流"], "river"),
    **dict.fromkeys(["europe", "european", "欧洲"], "europe"),
    **dict.fromkeys(["a", "the", "about", "on", "some", "of", "five", "一首", "关于", "的", "五条"], ""),
}
POEM = "Write a poem about the sea"
RIVERS = "List five rivers of Europe"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return static_model.make(tmp_path_factory.mktemp("model") / "tiny", GROUPS)


@pytest.fixture(scope="module")
def model(folder: Path) -> embedding.Encoder:
    return model_in(folder)


@pytest.fixture
def gate(model: embedding.Encoder) -> EmbeddingGate:
    gate = EmbeddingGate(model, 0.9)
    gate.extend([("poem", POEM), ("rivers", RIVERS)])
    return gate


@pytest.mark.parametrize(
    ("text", "nearest", "paraphrase"),
    [
        ("Compose some verses on the ocean", "poem", True),
        ("Name European streams", "rivers", True),
        ("Compose verses on the ocean about waves", "poem", True),
        ("创作一首关于海洋的诗歌", "poem", True),
        ("列出五条欧洲的河流", "rivers", True),
        ("写一首关于河流的诗", "poem", False),
        ("Write a list of poems about Europe", "rivers", False),
        ("Pen a poem about some rivers", "poem", False),
    ],
)
def test_a_paraphrase_is_near_and_another_task_is_not(
    gate: EmbeddingGate, text: str, nearest: str, paraphrase: bool
) -> None:
    found = gate.compare(text)
    assert found
    assert found.id == nearest
    assert (found.score > gate.threshold) == paraphrase


def test_it_sees_what_rouge_does_not(gate: EmbeddingGate) -> None:
    words = NoveltyGate()
    words.extend([("poem", POEM), ("rivers", RIVERS)])
    paraphrase = "Compose some verses on the ocean"
    assert words.compare(paraphrase).score < 0.2
    found = gate.compare(paraphrase)
    assert found
    assert found.score > 0.95


def test_the_same_words_in_another_order_tie_and_the_first_added_wins(model: embedding.Encoder) -> None:
    gate = EmbeddingGate(model, 0.9)
    gate.extend([("x", "rivers of Europe"), ("y", "sea poem list write"), ("z", "write list poem sea")])
    for text in ("write list poem sea", "poem sea list write", "list write sea poem"):
        assert gate.compare(text) == Neighbour("y", 1.0)


@pytest.mark.parametrize("text", ["", "of the", "unknown words only", "🙂"])
def test_a_text_without_a_vector_has_no_neighbour_and_is_none(gate: EmbeddingGate, text: str) -> None:
    before = gate.compare(POEM)
    gate.extend([("nothing", text)])
    assert len(gate) == 3
    comparison = gate.comparison([text, "列出 waves"])
    assert comparison[0] is None
    comparison.accept(0, "again")
    assert len(gate) == 4
    assert gate.compare(text) is None
    assert gate.compare(POEM) == before == Neighbour("poem", 1.0)
    assert comparison[1] == gate.compare("列出 waves")


def test_an_empty_gate_has_no_neighbours(model: embedding.Encoder) -> None:
    gate = EmbeddingGate(model, 0.9)
    comparison = gate.comparison([POEM, POEM])
    assert (len(gate), gate.compare(POEM), comparison[0]) == (0, None, None)
    comparison.accept(0, "first")
    assert comparison[1] == Neighbour("first", 1.0)
    gate.extend([])
    gate.comparison([])
    assert len(gate) == 1


def test_among_counts_what_was_added(model: embedding.Encoder) -> None:
    gate = EmbeddingGate(model, 0.9)
    gate.extend([("nothing", "of the"), ("rivers", RIVERS), ("empty", ""), ("poem", POEM)])
    found = [gate.compare(POEM, among=among) for among in range(5)]
    assert [near.id if near else None for near in found] == [None, None, "rivers", "rivers", "poem"]


texts = st.lists(st.sampled_from([*GROUPS, "zebra"]), max_size=6).map(" ".join)


@given(st.lists(texts, max_size=5), st.lists(texts, min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 3))
def test_in_batches_is_one_by_one_is_after_a_resume(
    model: embedding.Encoder, pool: list[str], candidates: list[str], many: int, rows: int
) -> None:
    """Every other candidate is accepted and counts against those behind it; in all three ways to the last bit."""
    seeds = [(f"p{i}", text) for i, text in enumerate(pool)]
    with mock.patch.multiple(embedding, _QUERIES=many, _ROWS=rows, _TEXTS=many):
        together, single = EmbeddingGate(model, 0.9), EmbeddingGate(model, 0.9)
        together.extend(seeds)
        for seed in seeds:
            single.extend([seed])
        comparison = together.comparison(candidates)
        accepted = list(seeds)
        for place, text in enumerate(candidates):
            resumed = EmbeddingGate(model, 0.9)
            resumed.extend(accepted)
            assert comparison[place] == single.compare(text) == resumed.compare(text)
            assert comparison[place] == resumed.comparison(candidates[place:])[0]
            if place % 2:
                accepted.append((f"c{place}", text))
                comparison.accept(place, f"c{place}")
                single.extend([accepted[-1]])
        assert len(together) == len(single) == len(accepted)


class Table:
    """A model that knows some texts by heart."""

    package = "numpy"

    def __init__(self, vectors: Any) -> None:
        self.vectors = vectors

    def encode(self, texts: Sequence[str]) -> Any:
        return self.vectors[[int(text) for text in texts]]


@given(st.integers(0, 2**32), st.integers(2, 30), st.sampled_from([1, 3, 16, 100]), st.booleans())
def test_the_nearest_has_the_highest_cosine_and_ties_fall_to_the_first(
    seed: int, count: int, dimensions: int, whole: bool
) -> None:
    """Against plain arithmetic; small whole numbers make ties and zeros common."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    if whole:
        vectors = np.rint(vectors)
    gate = EmbeddingGate(Table(vectors), 0.9)
    gate.extend((str(n), str(n)) for n in range(1, len(vectors)))
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    with mock.patch.object(embedding, "_ROWS", 7):
        found = gate.compare("0")
    have = [n for n in range(1, len(vectors)) if lengths[n]]
    if not lengths[0] or not have:
        assert found is None
        return
    cosines = {n: float(exact[n] @ exact[0] / lengths[n] / lengths[0]) for n in have}
    assert found
    assert abs(found.score - max(cosines.values())) < 1e-6
    assert found.score <= 1.0
    tied = [n for n in have if cosines[n] >= max(cosines.values()) - 1e-12]
    assert int(found.id) <= tied[0]  # an earlier one may be as near after rounding


def test_a_gate_outgrows_its_first_room_and_its_blocks() -> None:
    vectors = np.random.default_rng(1).standard_normal((20_000, 8)).astype(np.float32)
    gate = EmbeddingGate(Table(vectors), 0.9)
    gate.extend((str(n), str(n)) for n in range(20_000))
    assert [gate.compare(str(n)) for n in (0, 1024, 8191, 8192, 19_999)] == [
        Neighbour(str(n), 1.0) for n in (0, 1024, 8191, 8192, 19_999)
    ]
    comparison = gate.comparison([str(n) for n in range(0, 20_000, 39)])
    assert [comparison[place] for place in range(513)] == [Neighbour(str(n), 1.0) for n in range(0, 20_000, 39)]


def test_numbers_that_are_not_finite_are_a_damaged_model() -> None:
    gate = EmbeddingGate(Table(np.array([[1.0, np.nan], [np.inf, 0.0], [1.0, 0.0]])), 0.9)
    for text in ("0", "1"):
        with pytest.raises(ConfigError, match="not finite: its files are damaged"):
            gate.compare(text)
    assert gate.compare("2") is None


def padded(folder: Path, to: Path) -> Path:
    """The model of `folder` with a tokenizer that fills a batch up to its longest text, with a word."""
    shutil.copytree(folder, to)
    path = to / "tokenizer.json"
    content = json.loads(path.read_text())
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    content["padding"] |= {"pad_id": content["model"]["vocab"]["sea"], "pad_token": "sea", "pad_type_id": 0}
    path.write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("pads", [False, True])
def test_an_embedding_does_not_depend_on_its_batch(folder: Path, tmp_path: Path, pads: bool) -> None:
    """Texts of all lengths, among them one without any token, which turns model2vec's own batch into float64."""
    words = [word for word, group in GROUPS.items() if group]
    batch = ["", *(" ".join(words[n % 7 : n]) for n in range(1, 20)), "zebra"]
    read = model_in(padded(folder, tmp_path / "padded") if pads else folder)
    alone = np.stack([np.asarray(read.encode([text]), np.float32)[0] for text in batch])
    for size in (2, 5, len(batch)):
        for start in range(0, len(batch), size):
            together = np.asarray(read.encode(batch[start : start + size]), np.float32)
            assert (together == alone[start : start + size]).all()


def test_long_texts_are_read_to_their_end(gate: EmbeddingGate) -> None:
    found = gate.compare("poem " + "about the " * 1000 + "sea " + "write")
    assert found
    assert found.score > 0.95


def test_nothing_is_asked_of_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    gate = EmbeddingGate.opened(folder, 0.8)
    gate.extend([("poem", POEM)])
    assert gate.compare(POEM) == Neighbour("poem", 1.0)
    assert gate.threshold == 0.8
    with pytest.raises(ConfigError):  # the id of a model on the Hub
        EmbeddingGate.opened(Path("minishlab/potion-base-8M"), 0.9)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def keep_only(folder: Path, name: str) -> None:
    for path in folder.iterdir():
        if path.name != name:
            path.unlink()


NOT_MODELS: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda at: shutil.rmtree(at),
        "is not a folder: paraphrases.model takes a model2vec folder (model.safe",
    ),
    (lambda at: emptied(at).symlink_to(__file__), "is not a folder: paraphrases.model takes"),
    (lambda at: keep_only(at, "none"), "holds no embedding model: paraphrases.model takes a model2v"),
    (lambda at: keep_only(at, "model.safetensors"), "or a sentence-transformers folder (modules.json)"),
    (lambda at: (at / "tokenizer.json").unlink(), "is not a usable model2vec model: "),
    (lambda at: cut_short(at / "model.safetensors"), "is not a usable model2vec model: "),
    (lambda at: cut_short(at / "tokenizer.json"), "download or save it again, whole"),
    (lambda at: (at / "config.json").write_text("{"), "is not a usable model2vec model: "),
    (lambda at: (at / "modules.json").write_text("{"), "does not list a model's modules (JSONDecodeError)"),
    (lambda at: (at / "modules.json").write_text('{"a": 1}'), "does not list a model's modules (TypeError)"),
    (lambda at: (at / "modules.json").write_text('[{"idx": 0}]'), "does not list a model's modules (KeyError)"),
]


@pytest.mark.parametrize(("spoil", "message"), NOT_MODELS, ids=range(len(NOT_MODELS)))
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_folder_that_is_no_model_gives_one_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    at = tmp_path / "spoilt"
    shutil.copytree(folder, at)
    spoil(at)
    try:
        EmbeddingGate.opened(at, 0.9)
    except ConfigError as error:
        told = str(error)
    gc.collect()  # a file that model2vec left open goes with the error, while the warning is still ignored
    assert message in told
    assert str(at) in told
    assert "\n" not in told


def as_sentence_transformers(folder: Path, *modules: str) -> Path:
    kinds = [{"idx": n, "name": str(n), "path": "", "type": kind} for n, kind in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(kinds))
    return folder


TRANSFORMER = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")


def test_a_missing_package_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model2vec", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r'run pip install "selfinstruct-hub\[embedding\]" \('):
        EmbeddingGate.opened(folder, 0.9)
    with pytest.raises(ConfigError, match="run pip install sentence-transformers"):
        EmbeddingGate.opened(as_sentence_transformers(tmp_path, *TRANSFORMER), 0.9)


def test_static_models_of_sentence_transformers_are_read_by_model2vec(folder: Path, tmp_path: Path) -> None:
    """In the layout in which sentence-transformers 6 saves one: its own name for the vectors, no config.json."""
    from safetensors.numpy import load_file, save_file

    module = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    saved = as_sentence_transformers(tmp_path, module)
    shutil.copy(folder / "tokenizer.json", saved)
    save_file(
        {"embedding.weight": load_file(folder / "model.safetensors")["embeddings"]}, saved / "model.safetensors"
    )
    (saved / "config_sentence_transformers.json").write_text("{}")
    gates = [EmbeddingGate.opened(each, 0.9) for each in (folder, saved)]
    for gate in gates:
        gate.extend([("poem", POEM), ("rivers", RIVERS)])
    paraphrase = "Compose some verses on the ocean"
    assert gates[0].compare(paraphrase) == gates[1].compare(paraphrase)


def test_what_is_asked_of_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package: it says how the package is called, not what the package does."""
    asked: list[Any] = []

    class SentenceTransformer:
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append((args, options))

        def encode(self, texts: list[str], **options: Any) -> Any:
            asked.append(texts)
            return np.array([[float(len(text)), 1.0] for text in texts], np.float32)

    stand_in = types.ModuleType("sentence_transformers")
    stand_in.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    gate = EmbeddingGate.opened(as_sentence_transformers(tmp_path, *TRANSFORMER), 0.9)
    gate.extend([("x", "one"), ("y", "three")])
    assert gate.compare("three") == Neighbour("y", 1.0)
    # On the CPU, without the Hub, and one text at a time.
    assert asked == [
        ((str(tmp_path),), {"device": "cpu", "local_files_only": True}),
        *(["one"], ["three"], ["three"]),
    ]


def test_a_model_of_sentence_transformers(tmp_path: Path) -> None:
    """The real package with a tiny random model, where it is installed."""
    package = pytest.importorskip("sentence_transformers")
    transformers: Any = pytest.importorskip("transformers")

    words = "[PAD] [UNK] [CLS] [SEP] [MASK] write a poem about the sea list five rivers of europe".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes))
    bert.save_pretrained(tmp_path / "bert")
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    package.SentenceTransformer(str(tmp_path / "bert"), device="cpu").save(str(tmp_path / "model"))
    gate = EmbeddingGate.opened(tmp_path / "model", 0.9)
    candidates = [POEM, RIVERS, "list", "the sea, the sea, the sea", "", POEM.lower()] * 3
    comparison = gate.comparison(candidates)
    for place, text in enumerate(candidates):
        assert comparison[place] == gate.compare(text)
        comparison.accept(place, str(place))
    assert comparison[0] == Neighbour("0", 1.0)


def test_a_fingerprint_is_of_names_and_contents(folder: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for copy in (one, other):
        shutil.copytree(folder, copy)
    same = fingerprint(folder)
    assert len(same) == 64
    assert fingerprint(one) == same
    (one / ".cache" / "huggingface").mkdir(parents=True)
    (one / ".cache" / "huggingface" / "model.safetensors.metadata").write_text("downloaded today")
    os.utime(one / "config.json", (0, 0))
    assert fingerprint(one) == same
    (one / "config.json").rename(one / "settings.json")
    (other / "config.json").write_text("{}")
    assert len({same, fingerprint(one), fingerprint(other)}) == 3
    with pytest.raises(ConfigError, match="is not a folder"):
        fingerprint(tmp_path / "none")


def test_nothing_heavy_is_imported_with_the_module() -> None:
    import subprocess

    script = (
        "import sys, selfinstruct_hub.novelty.embedding\n"
        "heavy = {'model2vec', 'sentence_transformers', 'tokenizers', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
