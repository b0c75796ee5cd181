"""The mapping: declared in a file (`spec`), compiled against the source's catalog (`plan`). Pure: no I/O, no clock."""
