#!/bin/sh
# Makes a database on first start, then becomes the server with the arguments given.
set -eu
export PGDATA="${PGDATA:-/var/lib/postgresql/data}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "${POSTGRES_PASSWORD:?set a password for the user postgres}" > /tmp/password
    initdb --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --no-sync > /dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp
