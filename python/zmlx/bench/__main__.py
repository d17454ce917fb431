"""``python -m zmlx.bench``."""

import argparse
import sys

from zmlx.bench.cli import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m zmlx.bench")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
