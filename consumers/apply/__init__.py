"""From events to writes: `decide` is pure, `write` acts."""
