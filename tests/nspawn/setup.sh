# shellcheck shell=sh
# setup.sh: prepares the host of the conformance table, once. Run by conformance.rs.
#
# .tiny and .debian are the trees of which rows get copies or overlays. The host's root is an overlay, which cannot have
# the changes of an ephemeral machine: coracle stores them beside the trees.
M=/var/lib/machines
mkdir -p /run/real /run/ours /run/row /var/lib/coracle
ln -s /usr/bin/systemd-nspawn /run/real/systemd-nspawn
ln -s /usr/lib/coracle/systemd-nspawn /run/ours/systemd-nspawn
mkdir -m 700 $M/.storage
ln -s $M/.storage /var/lib/coracle/storage
ln -sf ../usr/share/zoneinfo/Etc/UTC /etc/localtime

# Few files, because each row copies them.
cd $M/.tiny || exit
for program in usr/bin/*; do
	case ${program##*/} in
	awk | busybox | cat | chmod | chown | chroot | cut | echo | expr | grep | head | hostname | id | ip | ln | ls) ;;
	mkdir | mount | printf | pwd | readlink | rm | sed | sh | sleep | sort | stat | stty | tail | touch | tr | true | uname | wc) ;;
	*) rm "$program" ;;
	esac
done
rm -r etc/apt etc/dpkg usr/share var/lib var/cache

# Users, and getent(1) for them.
: >etc/machine-id
echo 'web:x:1000:1000:Web:/home/web:/bin/sh' >>etc/passwd
printf 'web:x:1000:\nmore:x:2000:web\n' >>etc/group
mkdir -p home/web srv usr/share/zoneinfo/Etc
: >usr/share/zoneinfo/Etc/UTC
chown 1000:1000 home/web
cat >usr/bin/getent <<'GETENT'
#!/bin/sh
case $1 in
passwd) grep -E "^$2:|^[^:]*:[^:]*:$2:" /etc/passwd || exit 2 ;;
initgroups) echo "$2 $(awk -F: -v user="$2" '$4 ~ "(^|,)" user "(,|$)" { printf " %s", $3 }' /etc/group)" ;;
esac
GETENT
chmod 755 usr/bin/getent
