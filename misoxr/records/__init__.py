"""Records beside a store: who writes to it, which blocks are done, and which are claimed, as small files.

``writers`` tells the living from the dead, and lets nothing of the dead arrive. ``ledger`` keeps the plan of a store, and its blocks.
"""
