"""``python -m zmlx.evidence``."""

import sys

from zmlx.evidence.cli import main

sys.exit(main())
