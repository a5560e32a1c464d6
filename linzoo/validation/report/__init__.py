"""The report of a validation: one page, and pictures for a model card, out of what ``report.json`` holds."""
