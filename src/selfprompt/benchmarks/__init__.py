"""Published protocols as grids of cells: what to run, running it, and reading what was measured."""
