"""Files beside merged weights: model card, licences, and adapters extracted from a model."""
