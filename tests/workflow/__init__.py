"""The jobs, and what happens around them."""
