"""Is a LinFusion checkpoint as good as its teacher? Checks, their bars, and the report."""
