"""Exact Hamming search: packed codes and the compiled loops that scan and probe them."""
