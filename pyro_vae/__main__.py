"""Run the command line: ``python -m pyro_vae`` is ``pyro-vae``."""

import sys

from pyro_vae.cli.main import main

sys.exit(main())
