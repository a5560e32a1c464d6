"""The networks that validation looks at pictures with: what they are, how they are found, and those built in."""
