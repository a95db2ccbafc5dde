"""The plan of a conversion, the initial values of temporal layers, and carrying out the plan."""
