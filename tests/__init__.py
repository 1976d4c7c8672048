"""A package, so that the `tests` of other projects on the path do not hide it from processes that tests start."""
