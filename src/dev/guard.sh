# Runs as the guard process, see guard.rs. Every line of the input is "watch ENTRY" or "stop ENTRY",
# an entry being PID:STARTED:SIGNAL:PATIENCE (patience in twentieths of a second before SIGKILL).
# A later entry for a process replaces an earlier one.
# When the input ends, its only writer is gone, and every watched server is stopped.
trap '' HUP INT QUIT TERM

split() {
  pid=${1%%:*} rest=${1#*:}
  started=${rest%%:*} rest=${rest#*:}
  signal=${rest%%:*} patience=${rest#*:}
}

# The same process still runs: not one that has inherited its number, not a zombie.
runs() {
  read -r stat <"/proc/$pid/stat" || return 1
  set -- ${stat##*) }
  case $1 in Z | X) return 1 ;; esac
  [ "${20}" = "$started" ]
}

end() {
  for entry; do
    split "$entry"
    if runs; then kill -s "$signal" "$pid"; fi
  done
  ticks=0
  while [ $# -gt 0 ]; do
    left=
    for entry; do
      split "$entry"
      runs || continue
      if [ $ticks -ge "$patience" ]; then kill -KILL "-$pid" || kill -KILL "$pid"; fi
      if [ $ticks -lt $((patience + 100)) ]; then left="$left $entry"; fi
    done
    set -- $left
    [ $# -eq 0 ] || sleep 0.05
    ticks=$((ticks + 1))
  done
}

watched=
while read -r verb entry; do
  case $verb in
    watch)
      others=
      for other in $watched; do
        [ "${other%%:*}" = "${entry%%:*}" ] || others="$others $other"
      done
      watched="$others $entry"
      ;;
    stop) end "$entry" ;;
  esac
done
end $watched
