"""Documents back into rows: the mapping read from right to left. What decides is pure."""
