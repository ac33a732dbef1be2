"""What many rows come to: numbers that are added up row by row, and tables. Pure; `report` makes a run's summary and
page of them.

Nothing is imported here: of a large run, processes of their own do the sums (`summing_process`), each with as few
modules as that takes.
"""
