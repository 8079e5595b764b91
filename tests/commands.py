"""Running the command line inside a test, as a user would: exit codes and the one line that says what was wrong."""

from __future__ import annotations

from typer.testing import CliRunner

from latentgeo._cli.app import app


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exit_code != code:
        raise AssertionError(f"exit code {result.exit_code}, not {code}:\n{result.output}") from result.exception
    return result


def refused(*arguments):
    """The one line that says why a command refused."""
    result = run(*arguments, code=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("latentgeo: ")
    assert "Traceback" not in result.output
    return lines[0]
