"""Covariates from a DEM: time and memory.

    python benchmarks/covariates.py terrain --size 8192
    python benchmarks/covariates.py hydrology --size 4096 --chunk 512

The last lines are JSON. Ratios are of one run; another machine, or a busy one, has other times.
"""

import argparse

import hydrology
import terrain

SUBCOMMANDS = {"terrain": terrain, "hydrology": hydrology}


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = parser.add_subparsers(dest="what", required=True)
    for name, module in SUBCOMMANDS.items():
        module.arguments(choices.add_parser(name, help=module.__doc__))
    given = parser.parse_args()
    SUBCOMMANDS[given.what].main(given)


if __name__ == "__main__":
    main()
