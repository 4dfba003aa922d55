"""From a checkpoint, or a model behind an endpoint, to predictions that the scorer takes."""
