#!/usr/bin/env bash
# The operator's own script: for each ADDRESS/LENGTH on standard input, `kubectl exec POD -- ip addr del … dev net1`.
# release.sh KUBECTL SERVER POD, where KUBECTL is a program that takes SERVER, POD and the command.
set -euo pipefail
kubectl=$1 server=$2 pod=$3
while read -r address; do
    $kubectl "$server" "$pod" ip addr del "$address" dev net1 </dev/null
done
