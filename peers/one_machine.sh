#!/bin/sh
# Folders for N peers on this machine, in FOLDER/0, FOLDER/1, ..., with one charter that all have signed.
#
#     peers/one_machine.sh FOLDER N [PORT] [KEY=VALUE...]
#
# They listen on loopback, from PORT on (7431). KEY=VALUE sets a term of the charter that its template gives a value to, such
# as steps=5, before anybody signs. All keys are in one place then, so such a group hides nothing from whoever owns the
# machine: it is for trying out.
set -eu

[ $# -ge 2 ] || { sed -n 's/^# \{0,1\}//; 2,8p' "$0" >&2; exit 2; }
folder=$1
count=$2
shift 2
port=7431
case ${1:-} in
    "" | *[!0-9]*) ;;
    *) port=$1; shift ;;
esac
[ ! -e "$folder" ] || { echo "$folder is there already: name another folder" >&2; exit 2; }
mkdir -p "$folder"

members=
copies=
addresses=
i=0
while [ "$i" -lt "$count" ]; do
    decentra init --state "$folder/$i" --name "peer-$i" --bind "tcp://127.0.0.1:$((port + i))" >/dev/null
    [ "$i" -eq 0 ] || members="$members $folder/$i/member.toml" copies="$copies $folder/$i/charter.toml"
    addresses="${addresses}peer-$i = \"tcp://127.0.0.1:$((port + i))\"\n"
    i=$((i + 1))
done
for term in "$@"; do
    key=${term%%=*}
    grep -q "^$key = " "$folder/0/charter.toml" || { echo "the charter gives no value to $key" >&2; exit 2; }
    sed -i "s/^$key = [^ ]*/$key = ${term#*=}/" "$folder/0/charter.toml"
done
decentra charter add --state "$folder/0" $members >/dev/null
decentra charter sign --state "$folder/0" >/dev/null
i=1
while [ "$i" -lt "$count" ]; do
    decentra charter sign --state "$folder/$i" --charter "$folder/0/charter.toml" >/dev/null
    i=$((i + 1))
done
decentra charter sign --state "$folder/0" --merge $copies >/dev/null
i=0
while [ "$i" -lt "$count" ]; do
    cmp -s "$folder/0/charter.toml" "$folder/$i/charter.toml" || cp "$folder/0/charter.toml" "$folder/$i/charter.toml"
    sed -i "s|^\[peers\]\$|[peers]\n$addresses|" "$folder/$i/decentra.toml"
    sed -i "/^peer-$i = /d" "$folder/$i/decentra.toml"
    i=$((i + 1))
done
