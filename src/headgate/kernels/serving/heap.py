"""A binary heap of integers inside a row of an array, and a tree that knows its smallest leaf."""

from headgate.kernels.serving.compiling import compiled, inlined
from headgate.kernels.serving.layout import Floats, Ints


@inlined
def heap_push(row: Ints, first: int, size: int, key: int) -> None:
    """Add `key` to the heap of `size` entries that starts at row[first]."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        above = row[first + parent]
        if above <= key:
            break
        row[first + at] = above
        at = parent
    row[first + at] = key


@inlined
def heap_pop(row: Ints, first: int, size: int) -> None:
    """Take the smallest key off the heap of `size` entries that starts at row[first]."""
    last = row[first + size - 1]
    size -= 1
    at = 0
    child = 1
    while child < size:
        below = row[first + child]
        if child + 1 < size and row[first + child + 1] < below:
            child += 1
            below = row[first + child]
        if last <= below:
            break
        row[first + at] = below
        at = child
        child = 2 * at + 1
    row[first + at] = last


@compiled
def sort_ascending(keys: Ints, size: int) -> None:
    """Sort the first `size` entries in place (Shell's sort: nothing is allocated)."""
    gap = size // 2
    while gap > 0:
        for i in range(gap, size):
            key = keys[i]
            at = i
            while at >= gap and keys[at - gap] > key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key
        gap //= 2


@inlined
def tree_set(tree: Floats, leaf: int, key: float) -> None:
    """Put `key` at a leaf of a tree of minima; tree[1] is the smallest of all.

    A tree over L leaves (L a power of two) is an array of 2 L: node i has children 2 i and 2 i + 1
    and the leaves begin at L.
    """
    at = (tree.size >> 1) + leaf
    tree[at] = key
    at >>= 1
    while at > 0:
        left, right = tree[2 * at], tree[2 * at + 1]
        smallest = left if left <= right else right
        if tree[at] == smallest:
            break
        tree[at] = smallest
        at >>= 1


@inlined
def tree_first(tree: Floats) -> int:
    """The lowest leaf among those that hold the smallest key."""
    leaves = tree.size >> 1
    at = 1
    while at < leaves:
        at *= 2
        if tree[at] > tree[at + 1]:
            at += 1
    return at - leaves
