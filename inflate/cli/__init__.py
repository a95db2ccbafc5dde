"""The command line: commands parse and call, ``render*`` modules print."""
