"""Convolutions on which a kernel of ours was measured to be faster than the library.

Written by `python -m benchmarks.fit_conv_table`, not by hand; `conv_table` reads it.
"""

# fmt: off

# Where the rows of a GPU's capability come from.
MEASURED_ON: dict[tuple[int, int], tuple[str, ...]] = {
}

# The fields of conv_table.Conv: spans (kernel, positions from, to), None for any more.
FASTER: dict[tuple, tuple[tuple[str, int, int | None], ...]] = {
}
