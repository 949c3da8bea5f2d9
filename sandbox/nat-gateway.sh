#!/usr/bin/env bash
# What Kube-OVN's controller calls in a gateway's pod: puts an EIP's address on the external interface, takes it off.
#
#   nat-gateway.sh eip-add 10.1.69.205/24 …
#   nat-gateway.sh eip-del 10.1.69.205/24 …
#
# The environment sets what a real gateway meets by chance:
#   EXTERNAL_INTERFACE    the interface (net1)
#   DELAY_BEFORE_ADD      seconds that eip-add takes before the address is on (0)
#   DELAY_AFTER_ADD       seconds that it takes after that: a real one probes with arping (0)
#   PROBE_FAILS           1: another machine answers for the address; eip-add exits 1 and leaves the address on
#   UNANCHORED            1: eip-del looks for its argument anywhere in an address, as v1.12 does
set -u

interface=${EXTERNAL_INTERFACE:-net1}

# The interface's addresses, `address/length` a line, in the kernel's order.
addresses() {
    ip -o addr show dev "$interface" | awk '{ print $4 }'
}

# The addresses that an argument stands for. Nothing is no error: so does the original treat an address that is not
# there, and a subnet's CIDR.
matching() {
    if [ "${UNANCHORED:-0}" = 1 ]; then
        addresses | grep -F -- "$1"
    else
        addresses | grep -Fx -- "$1"
    fi
}

eip_add() {
    sleep "${DELAY_BEFORE_ADD:-0}"
    ip addr replace "$1" dev "$interface" || exit 1
    sleep "${DELAY_AFTER_ADD:-0}"
    if [ "${PROBE_FAILS:-0}" = 1 ]; then
        echo "another machine answers for ${1%/*}" >&2
        exit 1
    fi
}

eip_del() {
    local address
    for address in $(matching "$1"); do
        # An earlier deletion of this loop may have taken this one along: of a primary's secondaries none is left.
        ip addr del "$address" dev "$interface" || [ -z "$(addresses | grep -Fx -- "$address")" ] || exit 1
    done
}

case ${1:-} in
    eip-add) action=eip_add ;;
    eip-del) action=eip_del ;;
    *)
        echo "usage: nat-gateway.sh eip-add|eip-del ADDRESS/LENGTH …" >&2
        exit 2
        ;;
esac
shift
for argument in "$@"; do
    "$action" "$argument"
done
