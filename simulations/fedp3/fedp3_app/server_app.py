"""The server: one experiment, its results in ``output-dir``."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedstrategies.experiment.server_app import serve

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration describes; see `serve`."""
    serve(grid, context)
