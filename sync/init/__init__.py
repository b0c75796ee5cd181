"""`tandem init`: from a schema's facts to a mapping file, with the reason of each guess beside it."""
