//! Disk images: partition tables and superblocks, read or rejected without a panic. What is read lies in the
//! disk.
#![no_main]

use coracle::image::disk::partitions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|disk: &[u8]| {
    for partition in partitions::read(disk).unwrap_or_default() {
        let end = partition.start.checked_add(partition.size);
        assert!(end.is_some_and(|end| end <= disk.len() as u64) && partition.size > 0);
    }
});
