#!/bin/busybox sh
# Process 1 of a test machine: mounts, loads modules, runs one scenario, stops. What the scenario
# prints goes to the host through a port of its own; everything else to the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf -o mode=0700 none /sys/fs/bpf
mount -t tracefs none /sys/kernel/tracing
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mkdir -p /run/netns
word() {
    for given in $(cat /proc/cmdline); do
        case $given in
            "$1"=*) echo "${given#*=}" ;;
        esac
    done
}
load() {
    while read -r module; do
        # The ramdisk has loaded some.
        [ -d "/sys/module/${module%.ko}" ] && continue
        insmod "/modules/$module" || echo "init: $module was not loaded"
    done < "/modules/$1"
}
load tests
[ -n "$(word bailiwick.modules)" ] && load "$(word bailiwick.modules)"
# The one port of the one virtio console.
tries=0
while [ ! -c /dev/vport*p1 ] && [ $tries -lt 100 ]; do
    usleep 100000
    tries=$((tries + 1))
done
port=$(echo /dev/vport*p1)
scenario=$(word bailiwick.scenario)
cd /
{
    timeout -s KILL "$(word bailiwick.limit)" /usr/bin/bailiwick-vm-guest "$scenario"
    echo "{\"end\": $?}"
} > "$port"
sync
reboot -f
