"""Results as documents: versioned JSON, pages, Markdown and JUnit."""
