"""The command table: which function stands behind which command. Nothing else.

Heavy imports stay inside the commands: `synthaug --help` loads no torch.
"""

import sys
from collections.abc import Sequence

from cyclopts import App

from synthaug import __version__
from synthaug.cli import adapt, detect, generate, insert, look, measure, move, plan, report, terminal

app = App(
    name="synthaug",
    help="Label-conditioned synthetic chest radiographs. Research use, not for diagnosis.",
    version=f"synthaug {__version__}",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
app.command(generate.generate)
app.command(insert.insert)
app.command(adapt.adapt)
app.command(detect.train)
app.command(detect.predict)
app.command(measure.evaluate)
app.command(measure.benchmark)
app.command(plan.plan)
app.command(report.report)
app.command(look.list_findings, name="findings")
app.command(look.data)
app.command(look.verify)
app.command(look.models)
app.command(move.pack)
app.command(move.export)
app.command(move.merge)
app.command(move.split)
app.command(move.dedupe)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return terminal.run(app, sys.argv[1:] if arguments is None else arguments)
