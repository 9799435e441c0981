# Reads which processes and folders are to go with whoever writes here, and ends them when the writer is gone, however
# it went: `end SIGNAL PID`, `ended PID`, `remove FOLDER`, `removed FOLDER`, a line each.
ends=
folders=
newline='
'
while read -r word value; do
  case $word in
    end) ends="$ends ${value#* }:${value%% *}" ;;
    ended)
      left=
      for one in $ends; do [ "${one%:*}" = "$value" ] || left="$left $one"; done
      ends=$left
      ;;
    remove) folders="$folders$value$newline" ;;
    removed) folders=$(printf '%s' "$folders" | grep -vxF -- "$value")$newline ;;
  esac
done
for one in $ends; do kill -s "${one#*:}" "${one%:*}" 2>/dev/null; done
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
  alive=
  for one in $ends; do kill -0 "${one%:*}" 2>/dev/null && alive=1; done
  [ -n "$alive" ] || break
  sleep 0.1
done
for one in $ends; do kill -s KILL "${one%:*}" 2>/dev/null; done
printf '%s' "$folders" | while read -r folder; do [ -z "$folder" ] || rm -rf -- "$folder"; done
