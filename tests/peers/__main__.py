"""``python -m peers``: what ``make peers`` runs."""

import sys

from peers.bring import main

sys.exit(main())
