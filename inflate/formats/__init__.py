"""Names and shapes: the autoencoder in a file, its architecture, and its layout."""
