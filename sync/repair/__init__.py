"""Documents that differ, made anew from their rows: which, what each becomes, and whether it agrees then."""
