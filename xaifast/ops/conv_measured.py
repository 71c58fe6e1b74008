"""Convolutions on which a kernel of ours was measured to be faster than the library.

Written by `python -m benchmarks.fit_conv_table`, not by hand; `conv_table` reads it.

Nothing is measured yet.
"""

# fmt: off

# Key: the fields of conv_table.Conv. Value: (kernel, positions from, positions to, None: any more).
FASTER: dict[tuple, tuple[tuple[str, int, int | None], ...]] = {
}
