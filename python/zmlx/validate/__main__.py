"""``python -m zmlx.validate``."""

import sys

from zmlx.validate.cli import main

sys.exit(main())
