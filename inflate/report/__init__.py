"""Results turned into documents: versioned JSON now, for programs."""
