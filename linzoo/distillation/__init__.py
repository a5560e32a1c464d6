"""From a converted checkpoint to one as good as its teacher: recipes, data, losses, stages, the run."""
