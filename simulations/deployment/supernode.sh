#!/bin/sh
# A SuperNode with TLS and its own key, registered before with
# `flwr supernode register NODE.pub SUPERLINK`.
#
#     simulations/deployment/supernode.sh SUPERLINK CA.crt KEY NODE_CONFIG [PORT]
#
# SUPERLINK is host:port as the certificate has it. NODE_CONFIG is e.g.
# "partition-id=0 num-partitions=4 state-dir='/var/lib/fedstrategies'". PORT (9094) is where this
# node's own ClientApp processes reach it; each SuperNode of a machine needs another one.
set -eu
usage="usage: supernode.sh SUPERLINK CA.crt KEY NODE_CONFIG [PORT]"
superlink=${1:?"$usage"}
ca=${2:?"$usage"}
key=${3:?"$usage"}
config=${4:?"$usage"}
port=${5:-9094}

export FLWR_TELEMETRY_ENABLED="${FLWR_TELEMETRY_ENABLED:-0}"
export FLWR_DISABLE_UPDATE_CHECK="${FLWR_DISABLE_UPDATE_CHECK:-1}"

exec flower-supernode \
    --superlink "$superlink" --root-certificates "$ca" \
    --auth-supernode-private-key "$key" \
    --node-config "$config" --port "$port"
