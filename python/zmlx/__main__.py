"""``python -m zmlx``."""

import sys

from zmlx.cli import main

sys.exit(main())
