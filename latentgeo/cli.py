"""The command line: `latentgeo COMMAND`; the commands are in `_cli`, one module each.

They take and return files (.npy, .npz, .csv, .parquet, .html). Exit code 0 is success; 1 means that some curves failed
or a fit did not converge (the results are still written, with their status), or that a report has severe findings; 2
that the input was wrong; 130 and 143 that the command was interrupted. `--out` is the file that a command is for,
further ones are named after their kind (`--html`, `--json`), and all are written whole or not at all.
"""

from __future__ import annotations

import sys

from latentgeo._cli import interrupts


def main() -> None:
    """Run the command line; the console script `latentgeo` calls this."""
    interrupts.listen()
    try:
        from latentgeo._cli.app import app

        app(prog_name="latentgeo")
    except KeyboardInterrupt:  # before a command had begun
        text, code = interrupts.outcome(None)
        sys.stderr.write(f"latentgeo: {text}\n")
        sys.exit(code)


if __name__ == "__main__":
    main()
