"""The frontier: what is known, what waits, and whose turn it is.

`local` holds the decisions, over a `Store`: `memory` keeps nothing beyond the process, `disk` keeps everything in LMDB.
The contract is `crawler.contracts.Frontier`; a new engine implements it and passes `tests/frontier/test_contract.py`.
"""
