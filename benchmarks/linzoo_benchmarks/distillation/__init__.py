"""What distillation is worth, measured on mini: recipes against each other, transfer, resolution, speed."""
