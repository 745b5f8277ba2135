"""`python -m ossia` is `ossia`."""

import sys

from ossia.cli import main

sys.exit(main())
