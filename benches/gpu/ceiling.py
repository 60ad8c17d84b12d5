"""The most that a GPU can do for an encoder, from its rates of arithmetic and of memory.

A layer is seven launches, one after the other: the products of queries, keys and values, attention, the product behind it,
a sum with normalization, two products of the inner layer, and again a sum with normalization. Each takes the longer of its
arithmetic and its reads and writes of activations in 16 bits; weights, which are read once per batch, are left out.
"""

from encoders import SHAPES

# Operations and bytes per second that are reached at best (not those of data sheets), for 16 bits.
KNOWN = {"H100": (790e12, 3.0e12), "H200": (790e12, 4.3e12)}


def limits(gpu, doctor):
    """Return operations and bytes per second of a GPU, and where they are from; None if nothing is known."""
    if "H200" in gpu:
        return *KNOWN["H200"], "known for the H200"
    if "H100" in gpu and "HBM3" in gpu:
        return *KNOWN["H100"], "known for the H100 SXM"
    rates = measured(doctor)
    return (*rates, "measured by doctor") if rates else None


def measured(doctor):
    """Return what `alcedo doctor --json` measured: operations on f16, and bytes that a copy on the device reads and writes."""
    speed = doctor.get("examined", {}).get("speed", {})
    product, memory = speed.get("products", {}).get("f16", {}), speed.get("on_device_bytes")
    return (product["flops"], memory) if product and memory else None


def items_per_second(model, tokens, operations, memory):
    """Return how many texts of so many tokens a GPU could encode per second."""
    hidden, layers, _, inner, _, _ = SHAPES[model]
    # Operations and numbers read and written, per token.
    launches = [
        (6 * hidden * hidden, 4 * hidden),
        (4 * tokens * hidden, 4 * hidden),
        (2 * hidden * hidden, 2 * hidden),
        (0, 3 * hidden),
        (2 * hidden * inner, hidden + inner),
        (2 * hidden * inner, hidden + inner),
        (0, 3 * hidden),
    ]
    seconds = sum(max(work / operations, 2 * numbers / memory) for work, numbers in launches)
    return 1 / (layers * tokens * seconds)
