"""The plan of a conversion, the start of the temporal layers, and the carrying out of both."""
