"""Notices: what happened, told to people and machines outside.

Read in this order: ``notice`` (what is sent), ``rendering`` (an event of the ledger becomes a notice), ``standing``
(which alarms stand), ``delivery`` (what follows from an attempt), ``follower`` (one target's place in the ledger),
``notifier`` (the threads). The ledger is the outbox: nothing is queued anywhere else, so nothing is lost with a
process.
"""
