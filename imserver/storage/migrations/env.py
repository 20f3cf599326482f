"""What Alembic runs: the steps, on the connection that it was given, in the transaction that is open."""

from alembic import context

from imserver.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
