"""Models in transformers' format (config.json and weights) as models of open_clip and timm; without transformers."""
