#!/bin/sh
# The SuperLink with TLS, for SuperNodes that are registered.
#
#     simulations/deployment/superlink.sh CREDENTIALS [HOST] [PORT] [DATABASE]
#
# CREDENTIALS is the folder that credentials.py made (ca.crt, server.crt, server.key). HOST is the
# address to listen on (0.0.0.0: all of this machine's), PORT 8000 unless said otherwise. The
# DATABASE keeps nodes and runs over a restart of the SuperLink.
set -eu
credentials=${1:?"usage: superlink.sh CREDENTIALS [HOST] [PORT] [DATABASE]"}
host=${2:-0.0.0.0}
port=${3:-8000}
database=${4:-superlink.db}

export FLWR_TELEMETRY_ENABLED="${FLWR_TELEMETRY_ENABLED:-0}"
export FLWR_DISABLE_UPDATE_CHECK="${FLWR_DISABLE_UPDATE_CHECK:-1}"

exec flower-superlink \
    --host "$host" --port "$port" --database "$database" \
    --ssl-ca-certfile "$credentials/ca.crt" \
    --ssl-certfile "$credentials/server.crt" \
    --ssl-keyfile "$credentials/server.key" \
    --enable-supernode-auth \
    --disable-runtime-dependency-installation
