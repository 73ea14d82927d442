"""Alembic's migrations of the ledger. They are run by ``ray_mlops.ledger.schema``, without an ini file."""
