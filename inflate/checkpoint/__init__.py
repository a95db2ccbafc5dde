"""Files: where an autoencoder stands in them, how they are read, how they are written."""
