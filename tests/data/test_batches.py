import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import shuffle, tasks
from lm.data.batches import Batches, Evaluation

# Documents of one token are, where documents end with eos, an eos after an eos.
LENGTHS = [1, 5, 40, 2, 1, 1, 90, 17, 33, 8, 64, 3, 120]
SHAPES = {"tokens_BT": np.int32, "targets_BT": np.int32, "weights_BT": np.float32,
          "segments_BT": np.int32, "positions_BT": np.int32}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def slow_row(store, start, T, packing):
    """The batch's row, token by token, from the definition."""
    begins = set(store.documents[:-1].tolist())
    opens = {first - 1 for first in begins} if store.ends else begins
    row = {name: [] for name in SHAPES}
    segment = position = 0
    for t in range(start, start + T):
        if packing and t > start and t in opens:
            segment, position = segment + 1, 0
        inside = t + 1 < len(store.tokens)
        row["tokens_BT"].append(store.tokens[t] if t < len(store.tokens) else 0)
        row["targets_BT"].append(store.tokens[t + 1] if inside else 0)
        alone = packing and not store.ends and t + 1 in begins
        row["weights_BT"].append(float(inside and not alone))
        row["segments_BT"].append(segment)
        row["positions_BT"].append(position)
        position += 1
    return row


def start_of(store, row_tokens):
    return int(np.flatnonzero(store.tokens == row_tokens[0])[0])


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40))
def test_permutation_is_a_bijection(n, seed, epoch):
    places = shuffle.permute(np.arange(n), n, seed, np.full(n, epoch))
    assert sorted(places.tolist()) == list(range(n))


def test_permutation_is_well_mixed():
    n = 1 << 16
    index = np.arange(n)
    first, second = (shuffle.permute(index, n, 3, np.full(n, e)) for e in (0, 1))
    for a, b in ((index, first), (first, second), (first[:-1], first[1:]),
                 (first, shuffle.permute(index, n, 4, np.zeros(n, int)))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(n)
    # As many fixed points and neighbours kept as chance gives (about one each).
    assert (first == index).sum() < 10
    assert (np.diff(first) == 1).sum() < 10
    # Every cell of a 16 x 16 table of (place, index) holds about n / 256.
    cells = np.bincount(first // 4096 * 16 + index // 4096, minlength=256)
    assert ((cells - n / 256) ** 2 / (n / 256)).sum() < 400


def test_every_order_of_a_few_windows_turns_up_equally_often():
    epochs = 6000
    places = shuffle.permute(np.tile(np.arange(3), epochs), 3, 0, np.repeat(np.arange(epochs), 3))
    orders, counts = np.unique(places.reshape(-1, 3), axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 850 and counts.max() < 1150


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("T", [1, 7, 16, 50])
def test_batch_is_its_definition(synthetic, T, packing, ends):
    store = synthetic(LENGTHS, ends=ends)
    batches = Batches(store, 4, T, seed=1, packing=packing)
    for step in (0, 1, 5, 1000):
        batch = batches.batch(step)
        for b in range(4):
            want = slow_row(store, start_of(store, batch["tokens_BT"][b]), T, packing)
            for name, dtype in SHAPES.items():
                assert batch[name].dtype == dtype and batch[name].shape == (4, T)
                np.testing.assert_array_equal(batch[name][b], want[name], err_msg=name)


@pytest.mark.parametrize("T", [7, 16])
def test_an_epoch_takes_every_window_once(synthetic, T):
    store = synthetic(LENGTHS)
    batches = Batches(store, 3, T, seed=5)
    rows = [b["tokens_BT"][i] for step in range(1500) for b in [batches.batch(step)]
            for i in range(3)]
    offsets, orders = set(), set()
    for epoch in zip(*[iter(rows)] * batches.windows, strict=False):
        starts = [start_of(store, row) for row in epoch]
        offset = min(starts)
        assert sorted(starts) == [offset + T * i for i in range(batches.windows)]
        assert offset + T * batches.windows < len(store.tokens)
        offsets.add(offset)
        orders.add(tuple(starts))
    assert len(offsets) == len(store.tokens) - T * batches.windows  # in time, every offset
    assert len(orders) > 10
    assert batches.steps_per_epoch == batches.windows / 3


def test_every_token_is_seen_in_time(synthetic):
    store = synthetic(LENGTHS)
    batches = Batches(store, 8, 16, seed=0)
    seen = {int(t) for step in range(200) for b in [batches.batch(step)]
            for name in ("tokens_BT", "targets_BT") for t in b[name].ravel()}
    assert seen == set(store.tokens.tolist())


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_stream_does_not_depend_on_the_number_of_processes(synthetic, processes):
    batches = Batches(synthetic(LENGTHS), 24, 16, seed=2)
    each = 24 // processes
    for step in (0, 3, 77):
        parts = [batches.batch(step, slice(p * each, (p + 1) * each)) for p in range(processes)]
        same(batches.batch(step), {k: np.concatenate([p[k] for p in parts]) for k in SHAPES})


def test_batch_depends_on_seed_and_step_only(synthetic):
    store = synthetic(LENGTHS)
    a, b = Batches(store, 4, 16, seed=1), Batches(store, 4, 16, seed=1)
    for step in range(20):
        a.batch(step)
    same(a.batch(1234), b.batch(1234))
    other = Batches(store, 4, 16, seed=2)
    assert any((a.batch(s)["tokens_BT"] != other.batch(s)["tokens_BT"]).any() for s in range(3))


def test_batch_size_only_regroups_the_rows(synthetic):
    store = synthetic(LENGTHS)
    few, many = Batches(store, 4, 16, seed=1), Batches(store, 12, 16, seed=1)
    for name in SHAPES:
        joined = np.concatenate([few.batch(s)[name] for s in range(6, 9)])
        np.testing.assert_array_equal(joined, many.batch(2)[name])


def test_a_segment_is_the_eos_before_and_a_document(synthetic):
    store = synthetic([3, *LENGTHS], ends=True)
    n = len(store.tokens)
    row = {k: v[0] for k, v in Evaluation(store, 1, n + 20).batch(0).items()}
    assert row["weights_BT"].tolist() == [1.0] * (n - 1) + [0.0] * 21
    documents = [store.tokens[a:b].tolist() for a, b in itertools.pairwise(store.documents)]
    before = [documents[0].pop(0)]  # no eos: it stands there itself, and nothing predicts it
    for number, document in enumerate(documents):
        inside = (row["segments_BT"] == number) & (row["weights_BT"] > 0)
        assert row["tokens_BT"][inside].tolist() == before + document[:-1]
        assert row["targets_BT"][inside].tolist() == document
        assert row["positions_BT"][inside].tolist() == list(range(len(document)))
        before = document[-1:]


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("T", [1, 7, 16, 50])
def test_no_segment_has_tokens_of_two_documents(synthetic, T, ends):
    store = synthetic(LENGTHS, ends=ends)
    owner = dict(zip(store.tokens.tolist(), np.repeat(np.arange(len(LENGTHS)), LENGTHS),
                     strict=True))
    finals = set(store.tokens[store.documents[1:] - 1].tolist())
    for step in range(30):
        batch = Batches(store, 4, T, seed=3).batch(step)
        for row in range(4):
            names = ("segments_BT", "positions_BT", "weights_BT", "tokens_BT", "targets_BT")
            places = zip(*(batch[k][row].tolist() for k in names), strict=True)
            for _, segment in itertools.groupby(places, key=lambda place: place[0]):
                _, positions, weights, tokens, targets = zip(*segment, strict=True)
                assert positions == tuple(range(len(positions)))
                counted = {owner[t] for t, w in zip(targets, weights, strict=True) if w}
                opened = ends and tokens[0] in finals  # by the eos of the document before
                assert len({owner[t] for t in tokens[opened:]} | counted) == 1


def test_every_eos_of_a_corpus_stands_before_a_document(config):
    task = tasks.prepare(config(), str)
    store, eos = task.train, task.tokenizer.eos
    evaluation = Evaluation(store, 4, 32)
    batches = [evaluation.batch(n) for n in range(len(evaluation))]
    row = {k: np.concatenate([b[k].ravel() for b in batches])[:len(store.tokens) - 1]
           for k in SHAPES}
    assert (row["weights_BT"] == 1).all()
    opened = row["tokens_BT"] == eos
    assert (row["positions_BT"][opened] == 0).all()
    assert row["targets_BT"][opened].tolist() == store.tokens[store.documents[1:-1]].tolist()
    starts = np.arange(len(opened)) % 32 == 0
    assert (row["positions_BT"] == 0).sum() == (opened | starts).sum()


def test_without_eos_documents_can_be_put_together_from_packed_rows(synthetic):
    store = synthetic(LENGTHS)
    evaluation = Evaluation(store, 2, 16)
    rows = [{k: v[i] for k, v in evaluation.batch(n).items()}
            for n in range(len(evaluation)) for i in range(2)]
    documents, last = [], None
    for number, row in enumerate(rows):
        for t in range(16):
            start = number * 16 + t
            if start >= len(store.tokens):
                break
            fresh = start in store.documents
            if fresh:
                documents.append([])
                assert row["positions_BT"][t] == 0
            elif t:
                assert row["positions_BT"][t] == row["positions_BT"][t - 1] + 1
                assert row["segments_BT"][t] == row["segments_BT"][t - 1]
            documents[-1].append(int(row["tokens_BT"][t]))
            if last is not None:
                assert last[0] == row["tokens_BT"][t]  # the target before is this token
                assert last[1] == (0.0 if fresh else 1.0)
            last = row["targets_BT"][t], row["weights_BT"][t]
    documents[-1].append(int(last[0]))  # the corpus' last token is a target only
    bounds = store.documents.tolist()
    assert documents == [store.tokens[a:b].tolist() for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("B,T", [(1, 1), (4, 16), (3, 50), (2, 500), (5, 384), (5, 385)])
def test_evaluation_covers_the_split_once(synthetic, B, T, packing, ends):
    store = synthetic(LENGTHS, ends=ends)
    evaluation = Evaluation(store, B, T, packing)
    targets, total = [], 0.0
    for number in range(len(evaluation)):
        batch = evaluation.batch(number)
        total += batch["weights_BT"].sum()
        for b in range(B):
            want = slow_row(store, (number * B + b) * T, T, packing)
            np.testing.assert_array_equal(batch["weights_BT"][b], want["weights_BT"])
            np.testing.assert_array_equal(batch["tokens_BT"][b], want["tokens_BT"])
        targets += batch["targets_BT"][batch["weights_BT"] > 0].tolist()
        assert all(batch[k].shape == (B, T) and batch[k].dtype == d for k, d in SHAPES.items())
    firsts = set(store.documents[:-1].tolist()) if packing and not ends else {0}
    assert targets == [int(t) for i, t in enumerate(store.tokens) if i not in firsts]
    assert total == len(targets) == store.predictable(packing)


def test_evaluation_by_rows(synthetic):
    evaluation = Evaluation(synthetic(LENGTHS), 4, 16)
    last = len(evaluation) - 1
    parts = [evaluation.batch(last, slice(i, i + 2)) for i in (0, 2)]
    same(evaluation.batch(last), {k: np.concatenate([p[k] for p in parts]) for k in SHAPES})


@pytest.mark.parametrize("extra", [1, 2, 16, 17])
def test_shortest_corpora(synthetic, extra):
    store = synthetic([16 + extra])
    batches = Batches(store, 2, 16, seed=0)
    for step in range(20):
        batch = batches.batch(step)
        assert (batch["weights_BT"] == 1).all()
        assert batches.windows == 1 or extra == 17
        np.testing.assert_array_equal(batch["tokens_BT"][:, 1:], batch["targets_BT"][:, :-1])
