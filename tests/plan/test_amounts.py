"""Quantities are said with three digits and a unit that fits."""

import pytest

from lm.plan import amounts


@pytest.mark.parametrize(("say", "value", "text"), [
    (amounts.three, 3.404, "3.40"), (amounts.three, 9.996, "10.0"),
    (amounts.three, 12345, "12,300"),
    (amounts.three, 4.6e-4, "4.60e-4"), (amounts.three, 6.42e22, "6.42e22"),
    (amounts.three, 0, "0"), (amounts.three, None, "not known"),
    (amounts.three, float("nan"), "not known"), (amounts.three, float("inf"), "without end"),
    (amounts.count, 8030261248, "8.03B"), (amounts.count, 1e12, "1T"),
    (amounts.count, 12288, "12,288"), (amounts.count, 999_999_999, "1B"),
    (amounts.size, 36614572442, "34.1 GiB"), (amounts.size, 2**30, "1.00 GiB"),
    (amounts.size, 0, "0 B"), (amounts.size, 3 * 2**40, "3.00 TiB"),
    (amounts.seconds, 0.0123, "12.3 ms"), (amounts.seconds, 90, "90.0 s"),
    (amounts.seconds, 3.4e-5, "34.0 µs"), (amounts.seconds, 172800, "2.00 days"),
    (amounts.days, 0.25, "6.00 hours"), (amounts.days, 12.34, "12.3 days"),
    (amounts.money, 4.2, "$4.20"), (amounts.money, 401234, "$401,000"),
    (amounts.money, 1.234e6, "$1.23M"), (amounts.money, None, "not known"),
    (amounts.money, 0.0321, "$0.0321"),
    (amounts.percent, 0.512, "51%"), (amounts.percent, 0.0312, "3.1%")])
def test_as_a_person_says_it(say, value, text):
    assert say(value) == text


@pytest.mark.parametrize(("name", "value", "text"), [
    ("data_bytes", 2**41, "2.00 TiB"), ("checkpoint_seconds", 6.4, "6.40 s"),
    ("goodput", 0.97, "97%"),
    ("data_bandwidth", 2**20, "1.00 MiB/s"), ("steps", 238419, "238,419"),
    ("x", "as it is", "as it is"),
    ("price", {"low": 1, "likely": 2, "high": 3}, "$1.00 - $2.00 - $3.00"), ("fits", True, "yes"),
    ("ttft", {"p50": 0.1}, "p50: 100 ms"), ("price", None, "not known")])
def test_the_name_tells_the_unit(name, value, text):
    assert amounts.said(name, value) == text
