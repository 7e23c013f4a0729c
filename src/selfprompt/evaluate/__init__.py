"""What a model is worth: metrics, the record of a run, the published protocols."""
