"""Torture: the whole product on a sandbox cluster under every fault we know, judged by a referee from outside.

    make chaos EIPS=10000 GATEWAYS=20 MINUTES=30 SEED=1

`script` is what goes wrong and when, from a seed alone. `parts` are the processes it goes wrong with, `lives` the EIPs
that come and go meanwhile, and `world` strikes. `witness` writes down what the kernel, the API and the queue say; `judge` says from that
alone whether the product kept its promises, and `report` tells people. Judge and witness share no code with the product.
"""
