"""How long the processes of a run wait for each other; apart, because command lines should not wait for jax."""

INIT_TIMEOUT = 300  # seconds until all must be there
HEARTBEAT_TIMEOUT = 50  # seconds of silence until one is taken for dead; the others have ended ten seconds later
