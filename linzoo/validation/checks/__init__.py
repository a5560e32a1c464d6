"""The checks that ship with linzoo, one subject a file; ``linzoo_checks`` declares them."""
