"""From prompts to the images and tensors of a cache."""
