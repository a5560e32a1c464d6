"""Recipes that ship with linzoo: distillation documents, and how mini was trained."""
