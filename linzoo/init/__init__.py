"""How a fresh mixer gets its weights from a teacher: one file an init recipe, and the conversion itself."""
