"""From what the user has (folders, tables, objects) to splits of labelled images."""
