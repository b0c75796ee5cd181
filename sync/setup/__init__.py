"""All that the pipeline needs, made once and again without harm: publication, slot, topics, connector, collections."""
