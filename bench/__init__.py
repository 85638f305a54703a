"""The benchmark: `make bench`, or python -m bench. README and ADRs quote its table.

Everything is measured in one run on one machine and compared with something that ran in the
same minute, because absolute numbers say more of the machine than of the code.
"""
