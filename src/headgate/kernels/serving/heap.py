"""A binary heap of integers inside a row of an array, and a tree that knows its smallest leaf."""

from headgate.kernels.serving.compiling import compiled, inlined
from headgate.kernels.serving.layout import At, Floats, Ints


@inlined
def sift_up(row: Ints, first: int, at: int, key: int) -> None:
    """Put `key` at entry `at` of the heap that starts at row[first], or where it belongs above."""
    while at > 0:
        parent = (at - 1) >> 1
        above = row[At(first + parent)]
        if above <= key:
            break
        row[At(first + at)] = above
        at = parent
    row[At(first + at)] = key


@inlined
def heap_push(row: Ints, first: int, size: int, key: int) -> None:
    """Add `key` to the heap of `size` entries that starts at row[first]."""
    sift_up(row, first, size, key)


@inlined
def heap_pop(row: Ints, first: int, size: int) -> None:
    """Take the smallest key off the heap of `size` entries that starts at row[first].

    The gap goes down to a leaf by the smaller child and is filled from below: the last entry
    belongs near the leaves, and going down without a look at it needs no branch to guess.
    """
    last = row[At(first + size - 1)]
    size -= 1
    at = 0
    child = 2
    while child < size:
        child -= int(row[At(first + child - 1)] < row[At(first + child)])
        row[At(first + at)] = row[At(first + child)]
        at = child
        child = 2 * at + 2
    if child == size:
        row[At(first + at)] = row[At(first + child - 1)]
        at = child - 1
    sift_up(row, first, at, last)


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
    tree[At(at)] = key
    at >>= 1
    while at > 0:
        left, right = tree[At(2 * at)], tree[At(2 * at + 1)]
        smallest = min(left, right)
        if tree[At(at)] == smallest:
            break
        tree[At(at)] = smallest
        at >>= 1


@inlined
def tree_first(tree: Floats) -> int:
    """The lowest leaf among those that hold the smallest key."""
    leaves = tree.size >> 1
    at = 1
    while at < leaves:  # which child cannot be guessed, so it is computed
        at = 2 * at + int(tree[At(2 * at)] > tree[At(2 * at + 1)])
    return at - leaves
