"""Everything that fixes a run, as typed records and as the YAML files that ship."""
