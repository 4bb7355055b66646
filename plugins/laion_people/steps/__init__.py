"""The steps, a file or a folder each."""
