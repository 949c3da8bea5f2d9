"""Workers are killed at exact places, and it is measured how soon their work goes on: `make recovery KILLS=20`."""
