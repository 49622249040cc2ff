"""How far work has come: records beside a store, as small files, and bars for those who wait.

``writers`` tells the living from the dead, and lets nothing of the dead arrive. ``ledger`` keeps the plan of a store, its blocks, and which
are done or claimed. ``bars`` shows how far a call is.
"""
