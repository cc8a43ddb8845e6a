"""Small Pyro programs of the kinds that are published, for tests that hold for any program."""
