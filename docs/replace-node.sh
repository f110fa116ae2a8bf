#!/usr/bin/env bash
# Replace a node of the cluster in docker-compose.yml that was lost with its data.
#
#   docs/replace-node.sh NODE URL         for example: docs/replace-node.sh node-2 http://localhost:6343
#
# NODE is the name of its service, URL the address of any other node, which must be running. Run it in the folder of
# docker-compose.yml. It removes the lost node from the cluster, deletes its volumes, starts it empty, and copies its
# shards to it. If the script is interrupted, run it again: a node that answers the others is not removed.
#
# Requires curl and jq. Environment: QDRANT_API_KEY (the full key) if the server requires one; COMPOSE if Compose is not
# `docker compose` (COMPOSE=docker-compose); FORCE=1 to give up collections with a shard that only this node has.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
node=$1
url=${2%/}
compose=${COMPOSE:-docker compose}

say() { echo "replace-node: $*" >&2; }
die() { say "$*"; exit 1; }

# call METHOD PATH [BODY]: print the answer; fail if there is none or it is an error, with 77 if the key is refused.
call() {
    local retry=() failed=0 answer
    [ "$1" != GET ] || retry=(--retry 5 --retry-connrefused)
    answer=$(printf 'header = "api-key: %s"\n' "${QDRANT_API_KEY-}" | # all users can see command-line arguments
        curl --config - --silent --fail-with-body --max-time 60 ${retry[@]+"${retry[@]}"} -X "$1" \
            -H 'Content-Type: application/json' ${3:+--data "$3"} --write-out '\n%{http_code}' "$url$2") || failed=$?
    echo "${answer%$'\n'*}"
    case ${answer##*$'\n'} in
        401 | 403) return 77 ;;
    esac
    return "$failed"
}

# die_if_refused STATUS: exit if STATUS, of a `call` that changes the cluster, is that of a refused key.
die_if_refused() {
    [ "$1" != 77 ] || die "the key in QDRANT_API_KEY may not change the cluster: give the full one, not the read-only one"
}

# Print the ids of the peers whose address names the lost node.
peers_of_node() {
    call GET /cluster | jq -r --arg node "$node" \
        '.result.peers | to_entries[] | select(.value.uri | test("^https?://" + $node + "(:|/|$)")) | .key'
}

# Print every shard of every collection, one JSON object per line: collection, shard, and the peers with an active copy
# and with any copy. The server counts a shard without any copy, but does not list it: its number is null here.
shards() {
    local names name
    names=$(call GET /collections | jq -r '.result.collections[].name') || return
    for name in $names; do
        call GET "/collections/$name/cluster" | jq -c --arg name "$name" '
            .result
            | .shard_count as $count
            | (.peer_id as $own | [.local_shards[] | . + {peer_id: $own}]) + .remote_shards
            | [group_by(.shard_id)[]
               | {collection: $name, shard: .[0].shard_id,
                  active: [.[] | select(.state == "Active").peer_id], all: [.[].peer_id]}]
            | .[], (range(length; $count) | {collection: $name, shard: null, active: [], all: []})' || return
    done
}

# lacking_copies SHARDS: print those of the shards that lack an active copy, with the number of copies `wanted`.
# Collections that have lost a shard are left out: they cannot be repaired, and the server cannot describe them.
lacking_copies() {
    local count name factor
    count=$(call GET /cluster | jq '.result.peers | length') || return
    for name in $(echo "$1" | jq -rs 'group_by(.collection)[] | select(all(.active != [])) | .[0].collection'); do
        factor=$(call GET "/collections/$name" | jq '.result.config.params.replication_factor // 1') || return
        echo "$1" | jq -c --arg name "$name" --argjson factor "$factor" --argjson count "$count" '
            select(.collection == $name)
            | .wanted = ([$factor, $count] | min)
            | select((.active | length) < .wanted)' || return
    done
}

for tool in curl jq; do
    command -v "$tool" > /dev/null || die "$tool is missing: install it"
done
call GET /cluster > /dev/null || die "no answer from $url: give the address of a running node (and QDRANT_API_KEY)"
[ "$(call GET /cluster | jq -r .result.status)" = enabled ] || die "$url is a single server, not a node of a cluster"
# May this key change the cluster? Copying a shard of a collection that does not exist always fails; only a key without
# the right fails with 401 or 403.
call POST /collections/replace-node-asks/cluster \
    '{"replicate_shard": {"shard_id": 0, "from_peer_id": 0, "to_peer_id": 0}}' > /dev/null || die_if_refused $?
lost=$(peers_of_node)
[ "$(echo "$lost" | wc -w)" -le 1 ] || die "several peers of the cluster are called $node: $lost"
[ "$lost" != "$(call GET /cluster | jq -r .result.peer_id)" ] || die "$url is $node itself: give another node's address"
# An earlier run may have removed it. But make sure that it is a node, not a single server or a node with another name.
[ -n "$lost" ] || grep -qF -- "\"--uri\", \"http://$node:6335\"" docker-compose.yml ||
    die "the cluster does not know $node, nor does docker-compose.yml start it with --uri http://$node:6335"
other=$(call GET /cluster | jq -r '.result | .peers[.peer_id | tostring].uri')

# A node that answers the others is not lost: an earlier run of this script may have replaced it.
alive=false
if [ -n "$lost" ]; then
    alive=$(call GET '/cluster/telemetry?timeout=5' |
        jq --arg peer "$lost" '.result.cluster.peers[$peer].responsive // false')
fi

replace() {
    local peer only failed answer peers volume new

    # 1. Check that every shard has another copy: removing the last one would lose it for good.
    for peer in $lost; do
        only=$(shards | jq -r --argjson peer "$peer" \
            'select(.all | index($peer)) | select(.active - [$peer] == []) | "\(.collection)/\(.shard)"' | xargs) ||
            die "$url does not report where all shards are: nothing was changed"
        [ -z "$only" ] || [ "${FORCE-}" = 1 ] || die "$node has the only copy of $only (collection/shard): bring it" \
            "back with \`$compose start $node\`, or set FORCE=1 to lose the whole collection"
    done

    # 2. Stop the node: the removal hangs while it keeps trying to join.
    say "stopping $node"
    $compose rm -sf "$node"

    # 3. Remove it from the cluster. The removal may time out and must be repeated until it is confirmed: before that,
    # the cluster refuses the empty node ("already used by peer ... which still has shards").
    for peer in $lost; do
        say "removing peer $peer from the cluster"
        while :; do
            failed=0
            answer=$(call DELETE "/cluster/peer/$peer?force=true") || failed=$?
            die_if_refused "$failed"
            [ "$failed" != 0 ] || [ "$(echo "$answer" | jq .result)" != true ] || break
            say "not confirmed: ${answer:-no answer}"
            # It may have been removed after the timeout.
            peers=$(call GET /cluster | jq '.result.peers')
            [ "$(echo "$peers" | jq --arg peer "$peer" 'has($peer)')" = true ] || break
            sleep 2
        done
    done

    # 4. Delete its volumes, and start it empty. It joins through the node at URL: by the command in docker-compose.yml,
    # an empty node-1 would start a new cluster.
    for volume in "coco-search_$node" "coco-search_$node-snapshots"; do
        ! docker volume inspect "$volume" > /dev/null 2>&1 || docker volume rm "$volume" > /dev/null
    done
    joining=$(mktemp)
    trap 'rm -f "$joining"' EXIT
    printf 'services:\n  %s:\n    command: ["./qdrant", "--bootstrap", "%s", "--uri", "http://%s:6335"]\n' \
        "$node" "${other%/}" "$node" > "$joining"
    say "starting $node, empty"
    $compose -f docker-compose.yml -f "$joining" up -d --no-deps "$node"

    # 5. Wait until it has joined.
    until new=$(peers_of_node) && [ -n "$new" ]; do
        say "waiting for $node to join: if this takes minutes, see \`$compose logs $node\`"
        sleep 2
    done
}

if [ "$alive" = true ]; then
    say "$node answers the other nodes and is kept; copying shards that lack copies"
else
    replace
fi
new=$(peers_of_node)
say "$node is peer $new"

# 6. Copy shards that lack a copy, until all copies of every shard are active. The next round retries a copy that is
# refused or fails.
while :; do
    { all=$(shards) && lacking=$(lacking_copies "$all"); } || die "$url does not report where all shards are: run this again"
    [ -n "$lacking" ] || break
    peers=$(call GET /cluster | jq -c '.result.peers | keys | map(tonumber)')
    echo "$lacking" | jq -c --argjson new "$new" --argjson peers "$peers" '
        select((.all | length) < .wanted)
        | ($peers - .all) as $free
        | .active[0] as $from
        | select($from != null and $free != [])
        | [.collection, {replicate_shard: {shard_id: .shard, from_peer_id: $from,
             to_peer_id: (if $free | index($new) then $new else $free[0] end)}}]' |
        while read -r pair; do
            name=$(echo "$pair" | jq -r '.[0]')
            answer=$(call POST "/collections/$name/cluster" "$(echo "$pair" | jq -c '.[1]')") || {
                die_if_refused $?
                say "this copy does not start yet: $pair: $answer"
            }
        done
    say "shards that lack an active copy: $(echo "$lacking" | wc -l)"
    sleep 2
done
ruined=$(echo "$all" | jq -r 'select(.active == []).collection' | sort -u)
for name in $ruined; do
    say "$name has lost a shard: \`curl -X DELETE $url/collections/$name\` (with -H \"api-key: ...\" if there is a key)"
done
[ -z "$ruined" ] || die "delete the collections of images and of captions like this, then ingest again (docs/server.md)"
say "every shard has all of its copies"
