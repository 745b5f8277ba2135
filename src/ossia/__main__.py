"""`python -m ossia` is `ossia`."""

import sys

from ossia.commands.main import main

sys.exit(main())
