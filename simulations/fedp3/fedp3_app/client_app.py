"""The clients: each holds its rows and remembers nothing."""

from fedstrategies import client_app
from fedstrategies.experiment.clients import client_from_run_config

app = client_app(client_from_run_config)
