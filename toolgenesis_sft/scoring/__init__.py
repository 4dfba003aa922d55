"""What a generated server is worth: four layers, each figure with the side at fault."""
