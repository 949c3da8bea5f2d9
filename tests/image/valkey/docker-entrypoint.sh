#!/bin/sh
# As Valkey's own: options alone are the server's, and root becomes its user.
set -e
case "$1" in -* | *.conf) set -- valkey-server "$@" ;; esac
if [ "$1" = valkey-server ] && [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid=valkey --regid=valkey --clear-groups -- "$0" "$@"
fi
exec "$@" $VALKEY_EXTRA_FLAGS
