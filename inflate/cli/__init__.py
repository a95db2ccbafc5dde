"""The command line: one small file a command, each parsing, calling and rendering."""
