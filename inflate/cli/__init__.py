"""The command line: commands parse options and call functions; ``render*`` modules print."""
