"""The page of a plan stands by itself, shows all that the plan holds, and its pictures are true."""

import copy
import html.parser
import itertools
import json
import math
import pathlib
import re
from xml.etree import ElementTree

import pytest

from lm.plan.html import page
from lm.plan.markup import anchor
from lm.plan.plane import place
from lm.plan.svg import SIZE, steps

HERE = pathlib.Path(__file__).parent
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and asserts that every tag is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def text(self):
        return " ".join(" ".join(self.words).split())


def load(kind):
    return json.loads((HERE / f"{kind}_plan.json").read_text())


@pytest.fixture(params=["train", "serve"])
def plan(request):
    return load(request.param)


def pictures(text):
    """The SVG elements of a page by their ids, less `picture-`."""
    found = map(ElementTree.fromstring, re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    return {x.get("id").removeprefix("picture-"): x for x in found}


def of_class(element, name):
    return [x for x in element.iter() if x.get("class") == name]


def box(x):
    """(x1, y1, x2, y2) of a rect, line, circle or line of text; None of what else there is."""
    def n(name):
        return float(x.get(name, 0))
    if x.tag == "rect":
        return n("x"), n("y"), n("x") + n("width"), n("y") + n("height")
    if x.tag == "line":
        return (min(n("x1"), n("x2")), min(n("y1"), n("y2")),
                max(n("x1"), n("x2")), max(n("y1"), n("y2")))
    if x.tag == "circle":
        return n("cx") - n("r"), n("cy") - n("r"), n("cx") + n("r"), n("cy") + n("r")
    if x.tag == "text" and not x.get("transform"):
        w = 0.56 * SIZE * len(x.text)
        left = n("x") - {"start": 0, "middle": w / 2, "end": w}[x.get("text-anchor")]
        return left, n("y") - SIZE + 2, left + w, n("y") + 2
    return None


def drawn(picture):
    """The elements that are seen, without those within definitions."""
    hidden = {id(x) for defs in picture.iter("defs") for x in defs.iter()}
    return [x for x in picture.iter() if id(x) not in hidden]


def test_the_page_needs_nothing_beside_it(plan):
    text = page(plan)
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert "@import" not in text and "url(http" not in text
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in reader.attributes if name == "href"} <= set(ids)
    references = re.findall(r"url\(#([^)]*)\)", text)
    assert set(references) <= set(ids)
    assert "prefers-color-scheme: dark" in text


def test_every_picture_says_in_words_what_it_is(plan):
    found = pictures(page(plan))
    wanted = {"memory", "price"} | (
        {"step-time", "lr", "batch-tokens", "compiled"} if "training" in plan else
        {"replicas", "ttft", "tpot"})
    assert found.keys() == wanted
    for x in found.values():
        named = x.get("aria-labelledby").split()
        title, desc = x.find("title"), x.find("desc")
        assert [title.get("id"), desc.get("id")] == named and title.text and desc.text


def test_all_that_the_plan_holds_is_there(plan):
    text = page(plan)
    reader = Reader(text)
    words, ids = reader.text(), [value for name, value in reader.attributes if name == "id"]
    for x in plan["choices"]:
        assert f"{x['rank']}: {x['chips']} {x['chip']} {x['slice']}" in words
    for x in plan.get("rejected", []):
        assert x["reason"] in words and x["mesh"] in words
    for kind, n in plan.get("rejected_count", {}).items():
        assert f"{n:,} for {kind}" in words
    for name, x in plan["figures"].items():
        assert anchor(name) in ids and name in words
        assert x["formula"] in words and x["values"] in words and x["source"] in words
    for x in plan.get("training", {}).get("laws", []):
        assert x["source"] in words
    for line in plan.get("advice", []):
        assert line in words


def test_numbers_link_to_where_they_are_from():
    text = page(load("train"))
    for name in ("step_time.fsdp", "price.total", "train.days", "link.rate"):
        assert f'href="#{name}"' in text and f'id="{name}"' in text


@pytest.mark.parametrize(("kind", "name"), [("train", "memory"), ("serve", "memory"),
                                            ("train", "step-time"), ("train", "compiled")])
def test_bars_are_as_long_as_what_they_stand_for(kind, name):
    plan = load(kind)
    picture = pictures(page(plan))[name]
    rows = of_class(picture, "row")
    everything = [x for row in rows for x in of_class(row, "part") + of_class(row, "under")]
    scale = (float(everything[0].get("width")) / float(everything[0].get("data-value")))
    for x in everything:
        assert float(x.get("width")) == pytest.approx(float(x.get("data-value")) * scale, abs=0.002)
    for row in rows:
        for kind_ in ("part", "under"):
            boxes = [box(x) for x in of_class(row, kind_)]
            for a, b in itertools.pairwise(boxes):
                assert b[0] == pytest.approx(a[2], abs=0.02)
    totals = [sum(float(x.get("width")) for x in of_class(row, "part")) / scale for row in rows]
    if name == "memory":
        start = box(of_class(rows[0], "part")[0])[0]
        for x, row, total in zip(plan["choices"], rows, totals, strict=True):
            assert total * 2**30 == pytest.approx(sum(x["memory"].values()), rel=1e-4)
            limit = float(of_class(row, "limit")[0].get("x1"))
            assert (limit - start) / scale * 2**30 == pytest.approx(x["memory_limit"], rel=1e-3)
            assert (total * 2**30 > x["memory_limit"]) is not x["fits"]
    if name == "step-time":
        for x, row, total in zip(plan["choices"], rows, totals, strict=True):
            assert total == pytest.approx(x["step_seconds"]["likely"], rel=1e-3)
            hidden = sum(v["seconds"] - v["exposed"] for v in x["step_time"].values())
            under = sum(float(y.get("width")) for y in of_class(row, "under")) / scale
            assert under == pytest.approx(hidden, rel=1e-3)
    if name == "compiled":
        best, found = plan["choices"][0], plan["compiled"]
        assert totals[0] * 2**30 == pytest.approx(best["memory_total"], rel=1e-4)
        assert totals[1] * 2**30 == pytest.approx(found["peak"], rel=1e-4)


def test_the_hidden_part_is_hatched_in_the_colour_of_its_part():
    picture = pictures(page(load("train")))["step-time"]
    patterns = {x.get("id"): x for x in picture.iter("pattern")}
    solid = {x.get("data-part"): x.get("fill") for x in of_class(picture, "part")}
    hatched = of_class(picture, "under")
    assert hatched
    for x in hatched:
        pattern = patterns[x.get("fill")[5:-1]]
        fill = solid[x.get("data-part")]
        if fill.startswith("url"):
            fill = patterns[fill[5:-1]].find("rect").get("fill")
        assert "rotate" in pattern.get("patternTransform")
        assert pattern.find("rect").get("fill") == fill


def test_the_front_is_of_those_that_none_beats():
    plan = load("train")
    points = of_class(pictures(page(plan))["price"], "point")
    priced = [x for x in plan["choices"] if x["price"]]
    assert {x.get("data-name") for x in points} == {str(x["rank"]) for x in priced}
    cost = {str(x["rank"]): (x["days"]["likely"], x["price"]["likely"])
            for x in priced if x["fits"]}
    front = {a for a in cost if not any(
        cost[b] != cost[a] and cost[b][0] <= cost[a][0] and cost[b][1] <= cost[a][1]
        for b in cost)}
    assert {x.get("data-name") for x in points if x.get("data-front")} == front
    assert len(front) > 1
    hollow = {x.get("data-name") for x in points if x.get("fill-opacity") == "0"}
    assert hollow == {str(x["rank"]) for x in priced if not x["fits"]}


def test_the_choice_without_a_price_is_listed():
    words = Reader(page(load("train"))).text()
    assert re.search(r"Price not known: 3: 32 7x 2x4x4: .* price not known: give --price", words)


def test_points_lie_where_their_logarithms_say():
    plan = load("train")
    picture = pictures(page(plan))["price"]
    at = {x.get("data-name"): float(x.get("cx")) for x in of_class(picture, "point")
          if x.tag == "circle"}
    days = {str(x["rank"]): math.log(x["days"]["likely"]) for x in plan["choices"]}
    (a, b, c) = sorted(at)
    assert (at[b] - at[a]) / (at[c] - at[a]) == pytest.approx(
        (days[b] - days[a]) / (days[c] - days[a]), rel=1e-2)


def test_nothing_is_drawn_outside(plan):
    for name, picture in pictures(page(plan)).items():
        _, _, wide, high = map(float, picture.get("viewBox").split())
        for x in drawn(picture):
            found = box(x)
            if found:
                assert found[0] >= 0 and found[1] >= 0, (name, ElementTree.tostring(x))
                assert found[2] <= wide and found[3] <= high, (name, ElementTree.tostring(x))


def test_text_is_over_nothing_that_hides_it(plan):
    for name, picture in pictures(page(plan)).items():
        seen = [x for x in drawn(picture) if box(x)]
        bars = [box(x) for x in seen if x.get("class") in ("part", "under", "key") and
                x.tag == "rect" or x.get("class") == "band"]
        for x in seen:
            if x.tag != "text":
                continue
            a = box(x)
            for b in bars:
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                inside = x.get("class") == "inside" and b[0] <= a[0] and a[2] <= b[2]
                assert apart or inside, (name, x.text)
        texts = [box(x) for x in seen if x.tag == "text"]
        for a, b in itertools.combinations(texts, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], name


def test_labels_of_many_points_do_not_meet():
    plan = load("train")
    first = plan["choices"][0]
    plan["choices"] = [
        first | {"rank": i + 1, "chips": 8 * (i + 1),
                 "days": dict(low=d * .9, likely=d, high=d * 1.1),
                 "price": dict(low=p * .9, likely=p, high=p * 1.1)}
        for i, (d, p) in enumerate((10 + 3 * (i % 7), 1e5 * (1 + .04 * i)) for i in range(40))]
    picture = pictures(page(plan))["price"]
    labels = [box(x) for x in of_class(picture, "label")]
    points = [box(x) for x in of_class(picture, "point")]
    assert len(points) == 40 and len(labels) > 20
    for a, b in itertools.chain(itertools.combinations(labels, 2),
                                itertools.product(labels, points)):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_that_finds_no_place_is_left_out():
    spots = [(50.0, 50.0, "a long label", "7")] * 2
    assert [text for *_, text in place(spots[:1], (0, 0, 300, 100))] == ["a long label"]
    assert [text for *_, text in place(spots[:1], (20, 20, 80, 80))] == ["7"]
    assert [text for *_, text in place(spots, (40, 40, 60, 60))] == []


def hostile(x, free=False):
    """The same plan with markup in every text and in the names of memory, parts and figures."""
    mark = '<script>alert("1")</script>&amp;'
    if isinstance(x, dict):
        return {k + mark if free else k: hostile(v, k in ("memory", "step_time", "figures"))
                for k, v in x.items()}
    if isinstance(x, list):
        return [hostile(v) for v in x]
    return x + mark if isinstance(x, str) and x != "serve" else x


def test_all_text_is_escaped(plan):
    text = page(hostile(plan))
    reader = Reader(text)
    assert "script" not in reader.tags and "<script" not in text
    assert pictures(text).keys() == pictures(page(plan)).keys()  # and each of them parses
    words = reader.text()
    assert plan["source"] + '<script>alert("1")</script>&amp;' in words
    assert next(iter(plan["figures"])) + "<script>" in words


@pytest.mark.parametrize("missing", [
    "compiled", "rejected", "rejected_count", "training", "figures", "pareto", "model", "advice",
    "made", "command", "source"])
def test_optional_parts_may_miss(plan, missing):
    for value in ({}, {missing: None}):
        some = {key: v for key, v in plan.items() if key != missing} | value
        assert Reader(page(some)).text().startswith("Plan: ")


def test_one_choice_without_price_or_parts(plan):
    one = copy.deepcopy(plan)
    one["choices"], one["pareto"] = one["choices"][:1], [0]
    assert "memory" in pictures(page(one))
    for key in ("price", "price_per_hour", "price_per_million_tokens", "load"):
        one["choices"][0] |= {key: None}
    assert "price" not in pictures(page(one))
    for key in ("step_time", "memory", "simulated", "goodput", "mfu", "overrides"):
        one["choices"][0].pop(key, None)
    Reader(page(one))
    assert "Nothing that was tried fits" in Reader(page(one | {"choices": []})).text()


def test_what_was_measured_is_shown():
    plan = load("train") | {
        "measured": {"step_seconds": {"predicted": 8.08, "measured": 8.4}},
        "calibration": [{"chip": "v5p", "matmul": 0.7, "source": "Table 3"}]}
    words = Reader(page(plan)).text()
    assert "8.40 s" in words and "Table 3" in words


@pytest.mark.parametrize("top", [1e-9, 0.3, 1, 7.9, 9.99, 95.74, 1234])
def test_the_steps_of_an_axis_reach_the_top(top):
    found = steps(top)
    assert found[0] == 0 and found[-2] < top <= found[-1] * (1 + 1e-8) and 5 <= len(found) <= 9
