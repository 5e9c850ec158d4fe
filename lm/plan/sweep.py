"""Many slices of many chips: which are worth a search, which hold the limits, and what would."""

from collections import Counter

from lm.base.errors import UserError
from lm.cost.chips import GIB
from lm.mesh import devices
from lm.plan import calibration, search, training, wanted
from lm.plan.asked import Asked
from lm.plan.config import Config
from lm.plan.listing import choice, rejected

FEW = 4      # slices that are searched over all meshes at once
ENOUGH = 3   # sizes of a chip that hold the limits; larger ones are dearer for the same
COARSE = ("data", "fsdp", "tensor")   # the axes that most models need


def sweep(a: Asked, slices: list) -> tuple[list[dict], dict, list[dict], Counter]:
    """Returns the best choices, the searches that found them by (chip, slice), and what was
    rejected, as lines and by kind.

    UserError says what would fit where nothing does.
    """
    lines, counts, listed, found = [], Counter(), [], {}
    coarse = a._replace(space=a.space._replace(axes=COARSE)) if len(slices) > FEW else a
    held = Counter()
    for s in slices:
        if coarse is not a and held[s.chip.name] >= ENOUGH and (a.own.days or a.own.budget):
            continue
        kind, why = wanted.hopeless(s, a.model.least, _flops(a), a.own)
        if kind:
            counts[kind] += 1
            lines.append(rejected(s, kind, why))
            continue
        one = _search(coarse, s, lines, counts)
        if len(one.order):
            found[s.chip.name, s.name] = one
            some = [choice(a, one, i) for i in one.order[:a.own.top if len(slices) == 1 else 1]]
            kept = _within(a, some, lines, counts)
            held[s.chip.name] += bool(kept)
            listed += kept
    if not listed:
        raise UserError(_nothing(a, slices, found, lines))
    if coarse is not a:  # the best one's slice, over all meshes
        best = min(listed, key=cost(a))
        key = best["chip"], best["slice"]
        one = _search(a, found[key].slice, lines, counts)
        found[key] = one
        better = _within(a, [choice(a, one, i) for i in one.order[:1]], lines, counts)
        listed = [*better, *(x for x in listed if x is not best or not better)]
    return listed, found, lines, counts


def cost(a: Asked):
    """Returns what choices are ordered by: time on given chips; else price, or chip-hours."""
    def key(x):
        if a.own.chips or a.own.slice:
            return 0, x["step_seconds"]["likely"] * x["chips"]
        return x["price"] is None, x["price"]["likely"] if x["price"] else x["chip_hours"]
    return key


def _search(a, s, lines, counts):
    one = search.search(a.experiment, s, a.space, *calibration.correction(a.ledger, s.chip))
    counts.update(one.refused)
    lines += [rejected(s, kind, why) for kind, why in one.why.items()]
    return one


def _flops(a):
    return a.model.flops["matmul+causal"] * a.training.tokens.value


def _within(a, listed, lines, counts):
    """The choices within the days and the budget."""
    kept = []
    for x in listed:
        days, price = x["days"]["likely"], x["price"] and x["price"]["likely"]
        if a.own.days and days > a.own.days:
            kind, why = "time", f"takes {days:.3g} of {a.own.days:g} days"
        elif a.own.budget and price is None:
            kind, why = "price", "price not known"
        elif a.own.budget and price > a.own.budget:
            kind, why = "price", f"costs ${price:,.0f} of ${a.own.budget:,.0f}"
        else:
            kept.append(x)
            continue
        counts[kind] += 1
        lines.append(dict(chip=x["chip"], slice=x["slice"], kind=kind, reason=why,
                          mesh=devices.words(x["mesh"]), overrides=x["overrides"]))
    return kept


def _nothing(a, slices, found, lines):
    """Why no choice will do, and what would."""
    kinds = Counter(x["kind"] for x in lines)
    if (a.own.days or a.own.budget) and (found or kinds["time"] or kinds["price"]):
        return _limits(a, slices, found)
    first = next((x for x in lines if x["kind"] == "memory"), lines[0])
    text = (f"nothing fits on {first['slice']} of {first['chip']}: "
            f"{first['mesh'] + ': ' if first['mesh'] else ''}{first['reason']}")
    if not kinds["memory"]:
        return text
    home = _home(a, slices)
    names = ", ".join(sorted({s.chip.name for s in slices}))
    return f"{text}; " + (
        f"the smallest that holds it: {home.slice.name} of {home.slice.chip.name}" if home else
        f"no slice of {names} holds it with batches of {a.experiment.data.B} sequences; "
        f"{a.model.state / GIB:,.0f} GiB of parameters and moments have to be held")


def _home(a, slices):
    """The search of the smallest slice of these chips that holds the model, or None."""
    none = Config()
    names = {s.chip.name for s in slices}
    more = sorted((s for name in names for s in wanted.wanted(
        Config(chip=name), a.experiment, a.chips)), key=lambda s: s.chips)
    for s in more:
        if not wanted.hopeless(s, a.model.least, 0.0, none)[0]:
            one = search.search(a.experiment, s, a.space._replace(axes=COARSE))
            if len(one.order):
                return one
    return None


def _largest(a, slices):
    """The search of the largest of some slices that holds the model and the batch, or None."""
    for s in sorted(slices, key=lambda s: -s.chips):
        one = search.search(a.experiment, s, a.space._replace(axes=COARSE))
        if len(one.order):
            return one
    return None


def _limits(a, slices, found):
    """What the days and the budget would buy: of the cheapest chip, and of the fastest choice."""
    free = a._replace(own=Config(mtbf=a.own.mtbf, data_tokens=a.own.data_tokens))
    tried = [choice(free, one, one.order[0]) for one in found.values()]
    for name in dict.fromkeys(s.chip.name for s in slices):
        mine = [s for s in slices if s.chip.name == name]
        if name not in {x["chip"] for x in tried}:
            one = _largest(a, mine) if a.own.days else _home(a, mine)
            if one:
                tried.append(choice(free, one, one.order[0]))
    if not tried:
        return "no chip holds the model at all; see lm plan without --days and --budget"
    tokens = a.training.tokens.value
    fast = min(tried, key=lambda x: x["days"]["likely"])
    priced = [x for x in tried if x["price"]]
    if a.own.budget and not priced:
        return training.NO_PRICE
    cheap = min(priced, key=lambda x: x["price"]["likely"]) if priced else None
    if a.own.budget and cheap["price"]["likely"] > a.own.budget:
        return training.within_budget(
            a.own.budget, cheap["chip"], cheap["price"]["likely"] / cheap["chip_hours"], tokens,
            cheap["chip_hours"])
    text = training.within_days(a.own.days, fast["chip"], fast["chips"], tokens,
                                fast["days"]["likely"])
    if a.own.budget:
        text += (f"; the cheapest, {cheap['chips']} {cheap['chip']}, costs "
                 f"${cheap['price']['likely']:,.0f} and takes {cheap['days']['likely']:.3g} days")
    return text
