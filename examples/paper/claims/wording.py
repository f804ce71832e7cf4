"""How rules and what is found here are written. A threshold is a constant, from which its rule's text is made."""


def decimal(value):
    """.95"""
    return f"{value:g}".removeprefix("0")


def fixed(value):
    """.145, 1.000"""
    return f"{value:.3f}".removeprefix("0")


def exponential(value):
    """3e-2, 7.4e-6"""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def fraction(value):
    return {1 / 2: "half", 1 / 3: "a third", 2 / 3: "two thirds", 1 / 4: "a quarter"}.get(value) or decimal(value)


def times(value):
    return "twice" if value == 2 else f"{value:g} times"


def listed(values):
    """4, 8 and 16"""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def layers(count):
    return f"{count} layer{'' if count == 1 else 's'}"


def kilo(tokens):
    """128k"""
    return f"{tokens // 1024}k"


def arrow(spreads, form):
    """Before and after, and how few seeds they are of."""
    return " → ".join(spread.text(form) for spread in spreads) + one_seed(*spreads)


def one_seed(*spreads):
    return " (one seed)" if all(spread.count == 1 for spread in spreads) else ""
