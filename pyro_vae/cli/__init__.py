"""The command line ``pyro-vae``: one file per command."""
