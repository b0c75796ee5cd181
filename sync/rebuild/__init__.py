"""One collection again, beside the live one: what is to be done next, and what differs. Pure."""
