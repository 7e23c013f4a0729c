"""Published protocols as grids of cells: building a grid, running it, and reading its results."""
