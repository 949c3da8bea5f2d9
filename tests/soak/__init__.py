"""The product at a steady rate for a long time, and whether anything of it grows: `make soak MINUTES=30 RATE=2`."""
