"""Shapes that cannot be are refused in words, before jax loads."""

import pytest

from lm.base.errors import UserError
from lm.models.decoder.config import Config

MIX = dict(E=4, L=4)


@pytest.mark.parametrize(("fields", "words"), [
    (dict(MIX, experts_top=5), "experts_top = 5 of E = 4 experts"),
    (dict(MIX, bias="all"), "experts have no biases"),
    (dict(experts_shared=2), "experts_shared = 2 stand beside experts"),
    (dict(MIX, dense_layers=4), "dense_layers = 4 come before layers of experts"),
    (dict(L=4, dense_layers=1), "dense_layers = 1 come before layers of experts"),
    (dict(MIX, dense_layers=1, windows=(8, 0)), "cut the cycle of 2 windows"),
])
def test_refused(fields, words):
    with pytest.raises(UserError, match=words):
        Config(**fields)


def test_what_follows_from_other_fields():
    assert Config(D=64).dense_F == 256 and Config(D=64, F=96).dense_F == 96
    assert Config(**MIX, dense_layers=1, dense_F=10).dense_F == 10
