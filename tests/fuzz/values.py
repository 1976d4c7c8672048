"""Mutations that several kinds share: of what JSON holds, and of bytes."""

import copy
import json

NUMBERS = [0, -1, 1, 2, 3, 7, 255, 65536, 300000, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 1e-9, 1e9, 1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "center", "avg", "se", "0", "../x", "a/b", "\x1b[2J", "a\nb", "\ud800", "x" * 5000, "[/x]", "float32"]
TEXTS += ["\x1b]8;;http://x\x07link\x1b]8;;\x07", "\u202etxt.exe", "a\r\u2028b", "\0", "%s{0}", "=1+1", "1e400", "NaN"]
OTHERS = [None, True, False, [], {}, [1], [[]], ["a", 1], {"0": "a"}, {"x": 1}, {"5": "f", "05": "g"}, [0.5] * 3]


def value(rng):
    """Anything that JSON can hold, and Python's NaN and Infinity."""
    chosen = copy.deepcopy(rng.choice(rng.choice([NUMBERS, TEXTS, OTHERS])))  # it may be changed in turn
    return [chosen] * rng.choice([1, 2, 3, 4, 100]) if rng.random() < 0.2 else chosen


def places(tree, path=()):
    """The paths of all entries of nested objects and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate_tree(rng, tree, times=None):
    """Change some entries in place: replaced, scaled, removed or added."""
    for _ in range(times or rng.choice([1, 1, 1, 2, 5])):
        found = list(places(tree))
        if not found:
            return
        *parents, key = rng.choice(found)
        holder = tree
        for parent in parents:
            holder = holder[parent]
        old = holder[key]
        is_number = isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 10**300
        how = rng.choice(["replace", "replace", "scale", "remove", "add", "swap"])
        if how == "scale" and is_number:
            holder[key] = old * rng.choice([-1, 0, 2, 3, 10, 100, 1000, 0.1, 1.5])
        elif how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[rng.choice(["", "x", "dtype", "config", "data_config", "__class__", "a\n", "0"])] = value(rng)
        elif how == "add":
            holder.append(value(rng))
        elif how == "swap" and isinstance(old, str) and isinstance(holder, dict):
            holder[key] = rng.choice([v for v in holder.values() if isinstance(v, str)])
        else:
            holder[key] = value(rng)


def mutate_bytes(rng, content):
    """Some bytes changed, removed, repeated, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(content) + 1)
        how = rng.choice(["change", "change", "cut", "remove", "insert", "number"])
        if how == "change" and at < len(content):
            content[at] = rng.randrange(256)
        elif how == "cut" and rng.random() < 0.3:
            del content[at:]
        elif how == "remove":
            del content[at : at + rng.randrange(1, 9)]
        elif how == "insert":
            content[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == "number":
            content[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
    return bytes(content)


def to_json(tree):
    return json.dumps(tree).encode()
