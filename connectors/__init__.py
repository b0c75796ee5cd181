"""The outside world: one room per system, and the plain values that cross between them."""
