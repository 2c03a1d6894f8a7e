"""The embedded world: captions, a renderer, exact rewards, and tiny diffusion backbones trained on them."""
