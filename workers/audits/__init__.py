"""Audits: what gateways carry, against what should be there.

Two questions are asked apart, what is there and what should be, and the difference is data (`comparison`). One gateway
is audited by the worker that has its lock (`gateway`), all of them by a command (`survey`); releasing what is found is
a step of its own (`mending`), and goes the way of every release.
"""
