"""The jobs, and what goes on beside them."""
