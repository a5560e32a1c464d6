"""Drawing with a teacher and its student, and laying the pictures side by side."""
