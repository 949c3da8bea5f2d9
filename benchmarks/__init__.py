"""How fast, and how much memory: programs that compare ways side by side in one run, and write JSON."""
