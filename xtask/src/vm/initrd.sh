#!/bin/busybox sh
# First program of a test machine: finds the root disk and goes there. The initial ramdisk is a
# tmpfs, which the kernel's measurement policy leaves out.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
while read -r module; do
    insmod "/modules/$module" || echo "initrd: $module was not loaded"
done < /modules/order
tries=0
while [ ! -b /dev/vdb ] && [ $tries -lt 300 ]; do
    usleep 100000
    tries=$((tries + 1))
done
mount -t ext4 /dev/vdb /root || echo "initrd: no root disk"
for place in proc sys dev; do umount -l /$place; done
exec switch_root /root /sbin/init
