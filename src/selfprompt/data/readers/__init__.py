"""Reads the user's folders, tables and data-set objects into splits of labelled images."""
