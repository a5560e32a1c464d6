"""LinFusion checkpoints on the Hugging Face Hub: model card, licence, push, and whether what lies there is what was made."""
