# Boots systemd as the first process of its own namespaces, over a copy-on-write view of the files of this machine.
# Arguments: an empty directory, whose name the branch of cgroups gets, and what is to be /usr/local/bin/pierglass.
set -eu
work=$1 program=$2
root=$work/root
if [ -z "${in_branch-}" ]; then
	mount --make-rprivate /
	mount -t tmpfs pierglass-test "$work"
	mkdir "$work/cgroups" "$work/upper" "$work/work" "$root"
	# systemd takes the root of what it sees for its own.
	mount -t cgroup2 cgroup2 "$work/cgroups"
	branch=$work/cgroups/$(basename "$work")
	mkdir "$branch"
	echo 0 >"$branch/cgroup.procs"
	umount "$work/cgroups"
	in_branch=1 exec unshare --cgroup sh "$0" "$@"
fi
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" pierglass-test "$root"
mount -t proc proc "$root/proc"
# What it may not write, systemd takes for the host's business (https://systemd.io/CONTAINER_INTERFACE).
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for directory in run tmp dev; do
	mount -t tmpfs pierglass-test "$root/$directory"
done
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
# PrivateDevices= copies it.
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
touch "$root/usr/local/bin/pierglass"
mount --bind "$program" "$root/usr/local/bin/pierglass"
mkdir "$root/old"
cd "$root"
pivot_root . old
umount --lazy /old
# Credentials are mounted elsewhere and must be seen here; in a container systemd takes this for done.
mount --make-rshared /
container=pierglass-test exec /lib/systemd/systemd --unit=basic.target
