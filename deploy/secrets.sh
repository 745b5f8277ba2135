#!/bin/sh
# Makes deploy/secrets, which compose.yaml mounts. What is there already is left alone.
#
#   sh deploy/secrets.sh [FOLDER]
#
# The folder is its owner's alone; its files are for the users inside the containers, too.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 022
mkdir -p "$folder"
chmod 700 "$folder"

random() {
  head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

keep() { # NAME: a new file of what comes in, unless there is one
  if [ -e "$folder/$1" ]; then
    cat >/dev/null
  else
    cat >"$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
    echo "made $folder/$1"
  fi
}

random | keep postgres_password
random | keep grafana_password
random | keep sealing
random | keep metrics_key
random | keep python_key
echo "SEARXNG_SECRET=$(random)" | keep searxng.env
printf 'ossia %s\n' "$(cat "$folder/python_key")" | keep python_keys
# the people: add a table for each, see docs/fleet.md
keep keys.toml <<END
[[keys]]
name = "admin"
key = "$(random)"
admin = true

[[keys]]
name = "prometheus"  # reads /metrics
key = "$(cat "$folder/metrics_key")"
metrics = true
tools = []
END
