"""The command line: one thin file a command; whatever is heavy is imported inside a command's body."""
