"""The zoo: indexes of LinFusion checkpoints, searching them, and choosing weights for a pipeline."""
