# shellcheck shell=bash disable=SC2317 # rows call the functions
# run.sh: runs a row of the conformance table on the host. conformance.rs replaces the words between @.
#
# Scripts of a row may use $M (the directory of images), $R (the root: a copy of the busybox tree), $W (an empty working
# directory), $USUAL (the usual options), $OUT and $ERR (the files with the output), $pid (the program, while it runs),
# $status (after it), and the functions below.
set -eEu -o pipefail
M=/var/lib/machines R=/var/lib/machines/web W=/var/tmp/row OUT=/run/row/out ERR=/run/row/err
# The options of rows that are not bare.
USUAL='-q --register=no --keep-unit -P'
export PATH=/run/$PROGRAM:$PATH M R W OUT ERR USUAL
step='before' pid='' status='' receiver=''

# Repeats a command until it succeeds, for ten seconds.
wait_for() {
	local n
	for ((n = 0; n < 200; n++)); do
		if eval "$1"; then return 0; fi
		if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then break; fi
		sleep 0.05
	done
	eval "$1"
}

# Waits for a line of the output.
wait_for_line() {
	wait_for "grep -qF -e '$1' $OUT"
}

# Receives datagrams at the socket notify of the working directory, in the file received.
receive() {
	: >received
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "notify") or die $!;
		chmod 0666, "notify";
		open(my $file, ">>", "received"); $file->autoflush(1);
		alarm 30;
		while (defined $s->recv(my $text, 65536)) { print $file "$text\n" }' &
	receiver=$!
	for _ in {1..100}; do
		if [ -S notify ]; then return 0; fi
		sleep 0.05
	done
	return 1
}

# Runs a shell script on a new terminal. What is written to descriptor 7 is typed; the output is in the file shown.
on_terminal() {
	mkfifo keys
	printf '%s\n' "$1" >session
	script -qefc 'sh session' /dev/null <keys >shown 2>&1 &
	pid=$!
	exec 7>keys
}

# Waits until a text is shown on the terminal.
wait_for_shown() {
	wait_for "grep -qF -e '$1' shown"
}

# Waits for the end of the script on the terminal.
end_of_terminal() {
	wait "$pid" || true
	pid=''
	exec 7>&-
}

# Sets the time zone of the host: `file` (with the text zone), `link` (Row/Zone), or without a word that of all rows.
zone() {
	rm -f /etc/localtime
	case ${1:-} in
	file) echo zone >/etc/localtime ;;
	link) ln -s ../usr/share/zoneinfo/Row/Zone /etc/localtime ;;
	*) ln -s ../usr/share/zoneinfo/Etc/UTC /etc/localtime ;;
	esac
}

# Fails if a command succeeds: a script goes on after a failed `!`.
not() {
	! "$@"
}

# Moves the journals of the host to a file system whose IDs can be mapped, or back.
journals_on_disk() {
	if [ -n "${1:-}" ]; then
		umount /var/log/journal
	else
		rm -rf --one-file-system "$M/.journal"
		mkdir "$M/.journal"
		mount --bind "$M/.journal" /var/log/journal
	fi
}

# Replaces a set of capabilities in the first line of the output by `bounded` if it is the given one, as far as the host
# has them.
bounded() {
	local host
	host=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
	[ "$(head -n1 "$OUT")" = "$(printf %016x $((0x$1 & 0x$host)))" ]
	sed -i 1s/.*/bounded/ "$OUT"
}

# Replaces the init of the root by a shell script.
fake_init() {
	rm -f "$R/usr/sbin/init"
	printf '#!/bin/sh\n%s\n' "$1" >"$R/usr/sbin/init"
	chmod 755 "$R/usr/sbin/init"
}

# Creates a second root in the directory deploy of the root, with another file `which`.
deployment() {
	local dir
	mkdir "$R/deploy"
	for dir in dev old proc run sys tmp; do mkdir "$R/deploy/$dir"; done
	cp -a "$R/usr" "$R/deploy"
	ln -s usr/bin "$R/deploy/bin"
	echo new >"$R/deploy/which"
	echo old >"$R/which"
}

# Creates a user of the host with a home, or removes it.
bound_user() {
	userdel -r bounduser >/dev/null 2>&1 || true
	if [ -n "${1:-}" ]; then return 0; fi
	useradd -m -K UID_MAX=61234 -u 61234 -d /var/tmp/bounduser bounduser
	echo of-home >/var/tmp/bounduser/file
	chown bounduser /var/tmp/bounduser/file
	chmod 755 /var/tmp/bounduser
}

# Writes the config.json of an OCI bundle in the working directory: a script, further properties of the process, and
# further properties of the bundle. Its root is that of the row.
bundle() {
	cat >config.json <<-END
		{"ociVersion": "1.0.0", "root": {"path": "$R"}, "process": {"terminal": false, "cwd": "/",
		"args": ["/bin/sh", "-c", "$1"]${2:+, $2}}${3:+, $3}}
	END
}

# Writes a bundle as \`bundle\` does, with further properties of \`linux\` and namespaces beside the usual ones.
linux_bundle() {
	bundle "$1" "" '"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, '"
		{\"type\": \"cgroup\"}${3:+, $3}]${2:+, $2}}"
}

# Prints the process ID of PID 1 inside.
leader() {
	local child
	for child in $(pgrep -P "${1:-$pid}"); do
		if awk '/^NSpid:/ { exit !($NF == 1 && NF > 2) }' "/proc/$child/status"; then
			echo "$child"
			return 0
		fi
		leader "$child" && return 0
	done
	return 1
}

fail() {
	trap - ERR
	printf 'row: %s failed: %s\n' "$step" "$1" >&2
	[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
	cat "$OUT" || true
	cat "$ERR" >&2 || true
	exit 120
}
trap 'fail "$BASH_COMMAND"' ERR

cleanup() {
	if [ -n "$receiver" ]; then kill "$receiver" 2>/dev/null || true; fi
	if mountpoint -q "$R"; then umount -R "$R"; fi
	local place
	# A killed systemd-nspawn leaves mounts, which are in the way of the next one.
	for place in /run/systemd/nspawn/unix-export/* /run/systemd/nspawn/*/unix-export; do
		if mountpoint -q "$place"; then umount "$place"; rmdir "$place"; fi
	done
	rm -rf --one-file-system "$R" "$W" "$M/web.nspawn" /etc/systemd/nspawn
}

cleanup
mkdir -p "$W" /etc/systemd/nspawn
if [ "${TREE:-tiny}" = tiny ]; then
	cp -a "$M/.tiny" "$R"
else
	# The upper layer is beside the trees, because the host's root is an overlay itself.
	rm -rf --one-file-system "$M/.upper" "$M/.work"
	mkdir -p "$R" "$M/.upper" "$M/.work"
	mount -t overlay overlay -o "lowerdir=$M/.$TREE,upperdir=$M/.upper,workdir=$M/.work" "$R"
fi
cd "$W"
[ -z "${TRUSTED+x}" ] || printf '%s' "$TRUSTED" >/etc/systemd/nspawn/web.nspawn
[ -z "${UNTRUSTED+x}" ] || printf '%s' "$UNTRUSTED" >"$M/web.nspawn"
: >"$OUT"
: >"$ERR"
@before@
during() { :; }
@during@
(
	trap - ERR
	exec env -u PROGRAM -u TRUSTED -u UNTRUSTED -u OUT -u ERR @program@
) <"${INPUT:-/dev/null}" >"$OUT" 2>"$ERR" &
pid=$!
step='during'
during
wait "$pid" && status=0 || status=$?
pid=''
step='after'
@after@
cat "$OUT"
cat "$ERR" >&2
trap - ERR
cleanup
exit "$status"
