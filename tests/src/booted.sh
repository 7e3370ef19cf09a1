#!/bin/sh
# Becomes systemd as process 1 of its own namespaces, on a copy of this machine's root that nothing written to outlives.
# $1: an empty directory; $2: a directory that is laid over the root (links in it are followed); $3: the tree for /etc/pve, or nothing: then there is no /etc/pve.
# Says "skip: <why>" and ends if this machine does not let us.
set -eu
skip() { echo "skip: $1"; exit 0; }
work=$1 over=$2 tree=$3
mount --make-rprivate / || skip "no mount namespace"
mount -t tmpfs tmpfs "$work" || skip "no tmpfs"
mkdir "$work/upper" "$work/work" "$work/root"
root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root" || skip "no overlay file system over /"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || skip "no cgroup2"
mount -t bpf bpf "$root/sys/fs/bpf"
if [ -e /sys/kernel/rcu_expedited ]; then
	mount --bind /sys/kernel/rcu_expedited "$root/sys/kernel/rcu_expedited"
fi
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"

units=$root/etc/systemd/system
rm -rf "$units" "$root/etc/fstab" "$root/var/log/journal" "$root/var/lib/tapwall" "$root/etc/tapwall" "$root/etc/pve" "$root/etc/machine-id"
mkdir -p "$units"
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
# What would change the machine that this runs on, or needs one of its own.
for unit in systemd-sysctl systemd-remount-fs systemd-modules-load systemd-udevd systemd-udev-trigger systemd-random-seed systemd-binfmt \
	systemd-timesyncd systemd-hwdb-update systemd-update-utmp systemd-pstore; do
	ln -s /dev/null "$units/$unit.service"
done
for unit in dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
	sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount systemd-udevd-control.socket systemd-udevd-kernel.socket; do
	ln -s /dev/null "$units/$unit"
done
# A container's, which keeps packages from starting services.
rm -f "$root/usr/sbin/policy-rc.d"
# What this machine may have of Tapwall.
rm -f "$root/usr/sbin/fw-agent" "$root/usr/sbin/fwctl" "$root/usr/lib/systemd/system/tapwall.service"
rm -rf "$root/var/log/pve-firewall.log" "$root/var/log/tapwall.log" "$root/var/lib/logrotate/status" "$root/etc/logrotate.d/tapwall"
cp -rL "$over/." "$root/"
if [ -n "$tree" ]; then
	mkdir -p "$root/etc/pve"
	mount --bind "$tree" "$root/etc/pve"
fi
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=tapwall PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target --show-status=0 --log-target=null
