#!/usr/bin/env bash
# Replace a node of the cluster in docker-compose.yml that is lost with its data.
#
#   docs/replace-node.sh NODE URL         such as: docs/replace-node.sh node-2 http://localhost:6343
#
# NODE is the name of its service, URL the address of any other node, which must be alive. Run it in the folder of
# docker-compose.yml. It removes the lost node from the cluster, deletes its volumes, starts it empty, and copies to it
# what it should hold. If it is stopped, run it again: a node that answers the others is not removed.
#
# Needs curl and jq. Environment: QDRANT_API_KEY if the server asks for a key (the full one); COMPOSE if Compose is
# not `docker compose` (COMPOSE=docker-compose).
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

# call METHOD PATH [BODY]: print the answer; fails if there is none, or an error.
call() {
    local retry=()
    [ "$1" != GET ] || retry=(--retry 5 --retry-connrefused)
    printf 'header = "api-key: %s"\n' "${QDRANT_API_KEY-}" | # not as an argument, which all users of a machine can see
        curl --config - --silent --fail-with-body --max-time 60 ${retry[@]+"${retry[@]}"} -X "$1" \
            -H 'Content-Type: application/json' ${3:+--data "$3"} "$url$2"
}

# The ids of the peers whose address names the lost node.
peers_of_node() {
    call GET /cluster | jq -r --arg node "$node" \
        '.result.peers | to_entries[] | select(.value.uri | test("^https?://" + $node + "(:|/|$)")) | .key'
}

# Every shard of every collection as a JSON object a line: collection, shard, wanted (copies), and copies by state.
shards() {
    local count names name factor
    count=$(call GET /cluster | jq '.result.peers | length') || return
    names=$(call GET /collections | jq -r '.result.collections[].name') || return
    for name in $names; do
        factor=$(call GET "/collections/$name" | jq '.result.config.params.replication_factor // 1') || return
        call GET "/collections/$name/cluster" | jq -c --arg name "$name" --argjson factor "$factor" \
            --argjson count "$count" '
            .result
            | (.peer_id as $own | [.local_shards[] | . + {peer_id: $own}]) + .remote_shards
            | group_by(.shard_id)[]
            | {collection: $name, shard: .[0].shard_id, wanted: ([$factor, $count] | min),
               active: [.[] | select(.state == "Active").peer_id], all: [.[].peer_id]}' || return
    done
}

for tool in curl jq; do
    command -v "$tool" > /dev/null || die "$tool is missing: install it"
done
call GET /cluster > /dev/null || die "no answer from $url: give the address of a node that is alive (and QDRANT_API_KEY)"
[ "$(call GET /cluster | jq -r .result.status)" = enabled ] || die "$url is a single server, not a node of a cluster"
lost=$(peers_of_node)
[ "$(echo "$lost" | wc -w)" -le 1 ] || die "several peers of the cluster are called $node: $lost"
[ "$lost" != "$(call GET /cluster | jq -r .result.peer_id)" ] || die "$url is $node itself: give another node's address"
other=$(call GET /cluster | jq -r '.result | .peers[.peer_id | tostring].uri')

# A node that answers the others is not lost; an earlier run of this script may have replaced it.
alive=false
if [ -n "$lost" ]; then
    alive=$(call GET '/cluster/telemetry?timeout=5' |
        jq --arg peer "$lost" '.result.cluster.peers[$peer].responsive // false')
fi

replace() {
    local peer only answer peers volume new

    # 1. Is there another copy of everything? Removing the last one would lose it for good.
    for peer in $lost; do
        only=$(shards | jq -r --argjson peer "$peer" \
            'select(.all | index($peer)) | select(.active - [$peer] == []) | "\(.collection)/\(.shard)"' | xargs)
        [ -z "$only" ] || [ "${FORCE-}" = 1 ] || die "$node has the only copy of $only (collection/shard): bring it" \
            "back with \`$compose start $node\`, or give FORCE=1 to lose that, and ingest it again afterwards"
    done

    # 2. Stop the node: one that keeps on trying to join holds up the removal.
    say "stopping $node"
    $compose rm -sf "$node"

    # 3. Remove it from the cluster. The removal may time out and has to be repeated until it is confirmed: until the
    # cluster has forgotten the old node, it refuses the empty one ("already used by peer ... which still has shards").
    for peer in $lost; do
        say "removing peer $peer from the cluster"
        until answer=$(call DELETE "/cluster/peer/$peer?force=true") && [ "$(echo "$answer" | jq .result)" = true ]; do
            say "not confirmed: ${answer:-no answer}"
            # It may have been removed all the same, after the time-out.
            peers=$(call GET /cluster | jq '.result.peers')
            [ "$(echo "$peers" | jq --arg peer "$peer" 'has($peer)')" = true ] || break
            sleep 2
        done
    done

    # 4. Delete its volumes, and start it empty. It joins through the node at URL, because node-1, which the others
    # joined when they were new, would start a cluster of its own.
    for volume in "coco-search_$node" "coco-search_$node-snapshots"; do
        ! docker volume inspect "$volume" > /dev/null 2>&1 || docker volume rm "$volume" > /dev/null
    done
    joining=$(mktemp)
    trap 'rm -f "$joining"' EXIT
    printf 'services:\n  %s:\n    command: ["./qdrant", "--bootstrap", "%s", "--uri", "http://%s:6335"]\n' \
        "$node" "${other%/}" "$node" > "$joining"
    say "starting $node, empty"
    $compose -f docker-compose.yml -f "$joining" up -d --no-deps "$node"

    # 5. Wait until it is there.
    until new=$(peers_of_node) && [ -n "$new" ]; do
        say "waiting for $node to join: if this takes minutes, see \`$compose logs $node\`"
        sleep 2
    done
}

if [ "$alive" = true ]; then
    say "$node answers the other nodes, and stays; copying what lacks copies"
else
    replace
fi
new=$(peers_of_node)
say "$node is peer $new"

# 6. Copy what lacks a copy, until every shard has all of its copies, and all are active. A copy that is refused or fails
# is started again in the next round.
while :; do
    lacking=$(shards | jq -c 'select((.active | length) < .wanted)')
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
            answer=$(call POST "/collections/$name/cluster" "$(echo "$pair" | jq -c '.[1]')") ||
                say "this copy does not start yet: $pair: $answer"
        done
    say "shards that lack an active copy: $(echo "$lacking" | wc -l)"
    sleep 2
done
say "every shard has all of its copies"
