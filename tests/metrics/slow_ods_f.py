"""odsF straight from its definition: loops over pixels, sets of places, one path at a time."""

import math


def slow_ods_f(prediction, target, thresholds=None, tolerance=0.011, nms=True):
    """Percent, of a batch; labels 0, 1 and 255."""
    if thresholds is None:
        thresholds = [0.001, *(i / 100 for i in range(1, 100)), 0.999]
    totals = {t: [0, 0, 0] for t in thresholds}
    for scores, labels in zip(prediction, target, strict=True):
        height, width = labels.shape
        values = {}
        for place in places(height, width):
            score = float(scores[place])
            usable = labels[place] != 255 and not math.isnan(score)
            values[place] = math.floor(score * 255 + 0.5) if usable else 0
        strength = slow_suppress(values, height, width) if nms else values
        true = slow_thin({p for p in places(height, width) if labels[p] == 1})
        for t in thresholds:
            predicted = slow_thin({p for p, v in strength.items() if v / 255 >= t})
            matched = slow_matching(predicted, true, tolerance * math.hypot(height, width))
            totals[t] = [
                a + b for a, b in zip(totals[t], (len(predicted), len(true), matched), strict=True)
            ]
    best = 0.0
    for predicted, true, matched in totals.values():
        if matched:
            precision, recall = matched / predicted, matched / true
            best = max(best, 100 * 2 * precision * recall / (precision + recall))
    if not any(predicted or true for predicted, true, _ in totals.values()):
        return 100.0
    return best


def places(height, width):
    return [(y, x) for y in range(height) for x in range(width)]


def slow_suppress(values, height, width):
    """From `{(y, x): 0..255}` to the same with what is no ridge at 0, and the frame faded."""

    def mirrored(i, size):
        while not 0 <= i < size:
            i = -1 - i if i < 0 else 2 * size - 1 - i
        return i

    smooth = {}
    for y, x in places(height, width):
        total = 0
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                there = mirrored(y + dy, height), mirrored(x + dx, width)
                total += (5 - abs(dy)) * (5 - abs(dx)) * values[there]
        smooth[y, x] = total / 255 / 625

    def slope(of, y, x, axis):
        size = (height, width)[axis]
        if size == 1:
            return 0.0
        here = (y, x)[axis]
        low, high = max(here - 1, 0), min(here + 1, size - 1)
        at = [(low, x), (high, x)] if axis == 0 else [(y, low), (y, high)]
        return (of(*at[1]) - of(*at[0])) / (high - low)

    def value(y, x):
        return smooth[y, x]

    def slope_x(y, x):
        return slope(value, y, x, 1)

    def slope_y(y, x):
        return slope(value, y, x, 0)

    def between(y, x):
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        total = 0.0
        for j in {math.floor(y), math.ceil(y)}:
            for i in {math.floor(x), math.ceil(x)}:
                total += (1 - abs(y - j)) * (1 - abs(x - i)) * values[j, i]
        return total

    def fade(i, size):
        frame = min(5, size // 2)
        return min(1, i / frame, (size - 1 - i) / frame) if frame else 0

    out = {}
    for y, x in places(height, width):
        xx, xy = slope(slope_x, y, x, 1), slope(slope_y, y, x, 1)
        yy = slope(slope_y, y, x, 0)
        sign = -1 if xy > 1e-12 else 1
        angle = math.atan(sign * yy / (xx + 1e-5))
        dy, dx = math.sin(angle), math.cos(angle)
        own = values[y, x] * 1.01 + 1e-9
        ridge = own >= between(y + dy, x + dx) and own >= between(y - dy, x - dx)
        # Five values a step: rounded, or 51 / 255 would not reach 0.2 after a detour.
        out[y, x] = round(values[y, x] * fade(y, height) * fade(x, width), 9) if ridge else 0
    return out


def slow_thin(places):
    """Guo and Hall's first algorithm (1989), on a set of places."""
    places = set(places)
    while True:
        before = len(places)
        for turn in (0, 1):
            places -= {place for place in places if _may_go(place, places, turn)}
        if len(places) == before:
            return places


def _may_go(place, places, turn):
    y, x = place
    steps = {
        "e": (0, 1),
        "ne": (-1, 1),
        "n": (-1, 0),
        "nw": (-1, -1),
        "w": (0, -1),
        "sw": (1, -1),
        "s": (1, 0),
        "se": (1, 1),
    }
    e, ne, n, nw, w, sw, s, se = ((y + dy, x + dx) in places for dy, dx in steps.values())
    pieces = (not e and (ne or n)) + (not n and (nw or w)) + (not w and (sw or s))
    pieces += not s and (se or e)
    one = (e or ne) + (n or nw) + (w or sw) + (s or se)
    other = (ne or n) + (nw or w) + (sw or s) + (se or e)
    if turn == 0:
        kept = (ne or n or not se) and e
    else:
        kept = (sw or s or not nw) and w
    return pieces == 1 and 2 <= min(one, other) <= 3 and not kept


def slow_matching(predicted, true, radius):
    """How many pairs at most `radius` apart there can be: one augmenting path at a time."""
    partner = {}

    def place(p, tried):
        for t in true:
            if t not in tried and (p[0] - t[0]) ** 2 + (p[1] - t[1]) ** 2 <= radius**2:
                tried.add(t)
                if t not in partner or place(partner[t], tried):
                    partner[t] = p
                    return True
        return False

    return sum(place(p, set()) for p in predicted)
