"""`python -m lrd_harness` is `lrd-harness`."""

import sys

from lrd_harness.cli import main

sys.exit(main())
