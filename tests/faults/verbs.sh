#!/bin/bash
# verbs.sh: kills a verb on images at a system call, or lets the call fail, per line "MODE NUMBER" of standard
# input. The next verb completes or undoes it: the state must be that before or after. Prints a line for each
# fault that ends otherwise, and the number of faults for each state last. The arguments are the verb. Run by
# tests/hosts/image_faults.rs in a nested host.
set -u
images=/var/lib/machines
# Without systemd: its reload takes long, and has nothing to do with the state.
mount -t tmpfs none /run/systemd

prepare() {
	chattr -i $images/web $images/shop 2>/dev/null
	rm -rf "${images:?}"/* "$images"/.#* /etc/coracle/machines.d /etc/systemd/nspawn /var/lib/coracle /run/coracle /run/systemd/nspawn
	mkdir -p $images/web/usr/deep/deeper $images/web/etc /etc/coracle/machines.d/web.toml.d /etc/systemd/nspawn
	mkdir -p /etc/systemd/system/coracle.target.wants /var/lib/coracle/{ids,failures,storage/snapshots/web/first}
	ln -sf /usr/lib/systemd/system/coracle@.service /etc/systemd/system/coracle.target.wants/coracle@web.service
	rm -f /etc/systemd/system/coracle.target.wants/coracle@shop.service
	echo 1 | tee $images/web/usr/{a,b,deep/c,deep/deeper/d} $images/web.nspawn /etc/systemd/nspawn/web.nspawn \
		/etc/coracle/machines.d/{web.toml.d/1.toml,web.toml} /var/lib/coracle/failures/web.json >/dev/null
	: >/etc/coracle/machines.d/web.toml
	: >/etc/coracle/machines.d/web.toml.d/1.toml
	echo web >/var/lib/coracle/ids/600000
	[ -z "${READ_ONLY:-}" ] || chattr +i $images/web
}

# Lock files of killed processes stay, as those of systemd do; the store has drafts, and a list of checked images.
state() {
	find $images /etc/coracle /etc/systemd/nspawn /etc/systemd/system/coracle.target.wants /var/lib/coracle -printf '%p %y %l\n' |
		grep -v -e '\.lck f' -e '/storage/\(checked\|tmp\)' | sort
	cat /var/lib/coracle/ids/* 2>/dev/null
	lsattr -d $images/web $images/shop 2>/dev/null | cut -c5
}

prepare
coracle read-only none 2>/dev/null
# The verb creates the directory of changes, which stays.
mkdir -m 700 /var/lib/coracle/changes
before=$(state)
coracle "$@" >/dev/null || exit 1
after=$(state)
[ "$before" != "$after" ] || exit 1
declare -A count=([before]=0 [after]=0)
while read -r mode number; do
	prepare
	mkdir -m 700 /var/lib/coracle/changes
	rm -f /run/faulty.out
	faulty "$mode" 0 "$number" /run/faulty.out /usr/bin/coracle "$@" >/run/said 2>&1
	status=$?
	coracle read-only none >/run/next 2>&1
	case $(state) in
	"$before") found=before ;;
	"$after") found=after ;;
	*) found=between ;;
	esac
	count[$found]=$((${count[$found]:-0} + 1))
	if [ $found = between ] || { [ "$mode" = error ] && [ $found = before ] && [ $status = 0 ]; }; then
		echo "$mode $number: $found, status $status: $(tr '\n' ' ' </run/said) next: $(tr '\n' ' ' </run/next)"
		diff <(echo "$before") <(state)
	fi
	[ $found != before ] || coracle "$@" >/dev/null || echo "$mode $number: the verb does not work again"
	[ "$(state)" = "$after" ] || [ $found = between ] || echo "$mode $number: the verb does not have its result"
done
chattr -i $images/web $images/shop 2>/dev/null
echo "before ${count[before]} after ${count[after]}"
