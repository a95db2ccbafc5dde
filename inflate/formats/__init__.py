"""Names: which tensors of a file are an autoencoder, of which architecture, in which layout."""
