"""The process that tries inputs, which may crash, hang, or run out of the memory that it has."""

MEMORY = 4 << 30  # bytes of address space


def work(kind, seed, results):
    """Try the inputs from a seed on, and send what came of each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from tests.fuzz.attack import attack

    while True:
        try:
            results.send((attack(kind, seed), ""))
        except AssertionError as error:
            results.send(("found", str(error)))
        seed += 1
