"""Recipes: all settings of a run as typed records, and the YAML files of the package."""
