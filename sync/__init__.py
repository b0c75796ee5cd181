"""The operation: what the operator starts, watches, switches and undoes."""
