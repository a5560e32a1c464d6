"""Where latents and captions come from, and the caches that hold them."""
