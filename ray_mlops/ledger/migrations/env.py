"""Alembic's entry: runs the migrations on the connection, and in the transaction, that it is given."""

from alembic import context


def run_migrations() -> None:
    """Run what is missing; the caller holds the writer's lock and commits."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"], version_table=attributes["version_table"], transactional_ddl=True
    )
    context.run_migrations()


if __name__ == "env_py":  # the name under which alembic runs this file; importing it does nothing
    run_migrations()
