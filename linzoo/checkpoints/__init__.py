"""Weights on disk and on the Hub: headers, sources, detection, key maps, writing. Never torch at module level."""
