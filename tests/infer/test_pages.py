"""No page is in two places, none is lost, and a name finds what it was given to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.infer.pages import Pages, digest


def name(i):
    return digest(b"", [i])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), max_size=60))
def test_every_page_is_somewhere(n, events):
    """Against a plain account: holders of pages, and what the name of each page is."""
    pages = Pages(n)
    held, names, order = [], {}, []  # lists of pages; of pages; names not in use, the oldest first
    for kind, i in events:
        if kind == 0 and pages.available:
            page = pages.take()
            assert all(page not in pages_ for pages_ in held)
            if page in names:  # only where no page without a name was left, and the oldest
                assert not pages.free and page == order[0]
                order.remove(page)
                del names[page]
            held.append([page])
        elif kind == 1 and held:
            page = held[i % len(held)][-1]
            if name(i) not in names.values() and page not in names:
                names[page] = name(i)
            pages.name(page, name(i))
        elif kind == 2:
            page = pages.find(name(i))
            assert page == {v: k for k, v in names.items()}.get(name(i))
            if page is not None:
                pages.share(page)
                held.append([page])
                if page in order:
                    order.remove(page)
        elif kind == 3 and held:
            gone = held.pop(i % len(held))
            pages.drop(gone)
            order += [page for page in gone
                      if page in names and not any(page in pages_ for pages_ in held)]
        pages.check(page for pages_ in held for page in pages_)
        assert list(pages.idle) == order
        assert pages.used == len({page for pages_ in held for page in pages_})
        assert pages.available == n - pages.used
    for gone in held:
        pages.drop(gone)
    pages.check([])
    assert pages.available == n and not pages.used


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning():
    pages = Pages(3)
    mine = [pages.take() for _ in range(3)]
    names = [name(i) for i in range(3)]
    for page, own in zip(mine, names, strict=True):
        pages.name(page, own)
    pages.drop(mine)
    for left in (2, 1, 0):
        pages.take()
        assert [pages.find(own) is not None for own in names] == [i < left for i in range(3)]


def test_a_page_used_again_is_the_last_to_go():
    pages = Pages(2)
    for i in range(2):
        pages.name(pages.take(), name(i))
    first, second = pages.find(name(0)), pages.find(name(1))
    pages.drop([first])
    pages.drop([second])
    pages.share(first)
    pages.drop([first])
    assert pages.take() == second and pages.find(name(0)) == first


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=2), max_size=6),
       st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=2), max_size=6))
def test_names_are_equal_exactly_where_all_tokens_so_far_are(one, other):
    def chain(runs):
        names = [b""]
        for tokens in runs:
            names.append(digest(names[-1], tokens))
        return names[1:]

    for i, a in enumerate(chain(one)):
        for k, b in enumerate(chain(other)):
            assert (a == b) == (one[:i + 1] == other[:k + 1])


def test_check_sees_what_is_wrong():
    for harm in (lambda p: p.free.append(p.free[0]), lambda p: p.free.pop(),
                 lambda p: p.uses.__setitem__(0, 2), lambda p: p.idle.__setitem__(0, None),
                 lambda p: p._named.clear()):
        pages = Pages(4)
        used = [pages.take(), pages.take()]
        pages.name(used[0], b"a")
        pages.check(used)
        harm(pages)
        with pytest.raises(AssertionError):
            pages.check(used)
