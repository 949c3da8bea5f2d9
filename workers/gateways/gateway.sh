# Runs inside the gateway's container as `bash -c <this> gateway <seconds>` and obeys lines on standard input:
#
#   read                       -> two lists in JSON (addresses; routes of both families), `knob IF 0|1` lines, `done`
#   <step> ... go N            -> the N steps before it are carried out in order -> `done`, or `error <text>` at the first
#                                 that fails; nothing is done when one of them is not of the shape below
#   <step> ... go N read       -> the same, and what `read` would answer then
#   show, <step> ... go N show -> the same as with `read`, by an `ip` that stands by, started beforehand. The knobs come
#                                 first, then `asked`; the second list is the end. That `ip` ends at the first thing it
#                                 cannot do, which may have been before, and `ended` is said instead of the lists or
#                                 in the midst of them; whether that was done already or is wrong, `read` finds out,
#                                 or the same steps with it
#   bye                        -> the end
#
# It decides nothing. It never waits for the end of its input, which pods/exec cannot signal: after <seconds> without a
# line it ends, so that a worker that fell asleep finds nobody to act for it. Whatever ends it, a promote_secondaries
# that was set and not set back is set back.
#
# Needs bash 4.1 and iproute2 5.2 or newer (`ip -N`). Comments and indentation are not sent.
export LC_ALL=C
set -f

# Another `ip` that stands by. It asks the kernel for an interface's name or number once and keeps it: what it changes is
# changed on those that it looked at, but each look begins with one that knows nothing.
standby() {
  [[ ! $standing ]] || exec {standing}>&-
  exec {standing}> >(ip -N -j -batch - 2>/dev/null || echo ended)
  unused=1
}
standing=
standby

wait=$1
conf=/proc/sys/net/ipv4/conf
steps=()
gathered=()
declare -A former=()
name='[A-Za-z0-9_][A-Za-z0-9_.:-]*'
ip='[0-9A-Fa-f.:]+'
lists=$'addr show\nroute show table all type unicast'
net="$ip/[0-9]+"
shape="^(promote $name [01]|del $name $net( $ip)?|add $name $net( [0-9]+)?"
shape+="|route [46] (default|$net) $name ($ip|-) ($ip|-) [0-9]+ [0-9]+ [0-9]+ ([0-9]+|-) (onlink|-))$"

restore() {
  local i
  for i in "${!former[@]}"; do
    echo "${former[$i]}" >"$conf/$i/promote_secondaries"
  done 2>/dev/null
  former=()
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
trap : PIPE

fail() {
  text="$*"
  return 1
}

knobs() {
  local f value lines=()
  set +f
  for f in "$conf"/*/promote_secondaries; do
    f=${f%/*}
    read -r value <"$f/promote_secondaries" && lines+=("knob ${f##*/} $value")
  done 2>/dev/null
  set -f
  ((${#lines[@]} == 0)) || printf '%s\n' "${lines[@]}"
}

# One process for all of it, changes that were gathered first: to start one takes longer than all that it does.
look() {
  local out lines=
  ((${#gathered[@]})) && printf -v lines '%s\n' "${gathered[@]}"
  if ! out=$(ip -N -j -batch - 2>/dev/null <<<"$lines$lists"); then
    flush || return
    if ! out=$(ip -N -j -batch - 2>/dev/null <<<"$lists"); then
      fail "ip -N -j -batch: $(ip -N -j -batch - 2>&1 >/dev/null <<<"$lists")"
      return
    fi
  fi
  echo "$out"
  knobs
}

# The same by the one that stands by. Once it is asked the output is its own, where what we added could be anywhere.
show() {
  last_word= unused=
  knobs
  echo asked
  printf '%s\n' "${gathered[@]}" "$lists" 2>/dev/null >&"$standing" || return 0
}

# `ip` with the rest of the arguments; what it says when the work is done already is no failure.
run() {
  local already=$1 out
  shift
  out=$(ip "$@" 2>&1 </dev/null) && return
  [[ ${out,,} =~ $already ]] && return
  fail "ip $*: $out"
}

# The changes of addresses gathered so far by one process; when that fails, one by one to find out which.
flush() {
  local line lines
  ((${#gathered[@]})) || return 0
  printf -v lines '%s\n' "${gathered[@]}"
  if ! ip -batch - >/dev/null 2>&1 <<<"$lines"; then
    for line in "${gathered[@]}"; do
      case $line in
        'addr add '*) run 'file exists|address already assigned' $line ;;
        *) run 'cannot assign requested address|address not found' $line ;;
      esac || return
    done
  fi
  gathered=()
}

promote() {
  local file=$conf/$1/promote_secondaries value
  if ! { read -r value <"$file"; } 2>/dev/null; then
    fail "$file cannot be read"
    return
  fi
  [[ ${former[$1]} ]] || former[$1]=$value
  if ! { echo "$2" >"$file"; } 2>/dev/null; then
    fail "$file cannot be written"
    return
  fi
  if [[ ${former[$1]} == "$2" ]]; then unset "former[$1]"; fi
}

route() {
  local words=("-$1" route add "$2" dev "$3" proto "$6" table "$8")
  if [[ $4 == *:* && $1 == 4 ]]; then words+=(via inet6 "$4"); elif [[ $4 != - ]]; then words+=(via "$4"); fi
  [[ $5 == - ]] || words+=(src "$5")
  [[ $1 == 6 ]] || words+=(scope "$7")
  [[ $9 == - ]] || words+=(metric "$9")
  [[ ${10} == - ]] || words+=(onlink)
  run 'file exists' "${words[@]}"
}

act() {
  local line gathered=() last
  case ${*:2} in
    '') last=flush ;;
    read) last=look ;;
    show) last=show ;;
  esac
  if [[ ! $last || ${#steps[@]} != "$1" ]]; then
    fail "${#steps[@]} steps arrived of $*"
    return
  fi
  for line in "${steps[@]}"; do
    if ! [[ $line =~ $shape ]]; then
      fail "not a step: $line"
      return
    fi
  done
  for line in "${steps[@]}"; do
    set -- $line
    case $1 in
      del) gathered+=("addr del ${3%/*}${4:+ peer $4}/${3#*/} dev $2") ;;
      add) gathered+=("addr add $3 dev $2${4:+ valid_lft $4 preferred_lft $4}") ;;
      promote) flush && promote "$2" "$3" ;;
      route) shift && flush && route "$@" ;;
    esac || return
  done
  "$last"
}

answer() {
  local last_word=done
  if "$@"; then
    [[ ! $last_word ]] || echo "$last_word" || exit 1
  else
    restore
    echo "error ${text//$'\n'/; }" || exit 1
  fi
}

while IFS= read -r -t "$wait" line; do
  case $line in
    read) answer look ;;
    show)
      [[ $unused ]] || standby
      answer show
      ;;
    go\ *)
      answer act ${line#go }
      steps=()
      ;;
    bye) exit 0 ;;
    *) steps+=("$line") ;;
  esac
done
