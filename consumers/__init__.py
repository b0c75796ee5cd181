"""What happens to one event: a pure mapping, a pure decision, a thin act."""
