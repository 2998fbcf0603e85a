"""The command line: one file a command. minillm/__main__.py says which options each takes."""
