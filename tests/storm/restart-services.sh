#!/bin/bash
# restart-services.sh SEED SECONDS: restarts and kills host services in random order until the time is over:
# machined, the bus, the journal, systemd itself. Run by tests/hosts/storm.rs in a nested host, in parallel
# with life.sh.
set -u
RANDOM=$1
end=$((SECONDS + $2))
while [ $SECONDS -lt $end ]; do
	sleep "$((RANDOM % 4)).$((RANDOM % 10))"
	case $((RANDOM % 7)) in
	0) what="machined restarted" && systemctl restart systemd-machined ;;
	1) what="machined killed" && systemctl kill -s KILL systemd-machined ;;
	2) what="bus restarted" && systemctl restart dbus ;;
	3) what="systemd executed again" && systemctl daemon-reexec ;;
	4) what="systemd reloaded" && systemctl daemon-reload ;;
	5) what="journal killed" && systemctl kill -s KILL systemd-journald ;;
	6) what="journal restarted" && systemctl restart systemd-journald ;;
	esac 2>/dev/null
	echo "restarted $what"
	# A unit that has reached its start limit must be reset.
	systemctl reset-failed systemd-machined systemd-journald dbus 2>/dev/null
done
systemctl start dbus systemd-machined systemd-journald
